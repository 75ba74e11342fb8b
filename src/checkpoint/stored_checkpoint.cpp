#include "checkpoint/stored_checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "checkpoint/read_box.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

void check_box(const TensorInfo& info, std::span<const int64_t> begin, std::span<const int64_t> end) {
  size_t rank = static_cast<size_t>(info.shape.rank());
  bool is_inside = begin.size() == rank && end.size() == rank;
  for (size_t i = 0; is_inside && i < rank; ++i) {
    is_inside = begin[i] >= 0 && begin[i] <= end[i] && end[i] <= info.shape[static_cast<int>(i)];
  }
  if (!is_inside) {
    fail_input("{}: tensor {} is {}, a slice from [{}] to [{}] was asked for; wrong config for these weights?",
               printable(info.file),
               printable(info.name),
               to_string(info.shape),
               fmt::join(begin, ", "),
               fmt::join(end, ", "));
  }
}

int64_t num_elements_of(std::span<const int64_t> begin, std::span<const int64_t> end) {
  int64_t count = 1;
  for (size_t i = 0; i < begin.size(); ++i) count *= end[i] - begin[i];
  return count;
}

}  // namespace

void check_stored_tensors(const File& file, int64_t data_begin, int64_t data_end, std::vector<StoredTensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.info.stored_bytes < b.info.stored_bytes;
  });
  int64_t previous_end = data_begin;
  for (const StoredTensor& tensor : tensors) {
    const TensorInfo& info = tensor.info;
    if (tensor.offset < data_begin || tensor.offset > data_end || info.stored_bytes > data_end - tensor.offset) {
      fail_input("{}: tensor {} lies at byte {} and takes {} bytes, the file has {}; damaged or truncated",
                 printable(file.path()),
                 printable(info.name),
                 tensor.offset,
                 info.stored_bytes,
                 file.size());
    }
    if (info.stored_bytes > 0 && tensor.offset < previous_end) {
      fail_input("{}: tensor {} shares bytes with another; damaged file", printable(file.path()), printable(info.name));
    }
    previous_end = std::max(previous_end, tensor.offset + info.stored_bytes);
  }
}

StoredCheckpoint::StoredCheckpoint(std::string_view format,
                                   std::string path,
                                   std::vector<std::unique_ptr<File>> files,
                                   std::vector<StoredTensor> tensors)
    : format_(format), path_(std::move(path)), files_(std::move(files)), tensors_(std::move(tensors)) {
  std::sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.info.name < b.info.name;
  });
  names_.reserve(tensors_.size());
  for (const StoredTensor& tensor : tensors_) {
    if (!names_.empty() && names_.back() == tensor.info.name) {
      fail_input("{}: tensor {} occurs twice, in {} too; damaged checkpoint",
                 printable(path_),
                 printable(tensor.info.name),
                 printable(tensor.info.file));
    }
    names_.push_back(tensor.info.name);
  }
}

const StoredTensor* StoredCheckpoint::find_stored(std::string_view name) const {
  auto found = std::lower_bound(names_.begin(), names_.end(), name);
  if (found == names_.end() || *found != name) return nullptr;
  return &tensors_[static_cast<size_t>(found - names_.begin())];
}

const TensorInfo* StoredCheckpoint::find(std::string_view name) const {
  const StoredTensor* tensor = find_stored(name);
  return tensor ? &tensor->info : nullptr;
}

void StoredCheckpoint::verify_checksum(const TensorInfo& info, const StoredPart& part, int64_t bytes) const {
  constexpr int64_t kPieceBytes = 4 << 20;
  if (!part.crc32c) return;
  std::vector<std::byte> piece;
  uint32_t crc = 0;
  for (int64_t at = 0; at < bytes; at += kPieceBytes) {
    piece.resize(static_cast<size_t>(std::min(kPieceBytes, bytes - at)));
    files_[part.file]->read(part.offset + at, piece.data(), static_cast<int64_t>(piece.size()));
    crc = extend_crc32c(crc, piece.data(), piece.size());
  }
  if (masked_crc32c(crc) == *part.crc32c) return;
  fail_input("{}: the checksum of tensor {} is wrong; damaged file, download it again",
             printable(files_[part.file]->path()),
             printable(info.name));
}

