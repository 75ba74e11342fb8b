// Any text through sound tokenizers: scanners cut as their patterns say, decoding gives the text back, streaming equals
// decoding.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "core/error.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/loaders.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/regex.h"
#include "tokenizer/split_pattern.h"
#include "tokenizer/unicode.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c);
  return out + "\"";
}

/// All bytes, and a few merges among the most frequent ones.
std::shared_ptr<const weft::Tokenizer> make_byte_level() {
  std::string vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelled;
    weft::append_alphabet(std::string(1, static_cast<char>(byte)), spelled);
    vocabulary += json_string(spelled) + ":" + std::to_string(byte) + ",";
  }
  return weft::load_tokenizer_json_text(
      R"({"added_tokens":[{"id":262,"content":"<s>","special":true,"normalized":false}],"pre_tokenizer":{"type":"ByteLevel",)"
      R"("add_prefix_space":false},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" +
          vocabulary + R"("aa":256,"aaaa":257,"ab":258,"ĠĠ":259,"Ġa":260,"aaa":261},)" +
          R"("merges":["a a","a b","aa aa","Ġ Ġ","Ġ a","aa a"]}})",
      "byte level");
}

/// Character symbols with byte fallback and no pre-tokenizer, as Gemma has it.
std::shared_ptr<const weft::Tokenizer> make_byte_fallback() {
  static constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string vocabulary;
  for (size_t byte = 0; byte < 256; ++byte) {
    vocabulary += std::string("\"<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">\":" + std::to_string(byte) + ",";
  }
  return weft::load_tokenizer_json_text(
      R"({"added_tokens":[{"id":280,"content":"\n\n","normalized":false}],"normalizer":{"type":"Replace","pattern":)"
      R"({"String":" "},"content":"▁"},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},)"
      R"("content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},"model":{"type":"BPE","byte_fallback":true,"fuse_unk":true,)"
      R"("vocab":{)" +
          vocabulary + R"("▁":256,"a":257,"b":258,"▁a":259,"▁▁":260,"aa":261,"é":262,"éa":263,"aaa":264},)" +
          R"("merges":["▁ a","▁ ▁","a a","é a","aa a"]}})",
      "byte fallback");
}

/// PCRE2 and utf8proc know different versions of Unicode; characters that are new in one of them are no difference of
/// ours.
bool classes_agree(const std::string& text) {
  static const weft::Regex letter(R"(\p{L})", "fuzz");
  static const weft::Regex number(R"(\p{N})", "fuzz");
  const char* end = text.data() + text.size();
  for (const char* position = text.data(); position < end;) {
    const char* begin = position;
    const char32_t character = weft::next_character(position);
    if (character < 0x800) continue;
    const std::string_view alone(begin, static_cast<size_t>(position - begin));
    const weft::CharacterClass kind = weft::character_class(character);
    if (letter.find(alone, 0).has_value() != (kind == weft::CharacterClass::letter)) return false;
    if (number.find(alone, 0).has_value() != (kind == weft::CharacterClass::number)) return false;
  }
  return true;
}

void check_scanner(std::string_view pattern, const std::string& text) {
  const auto scanner = weft::make_word_scanner(pattern);
  const weft::Regex regex(pattern, "fuzz");
  const char* end = text.data() + text.size();
  for (const char* begin = text.data(); begin < end;) {
    const auto match = regex.find(text, static_cast<size_t>(begin - text.data()));
    require(match.has_value() && text.data() + match->begin == begin);
    begin = scanner->next_word(begin, end);
    require(text.data() + match->end == begin);
  }
}

void check_round_trip(const weft::Tokenizer& tokenizer, std::string_view raw, const std::string& expected) {
  const auto ids = tokenizer.encode(raw, false);
  require(tokenizer.decode(ids, false) == expected);
  weft::StreamingDecoder decoder(tokenizer, false);
  std::string streamed;
  for (const int32_t id : ids) streamed += decoder.push(id);
  require(streamed + decoder.finish() == expected);
}

void check_normal_forms(const std::string& text) {
  static const auto nfc = weft::make_unicode_normalizer(weft::UnicodeForm::nfc);
  static const auto nfd = weft::make_unicode_normalizer(weft::UnicodeForm::nfd);
  std::string composed;
  std::string decomposed;
  std::string recomposed;
  const std::string_view c = nfc->normalize(text, composed);
  require(nfc->normalize(nfd->normalize(text, decomposed), recomposed) == c);
  require(weft::is_valid_utf8(c));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto byte_level = make_byte_level();
  static const auto byte_fallback = make_byte_fallback();
  const std::string_view raw(reinterpret_cast<const char*>(data), size);
  std::string text;
  weft::append_lossy_utf8(raw, text);
  if (classes_agree(text)) {
    for (const std::string_view pattern : {weft::kGpt2Pattern, weft::kLlama3Pattern, weft::kQwen2Pattern}) {
      check_scanner(pattern, text);
    }
  }
  check_round_trip(*byte_level, raw, text);
  std::string spaced = text;  // U+2581 comes back as a space
  for (size_t at = spaced.find("▁"); at != std::string::npos; at = spaced.find("▁", at)) spaced.replace(at, 3, " ");
  check_round_trip(*byte_fallback, raw, spaced);
  check_normal_forms(text);
  return 0;
}
