// A PyTorch checkpoint or, when the input doesn't begin as an archive, the pickle of one: checksums keep mutations of
// an archive from it.
#include "checkpoint/torch_archive.h"
#include "checkpoint/torch_pickle.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return weft::expect_only_input_errors([&] {
    std::string_view bytes(reinterpret_cast<const char*>(data), size);
    if (!bytes.starts_with("PK")) {
      weft::parse_torch_pickle("x.pth", bytes);
      return;
    }
    weft::MemoryFile file(data, size);
    auto reader = weft::open_torch_archive(file.path(), file.path());
    read_all_tensors(*reader);
    reader->verify_checksums(0, 1);
  });
}
