#include "tokenizer/text_file.h"

#include <filesystem>

#include "checkpoint/file.h"
#include "core/error.h"

namespace weft {

namespace {
constexpr int64_t kMaxFileBytes = int64_t{1} << 30;
}

std::optional<std::string> read_file_if_exists(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return read_whole_file(path);
}

std::string read_whole_file(const std::string& path) {
  const File file(path);
  if (file.size() > kMaxFileBytes) {
    fail_input("{}: {} bytes; a tokenizer's file has at most {}", path, file.size(), kMaxFileBytes);
  }
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  return text;
}

}  // namespace weft