void StoredCheckpoint::verify_checksums(int part, int parts) const {
  for (size_t i = static_cast<size_t>(part); i < tensors_.size(); i += static_cast<size_t>(parts)) {
    const StoredTensor& tensor = tensors_[i];
    StoredPart whole{.file = tensor.file, .offset = tensor.offset, .crc32c = tensor.crc32c};
    verify_checksum(tensor.info, whole, tensor.info.stored_bytes);
    for (const StoredPart& piece : tensor.parts) {
      int64_t row_bytes = tensor.info.stored_bytes / tensor.info.shape[tensor.cut_dim];
      verify_checksum(tensor.info, piece, (piece.end - piece.begin) * row_bytes);
    }
  }
}

void StoredCheckpoint::read_parts(const StoredTensor& tensor,
                                  std::span<const int64_t> begin,
                                  std::span<const int64_t> end,
                                  void* into,
                                  DType dtype) const {
  auto dim = static_cast<size_t>(tensor.cut_dim);
  auto outer = static_cast<size_t>(num_elements_of(begin.first(dim), end.first(dim)));
  // Bytes of one position along the cut dimension.
  size_t row_bytes =
      dtype_bytes(dtype) * static_cast<size_t>(num_elements_of(begin.subspan(dim + 1), end.subspan(dim + 1)));
  std::vector<int64_t> part_begin(begin.begin(), begin.end());
  std::vector<int64_t> part_end(end.begin(), end.end());
  std::vector<std::byte> values;
  for (const StoredPart& part : tensor.parts) {
    int64_t first = std::max(begin[dim], part.begin);
    int64_t last = std::min(end[dim], part.end);
    if (first >= last) continue;
    part_begin[dim] = first - part.begin;
    part_end[dim] = last - part.begin;
    Shape shape = tensor.info.shape;
    shape.set(tensor.cut_dim, part.end - part.begin);
    StoredArray array{.file = *files_[part.file], .offset = part.offset, .type = *tensor.type, .shape = shape};
    size_t run_bytes = static_cast<size_t>(last - first) * row_bytes;
    if (outer * run_bytes == 0) return;
    values.resize(outer * run_bytes);
    bytes_read_ += read_box(array, part_begin, part_end, values.data(), dtype);
    auto* target = static_cast<std::byte*>(into) + static_cast<size_t>(first - begin[dim]) * row_bytes;
    size_t stride = static_cast<size_t>(end[dim] - begin[dim]) * row_bytes;
    for (size_t i = 0; i < outer; ++i) std::memcpy(target + i * stride, values.data() + i * run_bytes, run_bytes);
  }
}

void StoredCheckpoint::read_slice(std::string_view name,
                                  std::span<const int64_t> begin,
                                  std::span<const int64_t> end,
                                  void* into,
                                  DType dtype) const {
  const TensorInfo& tensor_info = info(name);
  const StoredTensor& tensor = *find_stored(name);
  if (!tensor.type) {
    fail_input("{}: tensor {} is stored as {}, which Weft doesn't read; convert it to BF16, F16 or F32",
               printable(tensor_info.file),
               printable(name),
               printable(tensor_info.storage_type));
  }
  check_box(tensor_info, begin, end);
  if (!tensor.parts.empty()) return read_parts(tensor, begin, end, into, dtype);
  StoredArray array{
      .file = *files_[tensor.file], .offset = tensor.offset, .type = *tensor.type, .shape = tensor_info.shape};
  bytes_read_ += read_box(array, begin, end, into, dtype);
}

}  // namespace weft
