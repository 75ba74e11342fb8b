// Whole small files from a model's folder.
#pragma once

#include <optional>
#include <string>

namespace weft {

/// The file's bytes; nullopt when there is no such file. Throws Error(bad_input) when it cannot be read or is larger
/// than any tokenizer (1 GiB).
std::optional<std::string> read_file_if_exists(const std::string& path);
/// Throws Error(bad_input) when there is no such file.
std::string read_whole_file(const std::string& path);

}  // namespace weft
