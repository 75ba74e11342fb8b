#include "checkpoint/gguf.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return weft::expect_only_input_errors([&] {
    weft::MemoryFile file(data, size);
    auto metadata = weft::read_gguf_metadata(file.path());
    for (const auto& [key, value] : metadata->values) {
      if (std::holds_alternative<double>(value)) metadata->get_float(key);
    }
    read_all_tensors(*weft::open_gguf(file.path()));
  });
}
