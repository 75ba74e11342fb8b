#include "data/document_view.h"

#include <cmath>

#include "core/error.h"

namespace weft {

DocumentView::DocumentView(std::shared_ptr<const TokenFile> file, DataPart part, double held_out_fraction)
    : file_(std::move(file)), last_(file_->num_documents()), tokens_{0, file_->num_tokens()} {
  if (part != DataPart::all && held_out_fraction > 0) divide(part, held_out_fraction);
}

void DocumentView::divide(DataPart part, double held_out_fraction) {
  auto num_held_out = static_cast<int64_t>(held_out_fraction * static_cast<double>(last_));
  if (file_->has_loss_spans()) num_held_out = std::max<int64_t>(num_held_out, 1);
  if (num_held_out == 0) return divide_tokens(part, held_out_fraction);
  if (num_held_out >= last_) {
    fail_input("{}: {} documents, none would be left to train on; hold out less or give evaluation its own source",
               file_->path(),
               last_);
  }
  const int64_t cut = last_ - num_held_out;
  (part == DataPart::training ? last_ : first_) = cut;
  tokens_ = {file_->document_begin(first_), file_->document_begin(last_)};
}

void DocumentView::divide_tokens(DataPart part, double held_out_fraction) {
  const auto num_held_out = std::llround(std::ceil(held_out_fraction * static_cast<double>(tokens_.end)));
  const int64_t cut = tokens_.end - std::clamp<int64_t>(num_held_out, 0, tokens_.end);
  (part == DataPart::training ? tokens_.end : tokens_.begin) = cut;
  // The documents that reach into the tokens.
  while (first_ < last_ && file_->document_begin(first_ + 1) <= tokens_.begin) ++first_;
  while (first_ < last_ && file_->document_begin(last_ - 1) >= tokens_.end) --last_;
}

}  // namespace weft
