// The rows of one source, epoch after epoch.
#pragma once

#include <cstdint>
#include <memory>

#include "data/document_view.h"
#include "data/training_data.h"

namespace weft {

struct SourceRowsOptions {
  int64_t sequence_length = 1024;
  bool shuffle = true;
  uint64_t seed = 0;
  uint32_t source = 0;  // shuffled each in its own way
};

/// Thread-safe.
class SourceRows {
 public:
  virtual ~SourceRows() = default;
  /// The same in every epoch; 0 where nothing is scored.
  virtual int64_t rows_per_epoch() const = 0;
  virtual TrainingRow row(int64_t epoch, int64_t index) const = 0;
  virtual int64_t num_cut_documents() const { return 0; }
};

std::unique_ptr<SourceRows> make_source_rows(DocumentView view, Packing packing, const SourceRowsOptions& options);

}  // namespace weft
