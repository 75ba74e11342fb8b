// One function a file format, on bytes in memory or parsed metadata; load_tokenizer chooses among them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_settings.h"

namespace weft {

class GgufMetadata;

/// All throw Error(bad_input) naming `where`.
std::shared_ptr<const Tokenizer> load_tokenizer_json_text(std::string_view text,
                                                          const std::string& where,
                                                          const TokenizerSettings& settings = {});
/// Whether a sentencepiece model's pieces have its own ids or those of fairseq (fairseq_pieces.h), with <s> and </s>
/// round texts as RoBERTa has them.
enum class PieceIds : uint8_t { own, fairseq };
std::shared_ptr<const Tokenizer> load_sentencepiece_bytes(std::string_view bytes,
                                                          const std::string& where,
                                                          const TokenizerSettings& settings = {},
                                                          PieceIds ids = PieceIds::own);
/// A vocab.txt as BERT's own: a token a line.
std::shared_ptr<const Tokenizer> load_wordpiece_text(std::string_view text,
                                                     const std::string& where,
                                                     const TokenizerSettings& settings = {});
/// vocab.json and merges.txt of GPT-2, RoBERTa or OpenAI GPT.
struct GptFiles {
  std::string_view vocabulary;
  std::string_view merges;
  std::string vocabulary_where;
  std::string merges_where;
};
std::shared_ptr<const Tokenizer> load_gpt_texts(const GptFiles& files, const TokenizerSettings& settings = {});
/// An rwkv_vocab….txt (rwkv_vocabulary.h).
std::shared_ptr<const Tokenizer> load_rwkv_text(std::string_view text,
                                                const std::string& where,
                                                const TokenizerSettings& settings = {});
std::shared_ptr<const Tokenizer> load_gguf_tokenizer(const GgufMetadata& metadata);

}  // namespace weft
