// Token files for the tests.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "data/token_file_writer.h"

namespace weft::test {

inline std::string file_bytes(const std::filesystem::path& path) {
  std::stringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);  // some file systems wait for the disk when a file is overwritten
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A folder that lives as long as the test.
class FolderTest : public testing::Test {
 protected:
  FolderTest() {
    // In memory where there is such a place: what waits for the disk would take most of the tests' time.
    const bool has_memory = access("/dev/shm", W_OK) == 0;
    const std::filesystem::path parent = has_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string pattern = (parent / "weft_data_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    folder_ = pattern;
  }
  ~FolderTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::filesystem::path folder_;
};

/// Documents of the given lengths whose tokens are all different: first, first + 1, ….
inline std::vector<TokenDocument> numbered_documents(const std::vector<int>& lengths, int32_t first = 0) {
  std::vector<TokenDocument> documents;
  for (const int length : lengths) {
    TokenDocument& document = documents.emplace_back();
    for (int i = 0; i < length; ++i) document.ids.push_back(first++);
  }
  return documents;
}

}  // namespace weft::test
