// A sentencepiece model of any content: what passes our checks must be safe to encode with.
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "tokenizer/loaders.h"

namespace {

void use(const weft::Tokenizer& tokenizer) {
  const auto ids = tokenizer.encode(
      "  Hello  w\xC3\xB6rld 123 <sep>\xEF\xBC\xA1\xEF\xBD\xB6\xEF\xBE\x9E\xE2\x96\x81 the of\xFF", true);
  tokenizer.decode(ids, false);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    use(*weft::load_sentencepiece_bytes({reinterpret_cast<const char*>(data), size}, "fuzz"));
  } catch (const weft::Error&) {
  }
  return 0;
}
