#include "launcher/new_tokens.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "models/model_config.h"
#include "models/tokenizer_files.h"
#include "tokenizer/loaders.h"
#include "tokenizer/text_file.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_settings.h"
#include "tokenizer/unicode.h"
#include "tokenizer/wordpiece_vocabulary.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWhiteSpace = " \t\v\f\r";

struct Line {
  std::string token;
  size_t number;
};

std::vector<Line> read_lines(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail_input("{}: cannot be opened", printable(file));
  std::vector<Line> lines;
  for (std::string line; std::getline(stream, line);) {
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back({line, lines.size() + 1});
  }
  if (lines.empty()) fail_input("{}: holds no tokens; write one a line", printable(file));
  return lines;
}

/// As the folder that is written will have it: without a sentencepiece model beside a tokenizer.json. Throws for files
/// of a kind that tokens cannot be added to.
std::shared_ptr<const Tokenizer> load_growing_tokenizer(const OpenedModel& opened) {
  fs::path folder = is_folder(opened.path) ? fs::path(opened.path) : fs::path(opened.path).parent_path();
  std::string json = (folder / "tokenizer.json").string();
  if (is_plain_file(json)) {
    std::string settings_folder = folder.empty() ? "." : folder.string();
    return load_tokenizer_json_text(read_whole_file(json), json, read_tokenizer_settings(settings_folder));
  }
  std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(opened.path);
  if (is_plain_file(folder / "vocab.txt") && tokenizer->type() == "wordpiece") return tokenizer;
  fail_input("{}: tokens can be added to a vocab.txt of WordPiece or a tokenizer.json, not to its {} tokenizer",
             printable(opened.path),
             tokenizer->type());
}

void check_config(const OpenedModel& opened) {
  if (opened.format == ModelFormat::gguf) {
    fail_input("{}: tokens cannot be added to a GGUF file; convert the model that it was made from",
               printable(opened.path));
  }
  for (const char* key : {"keep_tokens", "compound_tokens"}) {
    if (!opened.config->has(key)) continue;
    fail_input("{}: '{}' cuts the vocabulary already; convert once without --add-tokens",
               printable(opened.config->path()),
               key);
  }
}

/// Those whose rows become more where the vocabulary does.
std::set<std::string, std::less<>> vocabulary_parameters(const ModelOptions& options, const OpenedModel& opened) {
  std::unique_ptr<LanguageModel> model = opened.make({});
  std::unique_ptr<LanguageModel> larger = open_model(with_vocab_size(options, opened.info().vocab_size + 1)).make({});
  std::set<std::string, std::less<>> names;
  for (const Parameter& parameter : model->parameters().all()) {
    const Parameter* other = larger->parameters().find(parameter.name);
    if (other == nullptr || other->full_shape == parameter.full_shape) continue;
    if (other->full_shape[0] != parameter.full_shape[0] + 1) {
      fail_input("{}: {} grows with the vocabulary, but not by rows; tokens cannot be added to this model",
                 printable(opened.path),
                 parameter.name);
    }
    names.insert(parameter.name);
  }
  return names;
}

void check_token(const Line& line, const std::string& file, const Tokenizer& tokenizer) {
  const std::string& token = line.token;
  auto refuse = [&](std::string_view why) {
    fail_input("{}: line {}: token '{}' {}", printable(file), line.number, printable(token), why);
  };
  if (token.find_first_not_of(kWhiteSpace) == std::string::npos) {
    fail_input("{}: line {} holds no token", printable(file), line.number);
  }
  if (!is_valid_utf8(token) || token.find('\0') != std::string::npos) refuse("is no UTF-8 text");
  if (kWhiteSpace.find(token.front()) != std::string_view::npos ||
      kWhiteSpace.find(token.back()) != std::string_view::npos) {
    refuse("begins or ends with white space");
  }
  if (tokenizer.type() == "wordpiece" && token.find_first_of(kWhiteSpace) != std::string::npos) {
    refuse("holds white space, which no token of WordPiece does");
  }
  if (tokenizer.token_to_id(token)) refuse("is in the vocabulary already");
}

}  // namespace

