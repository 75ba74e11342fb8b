#include "tokenizer/tokenizer_files.h"
#include "support/paths.h"

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

std::vector<std::string> golden_strings() {
  std::vector<std::string> texts;
  for (const json& line : read_json_lines(tokenizer_data("strings.jsonl"))) {
    texts.push_back(from_hex(line.at("hex").get<std::string>()));
  }
  return texts;
}

std::vector<TokenSpan> read_spans(const json& pairs) {
  std::vector<TokenSpan> spans;
  for (const json& pair : pairs) spans.push_back({pair[0].get<size_t>(), pair[1].get<size_t>()});
  return spans;
}

TruncateFrom read_truncation(const json& from) {
  if (from.is_number()) return {.side = TruncateFrom::Side::index, .index = from.get<int32_t>()};
  return {.side = from == "left" ? TruncateFrom::Side::left : TruncateFrom::Side::right};
}

/// tokenizer.json as info.json describes it.
std::string minilm_json(bool is_cased) {
  json tokenizer = json::parse(read_file(tokenizer_data("minilm_wordpiece/info.json")));
  if (is_cased) tokenizer["normalizer"].update({{"lowercase", false}, {"strip_accents", false}});
  tokenizer["model"] = {{"type", "WordPiece"},
                        {"unk_token", "[UNK]"},
                        {"continuing_subword_prefix", "##"},
                        {"max_input_chars_per_word", 100},
                        {"vocab", json::object()}};
  tokenizer["added_tokens"] = json::array();
  std::istringstream lines(read_file(tokenizer_data("minilm_wordpiece/vocab.txt")));
  int id = 0;
  for (std::string token; std::getline(lines, token); ++id) {
    tokenizer["model"]["vocab"][token] = id;
    const bool is_special =
        token == "[PAD]" || token == "[UNK]" || token == "[CLS]" || token == "[SEP]" || token == "[MASK]";
    if (is_special) {
      tokenizer["added_tokens"].push_back({{"id", id}, {"content", token}, {"special", true}, {"normalized", false}});
    }
  }
  return tokenizer.dump();
}

}  // namespace

