// TensorBoard event files: scalars as TFRecord-framed Protobuf (tensorflow/core/lib/io/record_writer.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "report/text_files.h"

namespace weft {

class TensorBoardWriter {
 public:
  /// Begins a new event file in `directory`, which is made. Readers forget what earlier files there say of
  /// `first_step` and later ones.
  TensorBoardWriter(const std::string& directory, int64_t first_step, WriteWarning& warning);
  ~TensorBoardWriter();

  /// Tags and values of one step, dated now.
  void add_scalars(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void append_record(const std::string& event);

  std::unique_ptr<LogFile> file_;
};

}  // namespace weft
