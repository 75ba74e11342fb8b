// A PyTorch checkpoint, as an archive or of before torch 1.6, or, when the input begins as neither, the pickle of an
// archive: checksums keep mutations of an archive from it.
#include "checkpoint/torch_checkpoint.h"
#include "checkpoint/torch_pickle.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return weft::expect_only_input_errors([&] {
    std::string_view bytes(reinterpret_cast<const char*>(data), size);
    constexpr std::string_view legacy_magic = "\x8a\nl\xfc";
    bool is_legacy = bytes.starts_with('\x80') && bytes.substr(0, 20).find(legacy_magic) != std::string_view::npos;
    if (!bytes.starts_with("PK") && !is_legacy) {
      weft::parse_torch_pickle("x.pth", bytes);
      return;
    }
    weft::MemoryFile file(data, size);
    auto reader = weft::open_torch_checkpoint(file.path(), file.path());
    read_all_tensors(*reader);
    reader->verify_checksums(0, 1);
  });
}
