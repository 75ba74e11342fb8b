// A .safetensors file or, when the input begins with a brace, an index.
#include "checkpoint/safetensors.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return weft::expect_only_input_errors([&] {
    weft::MemoryFile file(data, size);
    bool is_index = size > 0 && data[0] == '{';
    read_all_tensors(is_index ? *weft::open_sharded_safetensors(file.path(), file.path())
                              : *weft::open_safetensors(file.path()));
  });
}
