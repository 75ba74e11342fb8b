// Where parameters lie in one flat buffer, so that a block's weights or gradients travel in one message, and which run
// of it a data-parallel rank owns.
#pragma once

#include <cstdint>
#include <vector>

#include "nn/parameter.h"

namespace weft {

/// A parameter's place: elements [offset, offset + count) of the buffer.
struct FlatEntry {
  Parameter* parameter = nullptr;
  int64_t offset = 0;
  int64_t count = 0;
};

/// Entries begin at multiples of 64 bytes of the narrowest dtype; the buffer is a whole number of equal parts.
class FlatLayout {
 public:
  FlatLayout() = default;
  /// Those with a partial gradient come first.
  FlatLayout(const Context& context, const std::vector<Parameter*>& parameters, int num_parts);

  const std::vector<FlatEntry>& entries() const { return entries_; }
  bool empty() const { return entries_.empty(); }
  int64_t size() const { return size_; }
  int64_t part_size() const { return part_size_; }
  /// Elements up to the end of the last entry with a partial gradient.
  int64_t partial_size() const { return partial_size_; }

  /// The view of an entry in a buffer of size().
  static Tensor view(const Tensor& buffer, const FlatEntry& entry);
  /// Sets everything that belongs to no entry to zero.
  void clear_gaps(Tensor& buffer) const;

 private:
  std::vector<FlatEntry> entries_;
  int64_t size_ = 0;
  int64_t part_size_ = 0;
  int64_t partial_size_ = 0;
};

}  // namespace weft
