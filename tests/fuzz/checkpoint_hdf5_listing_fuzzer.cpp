// The parent's side of the HDF5 scan: a child that went wild may write anything into the pipe.
#include "checkpoint/hdf5_listing.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return weft::expect_only_input_errors([&] {
    weft::parse_hdf5_listing({reinterpret_cast<const char*>(data), size}, "input.h5");
  });
}
