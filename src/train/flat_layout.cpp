#include "train/flat_layout.h"

#include <algorithm>

namespace weft {
namespace {

/// 64 bytes of bf16.
constexpr int64_t kAlignment = 32;

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

FlatLayout::FlatLayout(const Context& context, const std::vector<Parameter*>& parameters, int num_parts) {
  auto is_partial = [&](const Parameter* parameter) { return has_partial_gradient(context, *parameter); };
  std::vector<Parameter*> ordered = parameters;
  std::stable_partition(ordered.begin(), ordered.end(), is_partial);
  int64_t end = 0;
  for (Parameter* parameter : ordered) {
    FlatEntry entry{parameter, round_up(end, kAlignment), parameter->local_shape.num_elements()};
    end = entry.offset + entry.count;
    if (is_partial(parameter)) partial_size_ = end;
    entries_.push_back(entry);
  }
  part_size_ = round_up((end + num_parts - 1) / num_parts, kAlignment);
  size_ = part_size_ * num_parts;
}

Tensor FlatLayout::view(const Tensor& buffer, const FlatEntry& entry) {
  return buffer.slice(entry.offset, entry.offset + entry.count).reshape(entry.parameter->local_shape);
}

void FlatLayout::clear_gaps(Tensor& buffer) const {
  auto clear = [&](int64_t begin, int64_t end) {
    if (begin < end) buffer.slice(begin, end).fill_zero();
  };
  int64_t end = 0;
  for (const FlatEntry& entry : entries_) {
    clear(end, entry.offset);
    end = entry.offset + entry.count;
  }
  clear(end, size_);
}

}  // namespace weft
