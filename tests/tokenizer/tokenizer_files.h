// The reference data of the tokenizer tests: real tokenizers, and what the reference implementations make of 431
// strings.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace weft::test {

std::string tokenizer_data(const std::string& name);

/// Unpacks tests/data/tokenizers/NAME.xz into a folder of this process and returns the new file's path.
std::string unpack(const std::string& name);

std::string read_file(const std::string& path);
/// Writes a file into a folder of this process and returns its path.
std::string write_file(const std::string& name, const std::string& bytes);

/// The tokenizers of the goldens, each loaded once a process.
const Tokenizer& gemma_tokenizer();
const Tokenizer& llama3_tokenizer();
const Tokenizer& gpt2_tokenizer();
const Tokenizer& roberta_tokenizer();
const Tokenizer& openai_gpt_tokenizer();
const Tokenizer& rwkv_tokenizer();
const Tokenizer& smollm2_tokenizer();
const Tokenizer& sentencepiece_bpe_tokenizer();
const Tokenizer& sentencepiece_unigram_tokenizer();
/// The unigram model with its control pieces <pad> and <ctrl> renamed [CLS] and [SEP], which ALBERT's and DeBERTa's
/// have.
std::shared_ptr<const Tokenizer> sentencepiece_encoder_tokenizer();
/// A tokenizer.json with the vocabulary and the stages of all-MiniLM-L6-v2, and the same without lower casing.
const Tokenizer& minilm_tokenizer();
const Tokenizer& minilm_cased_tokenizer();
/// The same vocabulary as vocab.txt.
const Tokenizer& minilm_vocabulary_tokenizer();
/// A tokenizer.json of type Unigram as transformers saves it for T5.
const Tokenizer& t5_tokenizer();

/// The list of unigram.json.xz (make_unigram_golden.py), complete tokenizers in it.
std::string unigram_golden();

struct GoldenRow {
  std::string label;  // the row's number in its file
  std::string text;   // bytes, not always valid UTF-8
  std::vector<int32_t> ids;
  std::vector<TokenSpan> offsets;                   // of ids, in characters, where the file has them
  std::optional<std::vector<int32_t>> ids_special;  // with the post-processor
  std::optional<std::string> decoded;               // of ids, special tokens kept
  std::optional<std::string> decoded_skip;          // of ids_special, special tokens left out
};

/// The rows of tests/data/tokenizers/FOLDER/FILE.
std::vector<GoldenRow> read_golden(const std::string& folder, const std::string& file = "golden.jsonl");

struct GoldenPair {
  std::string first;
  std::string second;
  PairEncoding encoding;
};
std::vector<GoldenPair> read_golden_pairs(const std::string& folder);

/// The rows of bert4keras.jsonl (make_bert4keras_golden.py).
struct Bert4kerasText {
  std::string label;
  std::string text;
  bool lowercase = false;
  std::vector<int32_t> ids;
  std::string decoded;
  std::optional<std::vector<TokenSpan>> spans;  // in characters
};
struct Bert4kerasPair {
  std::string label;
  std::string first;
  std::optional<std::string> second;
  EncodePairOptions options;
  PairEncoding encoding;
};
std::vector<Bert4kerasText> read_bert4keras_texts();
std::vector<Bert4kerasPair> read_bert4keras_pairs();

struct WordCut {
  std::string text;
  std::vector<std::string> words;
};
/// The rows of words/golden.jsonl (make_words_golden.py).
std::vector<WordCut> read_word_cuts();

}  // namespace weft::test
