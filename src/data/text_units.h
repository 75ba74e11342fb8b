// Text files in pieces of about a megabyte that can be worked on side by side.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/file.h"

namespace weft {

/// What is a document.
enum class TextSplit : uint8_t {
  file,        // the whole file
  lines,       // a line
  paragraphs,  // what stands between blank lines
  json_lines,  // a line of JSON
  json_array   // an element of the list that the file is
};

/// A piece of an input: whole lines or paragraphs, or a part of one text.
struct TextUnit {
  std::string bytes;
  int64_t end = 0;         // where the file goes on
  int64_t first_line = 1;  // number of the line that the piece begins with
  int64_t next_line = 1;
  bool begins_file = false, ends_file = false;
};

struct TextUnitOptions {
  TextSplit split = TextSplit::file;
  bool can_cut_lines = true;  // see DocumentEncoder
  int64_t unit_bytes = int64_t{1} << 20;
};

class TextUnitReader {
 public:
  /// Begins at a place that an earlier reader stopped at. Throws Error(bad_input) for a file that can't be read.
  TextUnitReader(const std::string& path, const TextUnitOptions& options, int64_t begin = 0, int64_t line = 1);

  /// Nothing at the file's end. Where a file is cut depends on its bytes and `unit_bytes` only. Throws Error(bad_input)
  /// for a line, paragraph or uncuttable text beyond 1 GiB.
  std::optional<TextUnit> next();

 private:
  size_t find_cut(std::string_view bytes) const;

  File file_;
  TextUnitOptions options_;
  int64_t position_;
  int64_t line_;
};

/// Whether a line is empty or holds only spaces, tabs and carriage returns.
bool is_blank(std::string_view line);

/// Where a value of JSON ends that begins at `begin`: behind its last bracket or quotation mark, or before what ends a
/// number or name. What is no JSON ends somewhere. npos where the text ends first.
size_t find_json_value_end(std::string_view text, size_t begin);

/// Whether a file is a list of JSON. Throws Error(bad_input) for one that can't be read.
bool is_json_array(const std::string& path);

/// Where a text can be cut so that all tokenizers that pass DocumentEncoder's probe encode the parts as the whole: the
/// last place after a line end between two characters that are no white space and can't belong to a special token. 0:
/// nowhere.
size_t last_cut_between_lines(std::string_view text);

}  // namespace weft
