// A vocab.json of any content, behind its first NUL a merges.txt, behind the next one a text: a clear error, or a
// tokenizer whose stream is its decoding.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/unicode.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

std::string_view take_part(std::string_view& input) {
  const std::string_view part = input.substr(0, input.find('\0'));
  input.remove_prefix(std::min(part.size() + 1, input.size()));
  return part;
}

void check(const weft::Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text, true);
  for (const int32_t id : ids) require(id >= 0 && id < tokenizer.vocab_size());
  const std::string decoded = tokenizer.decode(ids, false);
  require(weft::is_valid_utf8(decoded));
  weft::StreamingDecoder decoder(tokenizer, false);
  std::string streamed;
  for (const int32_t id : ids) streamed += decoder.push(id);
  require(streamed + decoder.finish() == decoded);
  tokenizer.encode_pair(text, text, {.max_length = 8});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string_view vocabulary = take_part(text);
  const std::string_view merges = take_part(text);
  for (const char* name : {"", "RobertaTokenizer", "OpenAIGPTTokenizer"}) {
    weft::TokenizerSettings settings;
    settings.tokenizer_class = name;
    try {
      const auto tokenizer = weft::load_gpt_texts(
          {.vocabulary = vocabulary, .merges = merges, .vocabulary_where = "fuzz", .merges_where = "fuzz"}, settings);
      check(*tokenizer, text);
    } catch (const weft::Error&) {
    }
  }
  return 0;
}
