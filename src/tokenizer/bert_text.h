// BERT's way from text to words (google-research/bert, tokenization.py): clean, spaces round Chinese characters,
// accents and case off, then cut at white space and round each punctuation character.
#pragma once

#include <memory>

#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_segmenter.h"

namespace weft {

/// Where implementations of the same steps differ.
enum class BertRules : uint8_t {
  tokenizer_json,  // Hugging Face's `tokenizers`: private-use characters dropped, case by single characters
  vocabulary_txt,  // the Python originals: private-use characters kept, Python's str.lower with its final sigma
};

struct BertNormalizerOptions {
  bool clean_text = true;            // control characters dropped, white space becomes the space
  bool handle_chinese_chars = true;  // a space on each side
  bool strip_accents = true;         // canonical decomposition without nonspacing marks
  bool lowercase = true;
  BertRules rules = BertRules::tokenizer_json;
};

std::unique_ptr<Normalizer> make_bert_normalizer(const BertNormalizerOptions& options);
std::unique_ptr<PreTokenizer> make_bert_split();
/// Words as the segmenter cuts them: one that is a token is a piece as it stands, the others are cut as by
/// make_bert_split, round each Chinese character as well. The vocabulary must outlive it.
std::unique_ptr<PreTokenizer> make_segmented_split(WordSegmenter segmenter, const Vocabulary& vocabulary);

/// The ideographs that stand alone. Kana and Hangul are none.
bool is_chinese_character(char32_t character, BertRules rules = BertRules::vocabulary_txt);

}  // namespace weft
