// The index of a TensorFlow checkpoint beside a small data file: as it is, or, when the input begins with a 1, as the
// one block of an index whose checksums are right.
#include <fstream>

#include "checkpoint/tensorflow_bundle.h"
#include "core/crc32c.h"
#include "fuzz/checkpoint_fuzzer.h"

namespace {

void put_u32(std::string& to, uint32_t value) {
  for (int i = 0; i < 4; ++i) to.push_back(static_cast<char>(value >> (8 * i)));
}

void put_varint(std::string& to, uint64_t value) {
  for (; value >= 0x80; value >>= 7) to.push_back(static_cast<char>((value & 0x7F) | 0x80));
  to.push_back(static_cast<char>(value));
}

/// Appends a block with its trailer; returns its handle.
std::string put_block(std::string& file, std::string contents) {
  std::string handle;
  put_varint(handle, file.size());
  put_varint(handle, contents.size());
  contents.push_back('\0');
  file += contents;
  put_u32(file, weft::masked_crc32c(weft::crc32c(contents)));
  return handle;
}

std::string wrapped(std::string contents) {
  std::string file;
  std::string data = put_block(file, std::move(contents));
  const std::string no_restarts("\0\0\0\0\1\0\0\0", 8);
  std::string footer = put_block(file, no_restarts);
  std::string index = {'\0', '\1', static_cast<char>(data.size()), 'z'};
  footer += put_block(file, index + data + no_restarts);
  footer.resize(40, '\0');
  put_u32(footer, 0x8b80fb57);
  put_u32(footer, 0xdb477524);
  return file + footer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return weft::expect_only_input_errors([&] {
    std::string bytes(reinterpret_cast<const char*>(data), size);
    if (size > 0 && data[0] == '1') bytes = wrapped(bytes.substr(1));
    weft::MemoryFile file(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    std::string prefix = file.path();
    struct Removed {
      std::vector<std::string> paths;
      ~Removed() {
        for (const std::string& path : paths) ::unlink(path.c_str());
      }
    } removed{{prefix + ".index", prefix + ".data-00000-of-00001"}};
    std::ofstream(removed.paths[0], std::ios::binary) << bytes;
    std::ofstream(removed.paths[1], std::ios::binary) << std::string(64, '\7');
    auto reader = weft::open_tensorflow_bundle(prefix, removed.paths[0]);
    weft::read_all_tensors(*reader);
    reader->verify_checksums(0, 1);
  });
}
