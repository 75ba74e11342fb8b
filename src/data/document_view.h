// A run of documents of a token file: all of it, what is trained on, or what is held out.
#pragma once

#include <algorithm>
#include <memory>

#include "data/token_file.h"
#include "data/training_data.h"

namespace weft {

/// Positions [begin, end) of a token file.
struct TokenRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

class DocumentView {
 public:
  DocumentView(std::shared_ptr<const TokenFile> file, DataPart part, double held_out_fraction);

  const TokenFile& file() const { return *file_; }
  int64_t num_documents() const { return last_ - first_; }
  int64_t num_tokens() const { return tokens_.size(); }
  /// Document `index` of the view, or what of it lies within.
  TokenRange document(int64_t index) const {
    return {std::max(file_->document_begin(first_ + index), tokens_.begin),
            std::min(file_->document_begin(first_ + index + 1), tokens_.end)};
  }

 private:
  void divide(DataPart part, double held_out_fraction);
  void divide_tokens(DataPart part, double held_out_fraction);

  std::shared_ptr<const TokenFile> file_;
  int64_t first_ = 0, last_ = 0;  // documents
  TokenRange tokens_;
};

}  // namespace weft
