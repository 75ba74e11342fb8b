// RWKV's World tokenizer: the longest token that the rest of the text starts with, over bytes.
#include "core/error.h"
#include "tokenizer/byte_trie.h"
#include "tokenizer/loaders.h"
#include "tokenizer/rwkv_vocabulary.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace weft {

namespace {

// Ends texts and fills rows; it has no token.
constexpr int32_t kEndId = 0;

class RwkvDecoder : public TokenDecoder {
 public:
  explicit RwkvDecoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}
  void push(int32_t id, std::string& out) override { joiner_.push(vocabulary_.token(id), out); }
  void finish(std::string& out) override { joiner_.finish(out); }

 private:
  const Vocabulary& vocabulary_;
  Utf8Joiner joiner_;
};

class RwkvTokenizer : public Tokenizer {
 public:
  using Tokenizer::encode;

  RwkvTokenizer(const RwkvVocabulary& vocabulary, const TokenizerSettings& settings)
      : vocabulary_(vocabulary.tokens.size()), chat_template_(settings.chat_template) {
    for (size_t id = 1; id < vocabulary.tokens.size(); ++id) {
      const std::string& token = vocabulary.tokens[id];
      if (token.empty()) continue;
      vocabulary_.add(token, static_cast<int32_t>(id));
      trie_.insert(0, token, static_cast<int32_t>(id));
    }
    for (size_t byte = 0; byte < 256; ++byte) {
      if (vocabulary_.find(std::string(1, static_cast<char>(byte))) >= 0) continue;
      fail_input(
          "{}: no token for the byte 0x{:02x}; each byte needs one; is the file complete?", vocabulary.where, byte);
    }
  }

  std::string_view type() const override { return "rwkv"; }
  int32_t vocab_size() const override { return vocabulary_.size(); }

  /// The text's bytes as they are: no token adds to them, and none is special.
  std::vector<int32_t> encode(std::string_view text, bool, SpecialsInText) const override {
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3 + 16);
    while (!text.empty()) {
      const ByteTrie::Match match = trie_.longest_match(0, text);
      ids.push_back(match.value);
      text.remove_prefix(match.length);
    }
    return ids;
  }

  std::vector<TokenSpan> encode_with_offsets(std::string_view text,
                                             std::vector<int32_t>& ids,
                                             SpecialsInText specials) const override {
    ids = encode(text, false, specials);
    std::vector<TokenSpan> spans;
    size_t begin = 0;
    for (const int32_t id : ids) {
      const size_t end = begin + vocabulary_.token(id).size();
      spans.push_back({begin, end});
      begin = end;
    }
    return spans;
  }

  std::unique_ptr<TokenDecoder> start_decoding(bool) const override {
    return std::make_unique<RwkvDecoder>(vocabulary_);
  }

  std::optional<int32_t> token_to_id(std::string_view token) const override {
    const int32_t id = vocabulary_.find(token);
    return id < 0 ? std::nullopt : std::optional(id);
  }
  std::string id_to_token(int32_t id) const override { return std::string(vocabulary_.token(id)); }
  bool is_special(int32_t id) const override { return id == kEndId; }
  std::optional<int32_t> pad_id() const override { return kEndId; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  const std::vector<int32_t>& end_ids() const override { return end_ids_; }
  const std::string& chat_template() const override { return chat_template_; }

 private:
  Vocabulary vocabulary_;
  ByteTrie trie_;
  std::vector<int32_t> end_ids_ = {kEndId};
  std::string chat_template_;
};

}  // namespace

std::shared_ptr<const Tokenizer> load_rwkv_text(std::string_view text,
                                                const std::string& where,
                                                const TokenizerSettings& settings) {
  return std::make_shared<RwkvTokenizer>(parse_rwkv_vocabulary(text, where), settings);
}

}  // namespace weft
