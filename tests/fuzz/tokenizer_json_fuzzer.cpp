// A tokenizer.json of any content: a clear error, or a tokenizer that encodes and decodes.
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "tokenizer/loaders.h"

namespace {

void use(const weft::Tokenizer& tokenizer) {
  const auto ids = tokenizer.encode("Hello  wörld's\n\n 12345 <s>\xE2\x96\x81x\xF0\x9F\x98\x80 \xC5\xBF \xFF", true);
  tokenizer.decode(ids, false);
  tokenizer.decode(ids, true);
  tokenizer.encode_pair("Hello w\xC3\xB6rld", "s 12345", {.max_length = 8});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    use(*weft::load_tokenizer_json_text({reinterpret_cast<const char*>(data), size}, "fuzz"));
  } catch (const weft::Error&) {
  }
  return 0;
}
