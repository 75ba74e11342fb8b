#include "tokenizer/wordpiece.h"

#include <algorithm>

#include "core/error.h"
#include "tokenizer/word_cache.h"

namespace weft {

namespace {

constexpr int64_t kMaxWordCharactersLimit = 1000;
// The largest published vocabulary has 5 MB. Each byte may cost two nodes, whose numbers have 24 bits.
constexpr size_t kMaxPieceBytes = 8'000'000;

struct WordPieceScratch : ModelScratch {
  WordCache cache;
};

size_t num_characters(std::string_view text) {
  const auto is_lead = [](char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; };
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), is_lead));
}

}  // namespace

WordPieceModel::WordPieceModel(const Vocabulary& vocabulary, const WordPieceOptions& options)
    : max_word_characters_(static_cast<size_t>(options.max_word_characters)),
      unknown_id_(vocabulary.find(options.unknown_token)) {
  if (options.max_word_characters < 1 || options.max_word_characters > kMaxWordCharactersLimit) {
    fail_input("{}: a word of at most {} characters, expected 1 to {}",
               options.where,
               options.max_word_characters,
               kMaxWordCharactersLimit);
  }
  if (unknown_id_ < 0) {
    fail_input("{}: the unknown token '{}' is not in the vocabulary", options.where, printable(options.unknown_token));
  }
  size_t num_bytes = 0;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view piece = vocabulary.token(id);
    num_bytes += piece.size();
    if (num_bytes > kMaxPieceBytes) {
      fail_input("{}: more than {} bytes of WordPiece tokens; is this a vocabulary?", options.where, kMaxPieceBytes);
    }
    pieces_.insert(kWordRoot, piece, id);
    if (piece.starts_with(options.continuing_prefix)) {
      pieces_.insert(kContinuingRoot, piece.substr(options.continuing_prefix.size()), id);
    }
  }
}

bool WordPieceModel::is_too_long(std::string_view word) const {
  return word.size() > max_word_characters_ && num_characters(word) > max_word_characters_;
}

template <typename OnPiece>
bool WordPieceModel::match_pieces(std::string_view word, const OnPiece& on_piece) const {
  if (is_too_long(word)) return false;
  for (size_t begin = 0; begin < word.size();) {
    const uint32_t root = begin == 0 ? kWordRoot : kContinuingRoot;
    const ByteTrie::Match match = pieces_.longest_match(root, word.substr(begin));
    if (match.length == 0) return false;
    on_piece(match.value, begin, begin + match.length);
    begin += match.length;
  }
  return true;
}

void WordPieceModel::encode(std::string_view word,
                            const char* readable_end,
                            ModelScratch& scratch,
                            std::vector<int32_t>& ids) const {
  WordCache& cache = static_cast<WordPieceScratch&>(scratch).cache;
  const bool is_cacheable = !word.empty() && word.size() <= WordCache::kMaxWordBytes;
  WordCache::Key key;
  if (is_cacheable) {
    key = WordCache::make_key(word, readable_end);
    if (const WordCache::Slot* slot = cache.find(key)) {
      ids.insert(ids.end(), slot->ids.begin(), slot->ids.begin() + slot->num_ids);
      return;
    }
  }
  const size_t num_before = ids.size();
  if (!match_pieces(word, [&](int32_t id, size_t, size_t) { ids.push_back(id); })) {
    ids.resize(num_before);
    ids.push_back(unknown_id_);
  }
  if (is_cacheable) cache.insert(key, std::span(ids).subspan(num_before));
}

bool WordPieceModel::encode_with_spans(std::string_view word,
                                       std::vector<int32_t>& ids,
                                       std::vector<TokenSpan>& spans) const {
  const size_t num_ids = ids.size();
  const size_t num_spans = spans.size();
  const auto add = [&](int32_t id, size_t begin, size_t end) {
    ids.push_back(id);
    spans.push_back({begin, end});
  };
  if (!match_pieces(word, add)) {
    ids.resize(num_ids);
    spans.resize(num_spans);
    add(unknown_id_, 0, word.size());
  }
  return true;
}

std::unique_ptr<ModelScratch> WordPieceModel::make_scratch() const {
  return std::make_unique<WordPieceScratch>();
}

}  // namespace weft
