// A vocab.txt of any content and, behind its first NUL, any text: a clear error, or a tokenizer whose offsets lie in
// the text and whose stream is its decoding.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/unicode.h"
#include "tokenizer/wordpiece_vocabulary.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check_offsets(const weft::Tokenizer& tokenizer, std::string_view text) {
  for (const auto specials : {weft::SpecialsInText::recognised, weft::SpecialsInText::plain_text}) {
    std::vector<int32_t> ids;
    const auto spans = tokenizer.encode_with_offsets(text, ids, specials);
    require(ids == tokenizer.encode(text, false, specials) && spans.size() == ids.size());
    size_t begin = 0;
    for (const weft::TokenSpan& span : spans) {
      require(begin <= span.begin && span.begin < span.end && span.end <= text.size());
      begin = span.begin;
    }
    weft::to_characters(text, spans);
  }
}

void check_decoding(const weft::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  for (const bool skips : {false, true}) {
    const std::string decoded = tokenizer.decode(ids, skips);
    require(weft::is_valid_utf8(decoded));
    weft::StreamingDecoder decoder(tokenizer, skips);
    std::string streamed;
    for (const int32_t id : ids) streamed += decoder.push(id);
    require(streamed + decoder.finish() == decoded);
  }
}

void check_pairs(const weft::Tokenizer& tokenizer, std::string_view text) {
  for (const int32_t index : {-7, 0, 3}) {
    const weft::EncodePairOptions options{.max_length = 9,
                                          .truncate_from = {.side = weft::TruncateFrom::Side::index, .index = index}};
    const weft::PairEncoding encoding = tokenizer.encode_pair(text, text.substr(text.size() / 2), options);
    require(encoding.ids.size() <= 9 && encoding.segment_ids.size() == encoding.ids.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view file = input.substr(0, input.find('\0'));
  const std::string_view text = input.substr(std::min(file.size() + 1, input.size()));
  try {
    const auto vocabulary = weft::parse_wordpiece_vocabulary(file, "fuzz");
    const auto simplified = weft::simplify_vocabulary(vocabulary, {});
    require(simplified.tokens.size() == simplified.keep_tokens.size());
    const auto tokenizer = weft::load_wordpiece_text(file, "fuzz");
    check_offsets(*tokenizer, text);
    check_decoding(*tokenizer, tokenizer->encode(text, true));
    std::vector<int32_t> all_ids(static_cast<size_t>(tokenizer->vocab_size()));
    for (size_t i = 0; i < all_ids.size(); ++i) all_ids[i] = static_cast<int32_t>((i * 7 + size) % all_ids.size());
    check_decoding(*tokenizer, all_ids);
    check_pairs(*tokenizer, text);
  } catch (const weft::Error&) {
  }
  return 0;
}
