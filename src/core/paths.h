// Questions about paths that come from outside: a name that the system refuses (too long, not permitted) is one that
// isn't there.
#pragma once

#include <filesystem>
#include <system_error>

namespace weft {

inline bool path_exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

inline bool is_folder(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

inline bool is_plain_file(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

}  // namespace weft
