#include "data/text_units.h"

#include <algorithm>

#include "core/error.h"

namespace weft {
namespace {

constexpr int64_t kMaxUnitBytes = int64_t{1} << 30;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_one_of(char byte, std::string_view set) {
  return set.find(byte) != std::string_view::npos;
}

bool is_ascii_word(char byte) {
  return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
}

/// Whether a character beyond ASCII that begins here is surely no white space: Unicode's lie in these blocks.
bool is_visible_beyond_ascii(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0xC3 || lead == 0xE1 || lead == 0xE2) return false;
  return !text.starts_with("\xE3\x80\x80");
}

bool begins_visibly(std::string_view text) {
  return is_ascii_word(text[0]) || is_one_of(text[0], "\"'(") || is_visible_beyond_ascii(text);
}

bool ends_visibly(std::string_view text) {
  if (is_ascii_word(text.back()) || is_one_of(text.back(), ".,;:!?\"')-")) return true;
  size_t begin = text.size() - 1;
  for (int i = 0; i < 3 && begin > 0 && (text[begin] & 0xC0) == 0x80; ++i) --begin;
  return is_visible_beyond_ascii(text.substr(begin));
}

/// After the last blank line.
size_t last_cut_between_paragraphs(std::string_view text) {
  size_t end = text.rfind('\n');
  while (end != std::string_view::npos && end > 0) {
    const size_t before = text.rfind('\n', end - 1);
    if (before == std::string_view::npos) return 0;
    if (is_blank(text.substr(before + 1, end - before - 1))) return end + 1;
    end = before;
  }
  return 0;
}

/// Behind the last whole object of a list.
size_t last_cut_between_elements(std::string_view text) {
  size_t cut = 0;
  for (size_t begin = text.find('{'); begin != std::string_view::npos; begin = text.find('{', cut)) {
    const size_t end = find_json_value_end(text, begin);
    if (end == std::string_view::npos) break;
    cut = end;
  }
  return cut;
}

}  // namespace

size_t find_json_value_end(std::string_view text, size_t begin) {
  constexpr std::string_view kEnds = " \t\r\n,:]}";
  int64_t depth = 0;
  bool in_string = false;
  for (size_t i = begin; i < text.size(); ++i) {
    const char byte = text[i];
    if (in_string) {
      if (byte == '\\') ++i;
      in_string = byte != '"';
    } else if (byte == '"') {
      in_string = true;
    } else if (byte == '{' || byte == '[') {
      ++depth;
    } else if (byte == '}' || byte == ']') {
      --depth;
    }
    if (in_string || depth > 0) continue;
    if (depth < 0 || is_one_of(byte, "}]\"")) return i + 1;
    if (i + 1 == text.size() || is_one_of(text[i + 1], kEnds)) return i + 1;
  }
  return std::string_view::npos;
}

bool is_json_array(const std::string& path) {
  const File file(path);
  std::string bytes(static_cast<size_t>(std::min<int64_t>(file.size(), 4096)), '\0');
  file.read(0, bytes.data(), static_cast<int64_t>(bytes.size()));
  std::string_view text = bytes;
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && text[first] == '[';
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

size_t last_cut_between_lines(std::string_view text) {
  if (text.size() < 3) return 0;
  size_t end = text.rfind('\n', text.size() - 2);
  while (end != std::string_view::npos && end > 0) {
    if (begins_visibly(text.substr(end + 1)) && ends_visibly(text.substr(0, end))) return end + 1;
    end = text.rfind('\n', end - 1);
  }
  return 0;
}

TextUnitReader::TextUnitReader(const std::string& path, const TextUnitOptions& options, int64_t begin, int64_t line)
    : file_(path), options_(options), position_(begin), line_(line) {}

size_t TextUnitReader::find_cut(std::string_view bytes) const {
  if (options_.split == TextSplit::file) return options_.can_cut_lines ? last_cut_between_lines(bytes) : 0;
  if (options_.split == TextSplit::json_array) return last_cut_between_elements(bytes);
  if (options_.split == TextSplit::paragraphs) return last_cut_between_paragraphs(bytes);
  return bytes.rfind('\n') + 1;
}

std::optional<TextUnit> TextUnitReader::next() {
  const int64_t rest = file_.size() - position_;
  if (rest <= 0) return std::nullopt;
  TextUnit unit;
  int64_t wanted = std::min(options_.unit_bytes, rest);
  size_t cut = 0;
  while (cut == 0) {
    if (wanted > kMaxUnitBytes) {
      fail_input(
          "{}:{}: more than {} bytes without a place to cut; split the text into documents (--split-lines, "
          "--split-blank-lines, JSON lines)",
          printable(file_.path(), 400),
          line_,
          kMaxUnitBytes);
    }
    const auto have = static_cast<int64_t>(unit.bytes.size());
    unit.bytes.resize(static_cast<size_t>(wanted));
    file_.read(position_ + have, unit.bytes.data() + have, wanted - have);
    cut = wanted == rest ? unit.bytes.size() : find_cut(unit.bytes);
    wanted = std::min(wanted * 2, rest);
  }
  unit.bytes.resize(cut);
  unit.begins_file = position_ == 0;
  unit.first_line = line_;
  line_ += std::count(unit.bytes.begin(), unit.bytes.end(), '\n');
  position_ += static_cast<int64_t>(cut);
  unit.next_line = line_;
  unit.end = position_;
  unit.ends_file = position_ == file_.size();
  if (unit.begins_file && unit.bytes.starts_with(kByteOrderMark)) unit.bytes.erase(0, kByteOrderMark.size());
  return unit;
}

}  // namespace weft
