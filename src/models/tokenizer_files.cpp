#include "models/tokenizer_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "checkpoint/file.h"
#include "checkpoint/output_file.h"
#include "core/error.h"
#include "core/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string read_whole(const fs::path& path) {
  File file(path.string());
  std::string bytes(static_cast<size_t>(file.size()), '\0');
  file.read(0, bytes.data(), file.size());
  return bytes;
}

void add_lines(const fs::path& path, const std::vector<std::string>& tokens, int64_t first_id) {
  std::string text = read_whole(path);
  if (!text.empty() && !text.ends_with('\n')) text += '\n';
  auto lines = std::count(text.begin(), text.end(), '\n');
  if (lines != first_id) {
    fail_input("{}: has {} lines, but the first new token is to have the id {}; tokens cannot be added to it",
               printable(path.string()),
               lines,
               first_id);
  }
  for (const std::string& token : tokens) text += token + "\n";
  write_whole_file(path.string(), text);
}

void add_to_json(const fs::path& path, const std::vector<std::string>& tokens, int64_t first_id) {
  Json document;
  try {
    document = Json::parse(read_whole(path));
  } catch (const Json::exception& error) {
    fail_input("{}: not valid JSON: {}", printable(path.string()), printable(error.what(), 200));
  }
  Json& added = document["added_tokens"];
  if (!added.is_array()) added = Json::array();
  for (const std::string& token : tokens) {
    added.push_back({{"id", first_id++},
                     {"content", token},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", false}});
  }
  write_whole_file(path.string(), document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace

void add_tokens_to_files(const std::string& folder, const std::vector<std::string>& tokens, int64_t first_id) {
  fs::path lines = fs::path(folder) / "vocab.txt", json = fs::path(folder) / "tokenizer.json";
  bool has_lines = is_plain_file(lines), has_json = is_plain_file(json);
  if (!has_lines && !has_json) {
    fail_input("{}: tokens can be added to a vocab.txt or a tokenizer.json only, and the model has neither",
               printable(folder));
  }
  if (has_lines) add_lines(lines, tokens, first_id);
  if (!has_json) return;
  add_to_json(json, tokens, first_id);
  for (const char* name :
       {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model"}) {
    fs::remove(fs::path(folder) / name);
  }
}

std::vector<std::string> compound_token_names(const std::vector<std::string>& vocabulary,
                                              const std::vector<std::vector<int64_t>>& compound_tokens) {
  std::set<std::string> taken(vocabulary.begin(), vocabulary.end());
  std::vector<std::string> names;
  for (const std::vector<int64_t>& ids : compound_tokens) {
    std::string name;
    for (int64_t id : ids) {
      std::string_view piece = vocabulary.at(static_cast<size_t>(id));
      if (!name.empty() && piece.starts_with("##")) piece.remove_prefix(2);
      name += piece;
    }
    if (name.empty() || !taken.insert(name).second) {
      name = fmt::format("[compound{}]", names.size());
      taken.insert(name);
    }
    names.push_back(name);
  }
  return names;
}

}  // namespace weft
