#include "models/sentence_settings.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/output_file.h"
#include "core/error.h"
#include "core/paths.h"
#include "models/model_config.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPoolingFile = "/1_Pooling/config.json";
constexpr const char* kLengthFile = "/sentence_bert_config.json";

struct Mode {
  const char* key;
  const char* name;
};
constexpr Mode kModes[] = {{"pooling_mode_cls_token", "cls"},
                           {"pooling_mode_mean_tokens", "mean"},
                           {"pooling_mode_max_tokens", "max"},
                           {"pooling_mode_mean_sqrt_len_tokens", ""},
                           {"pooling_mode_weightedmean_tokens", ""},
                           {"pooling_mode_lasttoken", "last"}};

}  // namespace

std::string read_sentence_pooling(const std::string& model) {
  std::string path = model + kPoolingFile;
  if (!is_plain_file(path)) return "";
  auto config = ModelConfig::from_json_file(path);
  // As sentence-transformers writes it from version 6 on.
  std::string named = config->string_or("pooling_mode", "");
  for (const char* known : {"cls", "mean", "max"}) {
    if (named == known) return named;
  }
  if (named == "lasttoken") return "last";
  std::string found;
  int count = 0;
  for (const Mode& mode : kModes) {
    if (!config->boolean_or(mode.key, false)) continue;
    found = mode.name;
    ++count;
  }
  if (count != 1 || found.empty()) {
    fail_input("{}: asks for pooling other than one of cls, mean, max and the last token; say which pooling to use",
               path);
  }
  return found;
}

int64_t read_sentence_length(const std::string& model) {
  std::string path = model + kLengthFile;
  if (!is_plain_file(path)) return 0;
  auto config = ModelConfig::from_json_file(path);
  return config->has("max_seq_length") ? config->size("max_seq_length") : 0;
}

bool is_regression(const ModelConfig& config) {
  return config.string_or("problem_type", "") == "regression" ||
         config.string_or("sentence_transformers.activation_fn", "").ends_with("Identity");
}

void write_sentence_settings(const std::string& folder, const std::string& pooling, int64_t length, int64_t width) {
  Json modules = Json::array(
      {{{"idx", 0}, {"name", "0"}, {"path", ""}, {"type", "sentence_transformers.models.Transformer"}},
       {{"idx", 1}, {"name", "1"}, {"path", "1_Pooling"}, {"type", "sentence_transformers.models.Pooling"}}});
  Json pooled = {{"word_embedding_dimension", width}};
  for (const Mode& mode : kModes) pooled[mode.key] = pooling == mode.name;
  std::filesystem::create_directories(folder + "/1_Pooling");
  write_whole_file(folder + "/modules.json", modules.dump(2) + "\n");
  write_whole_file(folder + kPoolingFile, pooled.dump(2) + "\n");
  write_whole_file(folder + kLengthFile, Json{{"max_seq_length", length}, {"do_lower_case", false}}.dump(2) + "\n");
}

}  // namespace weft
