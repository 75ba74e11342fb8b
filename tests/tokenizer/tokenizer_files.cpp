#include "tokenizer/tokenizer_files.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace weft::test {

namespace {

using nlohmann::json;

class ScratchFolder {
 public:
  ScratchFolder()
      : path_(std::filesystem::temp_directory_path() / ("weft_tokenizer_test_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

const std::filesystem::path& scratch_folder() {
  static const ScratchFolder folder;
  return folder.path();
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::vector<json> read_json_lines(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
  return lines;
}

}  // namespace

std::string tokenizer_data(const std::string& name) {
  return std::string(WEFT_TEST_DATA) + "/tokenizers/" + name;
}

std::string unpack(const std::string& name) {
  const std::filesystem::path file = scratch_folder() / name;
  std::filesystem::create_directories(file.parent_path());
  const std::string command = "xz -dc '" + tokenizer_data(name) + ".xz' > '" + file.string() + "'";
  if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
  return file.string();
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

std::string write_file(const std::string& name, const std::string& bytes) {
  const std::filesystem::path file = scratch_folder() / name;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << bytes;
  return file.string();
}

const Tokenizer& gemma_tokenizer() {
  static const auto tokenizer = load_tokenizer(unpack("gemini/tokenizer.json"));
  return *tokenizer;
}
const Tokenizer& llama3_tokenizer() {
  static const auto tokenizer = load_tokenizer(unpack("llama3_1/tokenizer.json"));
  return *tokenizer;
}
const Tokenizer& smollm2_tokenizer() {
  static const auto tokenizer = load_tokenizer(unpack("smollm2/tokenizer.gguf"));
  return *tokenizer;
}
const Tokenizer& sentencepiece_bpe_tokenizer() {
  static const auto tokenizer = load_tokenizer(tokenizer_data("spm_bpe/spm.model"));
  return *tokenizer;
}
const Tokenizer& sentencepiece_unigram_tokenizer() {
  static const auto tokenizer = load_tokenizer(tokenizer_data("spm_unigram/spm.model"));
  return *tokenizer;
}

std::vector<GoldenRow> read_golden(const std::string& folder) {
  std::vector<std::string> texts;
  for (const json& line : read_json_lines(tokenizer_data("strings.jsonl"))) {
    texts.push_back(from_hex(line.at("hex").get<std::string>()));
  }
  std::vector<GoldenRow> rows;
  for (const json& line : read_json_lines(tokenizer_data(folder + "/golden.jsonl"))) {
    GoldenRow row;
    row.label = line.contains("i") ? line["i"].dump() : line["raw_hex"].dump();
    row.text = line.contains("i") ? texts.at(line["i"].get<size_t>()) : from_hex(line["raw_hex"].get<std::string>());
    row.ids = line.at("ids").get<std::vector<int32_t>>();
    if (line.contains("ids_special")) row.ids_special = line["ids_special"].get<std::vector<int32_t>>();
    if (line.contains("decode")) row.decoded = from_hex(line["decode"].get<std::string>());
    if (line.contains("decode_skip")) row.decoded_skip = from_hex(line["decode_skip"].get<std::string>());
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace weft::test
