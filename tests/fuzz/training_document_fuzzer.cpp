// A line of JSON of any content, and a text cut into parts.
#include "data/training_document.h"

#include "data/text_units.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (weft::last_cut_between_lines(text) >= std::max<size_t>(size, 1)) std::abort();
  return weft::expect_only_input_errors([&] { weft::parse_training_document(text); });
}
