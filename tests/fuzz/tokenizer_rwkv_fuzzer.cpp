// RWKV's vocabulary file of any content and, behind its first NUL, any bytes: a clear error, or a tokenizer that takes
// the longest tokens and gives the bytes back.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/rwkv_vocabulary.h"
#include "tokenizer/unicode.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

/// The bytes that the file itself has no token for get ids behind its own.
std::string complete(std::string_view file, const weft::RwkvVocabulary& vocabulary) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(file);
  if (!text.empty() && !text.ends_with('\n')) text += '\n';
  size_t id = std::max<size_t>(vocabulary.tokens.size(), 1);
  std::array<bool, 256> has_token{};
  for (const std::string& token : vocabulary.tokens) {
    if (token.size() == 1) has_token[static_cast<unsigned char>(token[0])] = true;
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    if (has_token[byte]) continue;
    text += std::to_string(id++) + " b'\\x" + kDigits[byte / 16] + kDigits[byte % 16] + "' 1\n";
  }
  return text;
}

void check_encoding(const weft::Tokenizer& tokenizer, std::string_view bytes) {
  const auto ids = tokenizer.encode(bytes, true);
  std::string joined;
  for (const int32_t id : ids) joined += tokenizer.id_to_token(id);
  require(joined == bytes);
  size_t begin = 0;
  for (const int32_t id : ids) {
    const size_t length = tokenizer.id_to_token(id).size();
    for (size_t longer = length + 1; longer <= std::min(length + 8, bytes.size() - begin); ++longer) {
      require(!tokenizer.token_to_id(bytes.substr(begin, longer)));
    }
    begin += length;
  }
  std::string expected;
  weft::append_lossy_utf8(bytes, expected);
  require(tokenizer.decode(ids, false) == expected);
  weft::StreamingDecoder decoder(tokenizer, true);
  std::string streamed;
  for (const int32_t id : ids) streamed += decoder.push(id);
  require(streamed + decoder.finish() == expected);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view file = input.substr(0, input.find('\0'));
  const std::string_view bytes = input.substr(std::min(file.size() + 1, input.size()));
  try {
    weft::looks_like_rwkv_vocabulary(file);
    const auto vocabulary = weft::parse_rwkv_vocabulary(file, "fuzz");
    check_encoding(*weft::load_rwkv_text(complete(file, vocabulary), "fuzz"), bytes);
  } catch (const weft::Error&) {
  }
  return 0;
}
