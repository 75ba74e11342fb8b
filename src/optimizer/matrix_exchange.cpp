#include "optimizer/matrix_exchange.h"

#include <algorithm>

#include "optimizer/element_map.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

/// Calls body(local, full, count) for the stretches in which a slice lies in the whole.
template <typename Body>
void for_each_stretch(const Shape& full_shape, const ShardRange& range, const Body& body) {
  ElementMap map = element_map(full_shape, range, 0);
  int64_t count = slice_elements(full_shape, range);
  for (int64_t local = 0; local < count;) {
    int64_t length = std::min(count - local, map.run_length(local));
    body(local, map.full_index(local), length);
    local += length;
  }
}

void copy_into(const Tensor& slice, int64_t begin, const Tensor& values) {
  slice.slice(begin, begin + values.num_elements()).copy_from(values);
}

Tensor flat(const Tensor& matrix) {
  return matrix.reshape({matrix.num_elements()});
}

}  // namespace

MatrixExchange::MatrixExchange(const Context& context, TensorParallelPlace place, const PieceSharing& sharing)
    : context_(context),
      place_(place),
      sharing_(sharing),
      data_rank_(sharing.data_parallel == nullptr ? 0 : sharing.data_parallel->rank()) {}

ShardRange MatrixExchange::range_of(const DirectoryParameter& parameter, int tensor_rank) const {
  return shard_range(parameter.shard, parameter.full_shape, {tensor_rank, place_.size});
}

bool MatrixExchange::counts(const DirectoryParameter& parameter, int tensor_rank) const {
  return is_first_holder(parameter.shard, {tensor_rank, place_.size});
}

Tensor MatrixExchange::empty_slice(const DirectoryParameter& parameter, int tensor_rank) const {
  int64_t count = slice_elements(parameter.full_shape, range_of(parameter, tensor_rank));
  return context_.empty({count}, DType::f32, MemoryTag::workspace);
}

/// This tensor rank's slice on `data_rank`, undefined on the others.
Tensor MatrixExchange::gather_slice(const DirectoryParameter& parameter,
                                    int data_rank,
                                    const std::vector<SlicePart>& parts) const {
  if (data_rank_ != data_rank) {
    for (const SlicePart& part : parts) sharing_.data_parallel->send(part.values, data_rank);
    return {};
  }
  Tensor slice = empty_slice(parameter, place_.rank);
  for (const SlicePart& part : parts) copy_into(slice, part.begin, part.values);
  for (const HeldRun& run : parameter.runs) {
    if (run.tensor_rank != place_.rank || run.data_rank == data_rank || run.begin == run.end) continue;
    Tensor values = slice.slice(run.begin, run.end);
    sharing_.data_parallel->receive(values, run.data_rank);
  }
  return slice;
}

Tensor MatrixExchange::gather(const DirectoryParameter& parameter,
                              MatrixOwner owner,
                              const std::vector<SlicePart>& parts) const {
  Tensor own_slice;
  bool has_slice = counts(parameter, place_.rank);
  if (has_slice) own_slice = gather_slice(parameter, owner.data_rank, parts);
  if (data_rank_ != owner.data_rank) return {};
  if (place_.rank != owner.tensor_rank) {
    if (has_slice) sharing_.tensor_parallel->send(own_slice, owner.tensor_rank);
    return {};
  }
  Tensor matrix = context_.empty(parameter.full_shape, DType::f32, MemoryTag::workspace);
  for (int rank = 0; rank < place_.size; ++rank) {
    if (!counts(parameter, rank)) continue;
    Tensor slice = own_slice;
    if (rank != place_.rank) {
      slice = empty_slice(parameter, rank);
      sharing_.tensor_parallel->receive(slice, rank);
    }
    for_each_stretch(parameter.full_shape, range_of(parameter, rank), [&](int64_t local, int64_t full, int64_t count) {
      copy_into(flat(matrix), full, slice.slice(local, local + count));
    });
  }
  return matrix;
}

void MatrixExchange::scatter_slice(const DirectoryParameter& parameter,
                                   int data_rank,
                                   const Tensor& slice,
                                   std::vector<SlicePart>& parts) const {
  if (data_rank_ != data_rank) {
    for (SlicePart& part : parts) sharing_.data_parallel->receive(part.values, data_rank);
    return;
  }
  for (SlicePart& part : parts) {
    part.values.copy_from(slice.slice(part.begin, part.end));
  }
  for (const HeldRun& run : parameter.runs) {
    if (run.tensor_rank != place_.rank || run.data_rank == data_rank || run.begin == run.end) continue;
    sharing_.data_parallel->send(slice.slice(run.begin, run.end), run.data_rank);
  }
}

void MatrixExchange::scatter(const DirectoryParameter& parameter,
                             MatrixOwner owner,
                             const Tensor& matrix,
                             std::vector<SlicePart>& parts) const {
  Tensor own_slice;
  if (data_rank_ == owner.data_rank && place_.rank != owner.tensor_rank) {
    own_slice = empty_slice(parameter, place_.rank);
    sharing_.tensor_parallel->receive(own_slice, owner.tensor_rank);
  } else if (self() == owner) {
    for (int rank = 0; rank < place_.size; ++rank) {
      Tensor slice = empty_slice(parameter, rank);
      for_each_stretch(
          parameter.full_shape, range_of(parameter, rank), [&](int64_t local, int64_t full, int64_t count) {
            copy_into(slice, local, flat(matrix).slice(full, full + count));
          });
      if (rank == place_.rank) {
        own_slice = slice;
      } else {
        sharing_.tensor_parallel->send(slice, rank);
      }
    }
  }
  scatter_slice(parameter, owner.data_rank, own_slice, parts);
}

}  // namespace weft
