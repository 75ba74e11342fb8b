#include "data/unit_encoder.h"

#include <algorithm>

#include "core/error.h"

namespace weft {
namespace {

void append_document(const TokenDocument& document, EncodedUnit& out) {
  if (document.ids.empty()) return;
  const uint64_t begin = out.ids.size();
  for (const LossSpan& span : document.loss_spans) out.loss_spans.push_back({begin + span.begin, begin + span.end});
  out.ids.insert(out.ids.end(), document.ids.begin(), document.ids.end());
  out.document_ends.push_back(out.ids.size());
}

/// Calls `use(line, number)` for every line, without its end.
template <typename Use>
void for_each_line(const TextUnit& unit, const Use& use) {
  const std::string_view bytes = unit.bytes;
  int64_t number = unit.first_line;
  for (size_t begin = 0; begin < bytes.size(); ++number) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    std::string_view line = bytes.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    use(line, number);
    begin = end + 1;
  }
}

/// What reads records.
struct RecordReader {
  const DocumentEncoder& encoder;
  const std::string& path;
  bool skip_bad_lines = false;
  EncodedUnit& out;

  void read(std::string_view record, int64_t line) const {
    try {
      const TrainingDocument document = encoder.parse(record);
      append_document(encoder.encode(document), out);
      if (!document.text) ++out.num_masked_documents;
    } catch (const Error& error) {
      if (error.code() != ExitCode::bad_input) throw;
      if (!skip_bad_lines) fail_input("{}:{}: {}", printable(path, 400), line, error.what());
      ++out.num_skipped_lines;
    }
  }
};

void encode_json_lines(const RecordReader& reader, const TextUnit& unit) {
  for_each_line(unit, [&](std::string_view line, int64_t number) {
    if (!is_blank(line)) reader.read(line, number);
  });
}

/// What stands between the elements of a list, brackets of its own among them, is passed over.
void encode_json_array(const RecordReader& reader, const TextUnit& unit) {
  const std::string_view bytes = unit.bytes;
  const size_t last = bytes.find_last_not_of(" \t\r\n");
  if (unit.ends_file && (last == std::string_view::npos || bytes[last] != ']')) {
    fail_input("{}: the list of records has no end; is the file whole?", printable(reader.path, 400));
  }
  int64_t line = unit.first_line;
  auto skip_to = [&, at = size_t{0}](size_t end) mutable {
    line += std::count(
        bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes.begin() + static_cast<std::ptrdiff_t>(end), '\n');
    at = end;
  };
  for (size_t begin = 0; begin < bytes.size();) {
    begin = bytes.find_first_not_of(" \t\r\n,", begin);
    if (begin == std::string_view::npos) return;
    const bool opens = unit.begins_file && bytes[begin] == '[' && bytes.find_first_not_of(" \t\r\n") == begin;
    const bool closes = unit.ends_file && begin == last;
    const size_t end = opens || closes ? begin + 1 : std::min(find_json_value_end(bytes, begin), bytes.size());
    skip_to(begin);
    if (!opens && !closes) reader.read(bytes.substr(begin, end - begin), line);
    begin = end;
  }
}

void encode_paragraphs(const DocumentEncoder& encoder, const TextUnit& unit, EncodedUnit& out) {
  const char* begin = nullptr;
  const char* end = nullptr;
  const auto finish = [&] {
    if (begin) append_document(encoder.encode_text({begin, static_cast<size_t>(end - begin)}), out);
    begin = nullptr;
  };
  for_each_line(unit, [&](std::string_view line, int64_t) {
    if (is_blank(line)) return finish();
    if (!begin) begin = line.data();
    end = line.data() + line.size();
  });
  finish();
}

void encode_part(const DocumentEncoder& encoder, const TextUnit& unit, EncodedUnit& out) {
  const std::vector<int32_t> ids = encoder.tokenizer().encode(unit.bytes, false);
  // A file without text is no document.
  if (unit.begins_file && unit.ends_file && ids.empty()) return;
  if (unit.begins_file) out.ids = encoder.prefix();
  out.ids.insert(out.ids.end(), ids.begin(), ids.end());
  if (!unit.ends_file) return;
  out.ids.insert(out.ids.end(), encoder.suffix().begin(), encoder.suffix().end());
  out.document_ends.push_back(out.ids.size());
}

}  // namespace

EncodedUnit encode_unit(const DocumentEncoder& encoder,
                        const TextUnit& unit,
                        const std::string& path,
                        const UnitEncoderOptions& options) {
  EncodedUnit out;
  switch (options.split) {
    case TextSplit::file:
      encode_part(encoder, unit, out);
      break;
    case TextSplit::lines:
      for_each_line(unit, [&](std::string_view line, int64_t) {
        if (!is_blank(line)) append_document(encoder.encode_text(line), out);
      });
      break;
    case TextSplit::paragraphs:
      encode_paragraphs(encoder, unit, out);
      break;
    case TextSplit::json_lines:
      encode_json_lines({encoder, path, options.skip_bad_lines, out}, unit);
      break;
    case TextSplit::json_array:
      encode_json_array({encoder, path, options.skip_bad_lines, out}, unit);
      break;
  }
  return out;
}

}  // namespace weft