std::vector<float> NewTokens::grown(const std::vector<float>& values, int64_t width) const {
  std::vector<float> all = values;
  all.resize(static_cast<size_t>(vocab_size * width));
  for (size_t i = 0; i < tokens.size(); ++i) {
    float* row = all.data() + (first_id + static_cast<int64_t>(i)) * width;
    for (int64_t column = 0; column < width; ++column) {
      double sum = 0;
      for (int32_t id : pieces[i]) sum += static_cast<double>(values[static_cast<size_t>(id * width + column)]);
      row[column] = static_cast<float>(sum / static_cast<double>(pieces[i].size()));
    }
  }
  return all;
}

NewTokens read_new_tokens(const std::string& file, const ModelOptions& options, const OpenedModel& opened) {
  check_config(opened);
  std::shared_ptr<const Tokenizer> tokenizer = load_growing_tokenizer(opened);
  NewTokens result;
  result.first_id = tokenizer->vocab_size();
  if (result.first_id > opened.info().vocab_size) {
    fail_input("{}: the model has {} tokens, its tokenizer {}; they do not belong together",
               printable(opened.path),
               opened.info().vocab_size,
               result.first_id);
  }
  std::map<std::string, size_t> first_lines;
  for (const Line& line : read_lines(file)) {
    check_token(line, file, *tokenizer);
    auto [first, is_new] = first_lines.emplace(line.token, line.number);
    if (!is_new) {
      fail_input("{}: line {}: token '{}' stands in line {} too",
                 printable(file),
                 line.number,
                 printable(line.token),
                 first->second);
    }
    result.tokens.push_back(line.token);
    result.pieces.push_back(tokenizer->encode(line.token, false));
    if (result.pieces.back().empty()) {
      fail_input("{}: line {}: the tokenizer finds nothing in token '{}'",
                 printable(file),
                 line.number,
                 printable(line.token));
    }
  }
  result.vocab_size = std::max(opened.info().vocab_size, result.first_id + static_cast<int64_t>(result.tokens.size()));
  result.parameters = vocabulary_parameters(options, opened);
  return result;
}

ModelOptions with_vocab_size(const ModelOptions& options, int64_t vocab_size) {
  ModelOptions model = options;
  model.set.push_back(fmt::format("vocab_size={}", vocab_size));
  return model;
}

void write_new_tokens(const NewTokens& tokens, const std::string& folder) {
  add_tokens_to_files(folder, tokens.tokens, tokens.first_id);
  std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(folder);
  std::vector<std::string> unseen;
  for (size_t i = 0; i < tokens.tokens.size(); ++i) {
    auto id = static_cast<int32_t>(tokens.first_id + static_cast<int64_t>(i));
    std::vector<int32_t> ids = tokenizer->encode(tokens.tokens[i], false);
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) unseen.push_back(printable(tokens.tokens[i], 40));
  }
  if (unseen.empty()) return;
  log::warning("{} of the new tokens are never found in a text, as the tokenizer cuts or changes them before: {}",
               unseen.size(),
               fmt::join(unseen, ", "));
}

void write_compound_tokens(const OpenedModel& opened, const std::string& folder) {
  std::vector<std::vector<int64_t>> compound;
  for (auto& one : opened.config->weighted_ids("compound_tokens")) compound.push_back(std::move(one.ids));
  if (compound.empty() || !is_plain_file(folder + "/vocab.txt")) return;
  std::vector<std::string> vocabulary = read_wordpiece_vocabulary(folder + "/vocab.txt").tokens;
  auto first_id = static_cast<int64_t>(vocabulary.size());
  bool lacks_them = first_id + static_cast<int64_t>(compound.size()) == opened.info().vocab_size;
  if (!lacks_them || load_tokenizer(folder)->vocab_size() != first_id) return;
  add_tokens_to_files(folder, compound_token_names(vocabulary, compound), first_id);
}

}  // namespace weft