std::string tokenizer_data(const std::string& name) {
  return test_data() + "/tokenizers/" + name;
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
const Tokenizer& gpt2_tokenizer() {
  static const auto tokenizer = load_tokenizer(tokenizer_data("gpt2"));
  return *tokenizer;
}
const Tokenizer& roberta_tokenizer() {
  static const auto tokenizer = load_tokenizer(tokenizer_data("roberta"));
  return *tokenizer;
}
const Tokenizer& openai_gpt_tokenizer() {
  static const auto tokenizer = load_tokenizer(tokenizer_data("openai_gpt"));
  return *tokenizer;
}
const Tokenizer& rwkv_tokenizer() {
  static const auto tokenizer = load_tokenizer(unpack("rwkv_world/rwkv_vocab_v20230424.txt"));
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
std::shared_ptr<const Tokenizer> sentencepiece_encoder_tokenizer() {
  std::string model = read_file(tokenizer_data("spm_unigram/spm.model"));
  model.replace(model.find("<pad>"), 5, "[CLS]");
  const size_t text = model.find("<ctrl>");  // behind the lengths of the piece, of the field's tag and of the text
  --model[text - 3];
  --model[text - 1];
  model.replace(text, 6, "[SEP]");
  return load_tokenizer(write_file("encoder.model", model));
}

const Tokenizer& t5_tokenizer() {
  static const auto tokenizer =
      load_tokenizer(write_file("t5_unigram/tokenizer.json", json::parse(unigram_golden())[0]["tokenizer"].dump()));
  return *tokenizer;
}

const Tokenizer& minilm_tokenizer() {
  static const auto tokenizer = load_tokenizer(write_file("minilm/tokenizer.json", minilm_json(/*is_cased=*/false)));
  return *tokenizer;
}
const Tokenizer& minilm_cased_tokenizer() {
  static const auto tokenizer =
      load_tokenizer(write_file("minilm_cased/tokenizer.json", minilm_json(/*is_cased=*/true)));
  return *tokenizer;
}
const Tokenizer& minilm_vocabulary_tokenizer() {
  static const auto tokenizer = load_tokenizer(tokenizer_data("minilm_wordpiece"));
  return *tokenizer;
}

std::string unigram_golden() {
  json golden = json::parse(read_file(unpack("unigram.json")));
  for (json& example : golden["cases"]) {
    json& normalizer = example["tokenizer"]["normalizer"];
    if (normalizer.is_null()) continue;
    if (normalizer["type"] != "Sequence") normalizer = {{"type", "Sequence"}, {"normalizers", {normalizer}}};
    for (json& stage : normalizer["normalizers"]) {
      if (stage["type"] == "Precompiled") stage["precompiled_charsmap"] = golden["charsmap"];
    }
  }
  return golden["cases"].dump();
}

std::vector<GoldenRow> read_golden(const std::string& folder, const std::string& file) {
  const std::vector<std::string> texts = golden_strings();
  std::vector<GoldenRow> rows;
  const std::string path = tokenizer_data(std::string(folder).append("/").append(file));
  for (const json& line : read_json_lines(path)) {
    GoldenRow row;
    row.label = line.contains("i") ? line["i"].dump() : line["raw_hex"].dump();
    row.text = line.contains("i") ? texts.at(line["i"].get<size_t>()) : from_hex(line["raw_hex"].get<std::string>());
    row.ids = line.at("ids").get<std::vector<int32_t>>();
    row.offsets = read_spans(line.value("offsets", json::array()));
    if (line.contains("ids_special")) row.ids_special = line["ids_special"].get<std::vector<int32_t>>();
    if (line.contains("decode")) row.decoded = from_hex(line["decode"].get<std::string>());
    if (line.contains("decode_skip")) row.decoded_skip = from_hex(line["decode_skip"].get<std::string>());
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<GoldenPair> read_golden_pairs(const std::string& folder) {
  const std::vector<std::string> texts = golden_strings();
  std::vector<GoldenPair> pairs;
  for (const json& line : read_json_lines(tokenizer_data(folder + "/golden_pairs.jsonl"))) {
    pairs.push_back({.first = texts.at(line["a"].get<size_t>()),
                     .second = texts.at(line["b"].get<size_t>()),
                     .encoding = {.ids = line["ids"].get<std::vector<int32_t>>(),
                                  .segment_ids = line["type_ids"].get<std::vector<int32_t>>()}});
  }
  return pairs;
}

std::vector<Bert4kerasText> read_bert4keras_texts() {
  std::vector<Bert4kerasText> rows;
  for (const json& line : read_json_lines(tokenizer_data("minilm_wordpiece/bert4keras.jsonl"))) {
    if (!line.contains("text")) continue;
    rows.push_back({.label = line.dump(),
                    .text = from_hex(line["text"].get<std::string>()),
                    .lowercase = line["lower"].get<bool>(),
                    .ids = line["ids"].get<std::vector<int32_t>>(),
                    .decoded = from_hex(line["decoded"].get<std::string>()),
                    .spans = std::nullopt});
    if (!line["spans"].is_null()) rows.back().spans = read_spans(line["spans"]);
  }
  return rows;
}

std::vector<Bert4kerasPair> read_bert4keras_pairs() {
  std::vector<Bert4kerasPair> rows;
  for (const json& line : read_json_lines(tokenizer_data("minilm_wordpiece/bert4keras.jsonl"))) {
    if (!line.contains("first")) continue;
    rows.push_back(
        {.label = line.dump(),
         .first = from_hex(line["first"].get<std::string>()),
         .second = std::nullopt,
         .options = {.max_length = line["max_length"].get<size_t>(), .truncate_from = read_truncation(line["from"])},
         .encoding = {.ids = line["ids"].get<std::vector<int32_t>>(),
                      .segment_ids = line["segment_ids"].get<std::vector<int32_t>>()}});
    if (!line["second"].is_null()) rows.back().second = from_hex(line["second"].get<std::string>());
  }
  return rows;
}

std::vector<WordCut> read_word_cuts() {
  std::vector<WordCut> rows;
  for (const json& line : read_json_lines(tokenizer_data("words/golden.jsonl"))) {
    rows.push_back({.text = from_hex(line["text"].get<std::string>()), .words = {}});
    for (const json& word : line["words"]) rows.back().words.push_back(from_hex(word.get<std::string>()));
  }
  return rows;
}

}  // namespace weft::test
