// A dictionary of any content and, behind its first NUL, any text: a clear error, or words that together are the text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/word_segmenter.h"

namespace {

void check(const weft::WordSegmenter& segmenter, std::string_view text) {
  size_t position = 0;
  segmenter.cut(text, [&](size_t begin, size_t end) {
    if (begin != position || end <= begin || !weft::is_valid_utf8(text.substr(begin, end - begin))) std::abort();
    position = end;
  });
  if (position != text.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view file = input.substr(0, input.find('\0'));
  std::string text;
  weft::append_lossy_utf8(input.substr(std::min(file.size() + 1, input.size())), text);
  std::string words;
  weft::append_lossy_utf8(file, words);
  check(weft::WordSegmenter::from_words({words, text, std::string_view(words).substr(0, words.find('\n'))}), text);
  try {
    check(weft::WordSegmenter::from_dictionary(file, "fuzz"), text);
  } catch (const weft::Error&) {
  }
  return 0;
}
