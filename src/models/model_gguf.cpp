#include "models/model_gguf.h"

#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tokenizer/gguf_vocabulary.h"

namespace weft {
namespace {

GgufValue to_value(const nlohmann::ordered_json& json) {
  if (json.is_string()) return json.get<std::string>();
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_float()) return json.get<double>();
  WEFT_ASSERT(json.is_number_integer());
  return json.get<int64_t>();
}

/// general.file_type: llama.cpp's number of what most tensors are.
int64_t file_type(DType dtype) {
  constexpr int64_t kF32 = 0, kF16 = 1, kBf16 = 32;
  return dtype == DType::bf16 ? kBf16 : dtype == DType::f16 ? kF16 : kF32;
}

}  // namespace

GgufEntries gguf_entries(const OpenedModel& opened, DType dtype) {
  if (opened.family->gguf_architectures.empty()) {
    fail_input("{} models do not exist as GGUF", opened.info().family);
  }
  std::filesystem::path path = std::filesystem::path(opened.path).lexically_normal();
  std::string name = path.has_filename() ? path.stem() : path.parent_path().filename();
  GgufEntries entries;
  const auto config = nlohmann::ordered_json::parse(opened.definition.config(ModelFormat::gguf));
  for (const auto& [key, value] : config.items()) {
    entries.emplace_back(key, to_value(value));
  }
  entries.emplace_back("general.type", "model");
  entries.emplace_back("general.name", name);
  entries.emplace_back("general.file_type", file_type(dtype));
  GgufEntries tokenizer = gguf_tokenizer_entries(opened.path, opened.info().vocab_size);
  std::move(tokenizer.begin(), tokenizer.end(), std::back_inserter(entries));
  return entries;
}

}  // namespace weft
