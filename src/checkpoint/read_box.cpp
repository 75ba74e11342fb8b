#include "checkpoint/read_box.h"

#include <algorithm>
#include <vector>

#include "checkpoint/convert_values.h"
#include "core/error.h"

namespace weft {
namespace {

// Values that need conversion pass through a buffer that stays in a core's cache.
constexpr int64_t kStagingBytes = 256 << 10;

// Takes runs of consecutive elements in the order of the target and writes them one after the other.
class RunReader {
 public:
  RunReader(const StoredArray& array, void* into, DType dtype)
      : array_(array),
        type_(array.type),
        target_(static_cast<uint8_t*>(into)),
        dtype_(dtype),
        is_direct_(!type_.dequantize && type_.dtype == dtype),
        capacity_(std::max<int64_t>(1, kStagingBytes / type_.block_bytes)) {}

  void add_run(int64_t first, int64_t count) {
    if (is_direct_) {
      read_blocks(first, count, target_);
      target_ += count * type_.block_bytes;
      return;
    }
    // A run that cuts a block can't share the buffer: its first or last values are dropped.
    bool is_aligned = first % type_.block_elements == 0 && count % type_.block_elements == 0;
    if (!is_aligned) flush();
    stage_run(first, count);
    if (!is_aligned) flush();
  }

  int64_t finish() {
    flush();
    return bytes_read_;
  }

 private:
  void stage_run(int64_t first, int64_t count) {
    staging_.resize(static_cast<size_t>(capacity_ * type_.block_bytes));
    while (count > 0) {
      int64_t skip = first % type_.block_elements;
      int64_t needed = (skip + count + type_.block_elements - 1) / type_.block_elements;
      int64_t num_blocks = std::min(needed, capacity_ - num_staged_blocks_);
      int64_t taken = std::min(count, num_blocks * type_.block_elements - skip);
      read_blocks(first / type_.block_elements, num_blocks, staging_.data() + num_staged_blocks_ * type_.block_bytes);
      if (num_staged_blocks_ == 0) num_skipped_ = skip;
      num_staged_blocks_ += num_blocks;
      num_staged_elements_ += taken;
      if (num_staged_blocks_ == capacity_) flush();
      first += taken;
      count -= taken;
    }
  }

  void read_blocks(int64_t first_block, int64_t num_blocks, void* into) {
    array_.file.read(array_.offset + first_block * type_.block_bytes, into, num_blocks * type_.block_bytes);
    bytes_read_ += num_blocks * type_.block_bytes;
  }

  void flush() {
    if (num_staged_elements_ == 0) return;
    if (!type_.dequantize) {
      convert_values(staging_.data(), type_.dtype, target_, dtype_, num_staged_elements_);
    } else {
      flush_quantised();
    }
    target_ += num_staged_elements_ * static_cast<int64_t>(dtype_bytes(dtype_));
    num_staged_blocks_ = num_staged_elements_ = num_skipped_ = 0;
  }

  void flush_quantised() {
    int64_t num_values = num_staged_blocks_ * type_.block_elements;
    if (dtype_ == DType::f32 && num_values == num_staged_elements_) {
      type_.dequantize(staging_.data(), num_staged_blocks_, reinterpret_cast<float*>(target_));
      return;
    }
    values_.resize(static_cast<size_t>(num_values));
    type_.dequantize(staging_.data(), num_staged_blocks_, values_.data());
    convert_dtype(values_.data() + num_skipped_, DType::f32, target_, dtype_, num_staged_elements_);
  }

  const StoredArray& array_;
  const StorageType& type_;
  uint8_t* target_;
  DType dtype_;
  bool is_direct_;
  int64_t capacity_;  // of the staging buffer, in blocks
  int64_t num_staged_blocks_ = 0;
  int64_t num_staged_elements_ = 0;
  int64_t num_skipped_ = 0;  // values of the first staged block before the box
  int64_t bytes_read_ = 0;
  std::vector<uint8_t> staging_;
  std::vector<float> values_;
};

// The dimension at which a contiguous run is cut: everything inside it is taken whole.
int run_dimension(const Shape& shape, std::span<const int64_t> begin, std::span<const int64_t> end) {
  int dim = shape.rank() - 1;
  while (dim > 0 && begin[static_cast<size_t>(dim)] == 0 && end[static_cast<size_t>(dim)] == shape[dim]) --dim;
  return dim;
}

// Advances `index` over the dimensions outside the run; false after the last.
bool next_index(std::vector<int64_t>& index, std::span<const int64_t> begin, std::span<const int64_t> end) {
  for (size_t dim = index.size(); dim-- > 0;) {
    if (++index[dim] < end[dim]) return true;
    index[dim] = begin[dim];
  }
  return false;
}

}  // namespace

int64_t read_box(
    const StoredArray& array, std::span<const int64_t> begin, std::span<const int64_t> end, void* into, DType dtype) {
  const Shape& shape = array.shape;
  RunReader reader(array, into, dtype);
  if (shape.rank() == 0) {
    reader.add_run(0, 1);
    return reader.finish();
  }
  for (size_t i = 0; i < begin.size(); ++i) {
    if (begin[i] == end[i]) return 0;
  }
  size_t run_dim = static_cast<size_t>(run_dimension(shape, begin, end));
  int64_t stride = 1;
  for (int dim = static_cast<int>(run_dim) + 1; dim < shape.rank(); ++dim) stride *= shape[dim];
  std::vector<int64_t> index(begin.begin(), begin.begin() + static_cast<std::ptrdiff_t>(run_dim));
  do {
    int64_t row = 0;
    for (size_t dim = 0; dim < run_dim; ++dim) row = row * shape[static_cast<int>(dim)] + index[dim];
    row = row * shape[static_cast<int>(run_dim)] + begin[run_dim];
    reader.add_run(row * stride, (end[run_dim] - begin[run_dim]) * stride);
  } while (next_index(index, begin, end));
  return reader.finish();
}

}  // namespace weft
