// What stands beside a tokenizer: which tokens begin and end a text, and the chat template.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

struct TokenizerSettings {
  std::optional<std::string> bos_token;
  std::optional<int64_t> bos_id;
  std::vector<std::string> end_tokens;
  std::vector<int64_t> end_ids;
  std::string chat_template;
  std::string tokenizer_class;  // transformers' name; empty: not given
  std::optional<bool> add_prefix_space;
  std::optional<bool> add_bos_token;  // round a text when special tokens are asked for; of sentencepiece models
  std::optional<bool> add_eos_token;
  // Of WordPiece: where a vocab.txt is all there is.
  std::optional<bool> lowercase;
  std::optional<bool> strip_accents;
  std::optional<bool> handle_chinese_chars;
  bool segments_words = false;                 // before WordPiece: words of Chinese text
  std::optional<std::string> word_dictionary;  // the file of these words; not given: those of the vocabulary
};

/// From tokenizer_config.json, generation_config.json, config.json, chat_template.jinja and chat_template.json of a
/// model's folder; each may be absent.
TokenizerSettings read_tokenizer_settings(const std::string& folder);

/// The vocabulary as the settings need it.
struct VocabularyView {
  std::function<std::optional<int32_t>(std::string_view)> find;
  std::function<bool(int32_t)> is_special;
  int32_t size = 0;
};

std::optional<int32_t> resolve_bos(const TokenizerSettings& settings, const VocabularyView& vocabulary);
/// The settings' end tokens and the well-known ends of text and of turn that are special tokens of the vocabulary.
/// Ascending.
std::vector<int32_t> resolve_end_ids(const TokenizerSettings& settings, const VocabularyView& vocabulary);

}  // namespace weft
