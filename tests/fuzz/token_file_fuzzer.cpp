// A token file of any content, its checksums put right so that the checks behind them are reached: what opens must be
// safe to read every row from.
#include "data/token_file.h"

#include <cstring>

#include "data/token_file_format.h"
#include "data/training_data.h"
#include "fuzz/checkpoint_fuzzer.h"

namespace {

void put_checksums_right(std::string& bytes) {
  weft::TokenFileHeader header;
  if (bytes.size() < sizeof(header)) return;
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.body_checksum = weft::checksum_bytes(std::string_view(bytes).substr(sizeof(header)));
  header.header_checksum = weft::header_checksum(header);
  std::memcpy(bytes.data(), &header, sizeof(header));
}

void read_rows(const weft::TrainingDataOptions& options) {
  const auto data = weft::open_training_data(options);
  const int64_t num_rows = std::min<int64_t>(data->rows_per_epoch() + 2, 40);
  for (int64_t i = 0; i < num_rows; ++i) data->row(i);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  put_checksums_right(bytes);
  const weft::MemoryFile file(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  for (const weft::Packing packing : {weft::Packing::split, weft::Packing::whole, weft::Packing::none}) {
    for (const weft::DataPart part : {weft::DataPart::training, weft::DataPart::held_out}) {
      weft::expect_only_input_errors([&] {
        read_rows({.sources = {{file.path()}},
                   .part = part,
                   .held_out_fraction = 0.3,
                   .sequence_length = 5,
                   .packing = packing});
      });
    }
  }
  return 0;
}
