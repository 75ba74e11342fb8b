// Starts a process for each input, as the reader does: some hundred inputs a second.
#include "checkpoint/hdf5_file.h"
#include "checkpoint/keras_hdf5.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return weft::expect_only_input_errors([&] {
    weft::MemoryFile file(data, size);
    auto opened = weft::Hdf5File::open(file.path());
    for (const weft::Hdf5Dataset& dataset : opened->datasets()) {
      if (dataset.file_offset >= 0) opened->read_all<double>(dataset);
    }
    read_all_tensors(*weft::open_keras_hdf5(file.path(), file.path()));
  });
}
