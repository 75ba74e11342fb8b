#include "tokenizer/tokenizer.h"

#include <fmt/ranges.h>

#include <array>
#include <filesystem>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "core/paths.h"
#include "tokenizer/loaders.h"
#include "tokenizer/text_file.h"

namespace weft {

namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 6> kFolderFiles = {
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model"};

/// Copies of one model in several quantisations carry the same tokenizer, but only one is unambiguous.
std::string only_gguf_in(const fs::path& folder) {
  std::string found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".gguf") continue;
    if (!found.empty()) fail_input("{}: holds several .gguf files; name one of them", folder.string());
    found = entry.path().string();
  }
  return found;
}

std::string find_tokenizer_file(const fs::path& folder) {
  for (const char* name : kFolderFiles) {
    if (path_exists(folder / name)) return (folder / name).string();
  }
  std::string gguf = only_gguf_in(folder);
  if (gguf.empty()) {
    fail_input("{}: no tokenizer here; looked for {} and *.gguf", folder.string(), fmt::join(kFolderFiles, ", "));
  }
  return gguf;
}

std::shared_ptr<const Tokenizer> load_tokenizer_file(const fs::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".gguf") return load_gguf_tokenizer(*read_gguf_metadata(file.string()));
  const std::string folder = file.has_parent_path() ? file.parent_path().string() : ".";
  if (extension == ".json") {
    return load_tokenizer_json_text(read_whole_file(file.string()), file.string(), read_tokenizer_settings(folder));
  }
  if (extension == ".model" || extension == ".spm") {
    return load_sentencepiece_bytes(read_whole_file(file.string()), file.string(), read_tokenizer_settings(folder));
  }
  fail_input(
      "{}: not a tokenizer that Weft knows; expected a folder, tokenizer.json, a sentencepiece .model or a .gguf file",
      file.string());
}

}  // namespace

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path) {
  const fs::path file(path);
  if (!path_exists(file)) fail_input("{}: no such file or folder", path);
  if (is_folder(file)) return load_tokenizer_file(find_tokenizer_file(file));
  // Weights alone: the tokenizer lies beside them.
  if (file.extension() == ".safetensors" || file.extension() == ".h5") {
    return load_tokenizer_file(find_tokenizer_file(file.has_parent_path() ? file.parent_path() : fs::path(".")));
  }
  return load_tokenizer_file(file);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  const std::unique_ptr<TokenDecoder> decoder = start_decoding(skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) decoder->push(id, text);
  decoder->finish(text);
  return text;
}

StreamingDecoder::StreamingDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : decoder_(tokenizer.start_decoding(skip_special_tokens)) {}

std::string StreamingDecoder::push(int32_t id) {
  std::string text;
  decoder_->push(id, text);
  return text;
}

std::string StreamingDecoder::finish() {
  std::string text;
  decoder_->finish(text);
  return text;
}

}  // namespace weft
