#include "kernels/embedding.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/row_ids.cuh"

namespace weft::cuda {
namespace {

constexpr int kRowThreads = 256;

template <typename T>
struct RowLookup {
  const T* table;
  T* y;
  int64_t width, row_begin, rows;
  float scale;
};

/// A block a row.
template <typename T, int N, typename Ids>
__global__ void __launch_bounds__(kRowThreads)
    lookup_kernel(const __grid_constant__ RowLookup<T> lookup, const __grid_constant__ Ids ids) {
  let_next_start();
  wait_for_previous();
  int64_t index = int64_t{ids.at(blockIdx.x)} - lookup.row_begin;
  bool is_here = index >= 0 && index < lookup.rows;
  const T* source = lookup.table + (is_here ? index : 0) * lookup.width;
  T* target = lookup.y + int64_t{blockIdx.x} * lookup.width;
  int64_t stride = int64_t{blockDim.x} * N;
  for (int64_t column = int64_t{threadIdx.x} * N; column < lookup.width; column += stride) {
    float values[N] = {};
    if (is_here) load_floats(source + column, values);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] *= is_here ? lookup.scale : 0.0f;
    store_floats(target + column, values);
  }
}

/// Threads a row: a multiple of 32 up to kRowThreads.
template <int N>
int row_threads(int64_t width) {
  return static_cast<int>(std::min<int64_t>(ceil_div(ceil_div(width, N), 32) * 32, kRowThreads));
}

template <typename T, int N>
void launch_lookup(const RowLookup<T>& lookup, const int32_t* ids, int64_t num_ids, CudaDevice& device) {
  auto blocks = static_cast<unsigned>(num_ids);
  int threads = row_threads<N>(lookup.width);
  with_row_ids(ids, num_ids, device, [&](const auto& values) {
    launch(lookup_kernel<T, N, std::decay_t<decltype(values)>>, blocks, threads, 0, device, lookup, values);
  });
}

template <typename T>
void look_up(const RowLookup<T>& lookup, const int32_t* ids, int64_t num_ids, CudaDevice& device, const char* kernel) {
  constexpr int kSize = kPackSize<T>;
  if (num_ids == 0 || lookup.width == 0) return;
  if (lookup.width % kSize == 0 && is_aligned(lookup.table) && is_aligned(lookup.y)) {
    launch_lookup<T, kSize>(lookup, ids, num_ids, device);
  } else {
    launch_lookup<T, 1>(lookup, ids, num_ids, device);
  }
  check_launch(kernel);
}

void forward(const EmbeddingForwardArgs& args, const Stream& stream) {
  dispatch(args.dtype, "embedding", [&](auto zero) {
    using T = decltype(zero);
    RowLookup<T> lookup{.table = static_cast<const T*>(args.table),
                        .y = static_cast<T*>(args.y),
                        .width = args.width,
                        .row_begin = args.row_begin,
                        .rows = args.rows,
                        .scale = args.scale};
    look_up(lookup, args.ids, args.num_ids, device_of(stream), "embedding");
  });
}

/// Positions by the row that they are added to: group g is positions[begins[g]] … positions[begins[g + 1] - 1], in
/// ascending order, for row rows[g].
struct Groups {
  std::vector<int32_t> positions, begins = {0}, rows;

  int64_t size() const { return static_cast<int64_t>(rows.size()); }
  void end(int64_t row) {
    begins.push_back(static_cast<int32_t>(positions.size()));
    rows.push_back(static_cast<int32_t>(row));
  }
};

/// The positions of each row within [row_begin, row_begin + rows), linked in ascending order.
class PositionLists {
 public:
  PositionLists(const int32_t* ids, int64_t num_ids, int64_t row_begin, int64_t rows)
      : first_(static_cast<size_t>(rows), -1), next_(static_cast<size_t>(num_ids), -1) {
    for (int64_t i = num_ids - 1; i >= 0; --i) {
      int64_t row = int64_t{ids[i]} - row_begin;
      if (row < 0 || row >= rows) continue;
      int32_t& first = first_[static_cast<size_t>(row)];
      next_[static_cast<size_t>(i)] = first;
      first = static_cast<int32_t>(i);
    }
  }
  int32_t first(int64_t row) const { return first_[static_cast<size_t>(row)]; }
  int32_t next(int32_t position) const { return next_[static_cast<size_t>(position)]; }

 private:
  std::vector<int32_t> first_, next_;
};

/// One group a row, in the order in which the rows first appear; groups longer than `longest` are cut.
Groups group_positions(const int32_t* ids, int64_t num_ids, int64_t row_begin, int64_t rows, int64_t longest) {
  PositionLists lists(ids, num_ids, row_begin, rows);
  Groups groups;
  groups.positions.reserve(static_cast<size_t>(num_ids));
  for (int64_t i = 0; i < num_ids; ++i) {
    int64_t row = int64_t{ids[i]} - row_begin;
    if (row < 0 || row >= rows || lists.first(row) != i) continue;
    int64_t length = 0;
    for (int32_t position = lists.first(row); position >= 0; position = lists.next(position)) {
      groups.positions.push_back(position);
      if (++length % longest == 0 && lists.next(position) >= 0) groups.end(row);
    }
    groups.end(row);
  }
  return groups;
}

struct DeviceGroups {
  const int32_t* positions;
  const int32_t* begins;
  const int32_t* rows;
};

/// Groups as one upload.
class UploadedGroups {
 public:
  UploadedGroups(CudaDevice& device, const Groups& groups) {
    std::vector<int32_t> all = groups.begins;
    all.insert(all.end(), groups.rows.begin(), groups.rows.end());
    all.insert(all.end(), groups.positions.begin(), groups.positions.end());
    buffer_ = std::make_unique<DeviceBuffer<int32_t>>(uploaded(device, all.data(), static_cast<int64_t>(all.size())));
    const int32_t* begins = buffer_->data();
    const int32_t* rows = begins + groups.begins.size();
    view_ = {.positions = rows + groups.rows.size(), .begins = begins, .rows = rows};
  }
  const DeviceGroups& view() const { return view_; }

 private:
  std::unique_ptr<DeviceBuffer<int32_t>> buffer_;
  DeviceGroups view_{};
};

/// target[rows[g]] += scale · source[position] for the positions of each group in order, rounded to D at each step as
/// the CPU does. A block does one group's columns or a part of them: no two write the same element.
template <typename S, typename D, int N>
__global__ void __launch_bounds__(kRowThreads)
    add_groups_kernel(const S* source, D* target, DeviceGroups groups, int64_t width, float scale) {
  int32_t begin = groups.begins[blockIdx.x], end = groups.begins[blockIdx.x + 1];
  D* row = target + int64_t{groups.rows[blockIdx.x]} * width;
  int64_t stride = int64_t{gridDim.y} * blockDim.x * N;
  for (int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * N; column < width; column += stride) {
    float sums[N];
    load_floats(row + column, sums);
#pragma unroll 4
    for (int32_t i = begin; i < end; ++i) {
      float values[N];
      load_floats(source + groups.positions[i] * width + column, values);
#pragma unroll
      for (int k = 0; k < N; ++k) sums[k] = to_float(from_float<D>(fmaf(values[k], scale, sums[k])));
    }
    store_floats(row + column, sums);
  }
}

template <typename S, typename D>
void add_groups(const S* source,
                D* target,
                const Groups& groups,
                int64_t width,
                float scale,
                CudaDevice& device,
                const char* kernel) {
  if (groups.size() == 0) return;
  constexpr int kSize = 4;
  UploadedGroups on_device(device, groups);
  auto launch = [&]<int N>(std::integral_constant<int, N>) {
    int threads = std::min(row_threads<N>(width), 128);
    auto parts = static_cast<unsigned>(std::min<int64_t>(ceil_div(ceil_div(width, N), threads), 65535));
    dim3 blocks(static_cast<unsigned>(groups.size()), parts);
    add_groups_kernel<S, D, N><<<blocks, threads, 0, device.stream()>>>(source, target, on_device.view(), width, scale);
  };
  if (width % kSize == 0 && packs_fit(source, kSize) && packs_fit(target, kSize)) {
    launch(std::integral_constant<int, kSize>{});
  } else {
    launch(std::integral_constant<int, 1>{});
  }
  check_launch(kernel);
}

/// Positions that one block adds up: a token that fills half of a batch must not keep one block busy for long.
constexpr int64_t kLongestGroup = 256;

/// Rows with more positions than kLongestGroup get partial sums, which are added up in order afterwards: the result
/// does not depend on the order in which blocks run.
template <typename T>
void add_in_parts(const EmbeddingBackwardArgs& args, const Groups& groups, CudaDevice& device) {
  const T* dy = static_cast<const T*>(args.dy);
  auto* dtable = static_cast<float*>(args.dtable);
  Groups whole, parts, sums;  // groups of a row of their own; parts of a row, each with a row of partial sums; those
  for (int64_t g = 0; g < groups.size(); ++g) {
    auto at = static_cast<size_t>(g);
    int32_t row = groups.rows[at];
    bool is_followed = at + 1 < groups.rows.size() && groups.rows[at + 1] == row;
    bool is_following = at > 0 && groups.rows[at - 1] == row;
    bool is_part = is_followed || is_following;
    Groups& into = is_part ? parts : whole;
    into.positions.insert(into.positions.end(),
                          groups.positions.begin() + groups.begins[at],
                          groups.positions.begin() + groups.begins[at + 1]);
    if (is_part) sums.positions.push_back(static_cast<int32_t>(parts.size()));
    into.end(is_part ? parts.size() : row);
    if (is_following && !is_followed) sums.end(row);
  }
  add_groups(dy, dtable, whole, args.width, args.scale, device, "embedding_backward");
  if (parts.size() == 0) return;
  DeviceBuffer<float> partial(device, parts.size() * args.width);
  device.fill_zero(partial.data(), static_cast<size_t>(parts.size() * args.width) * sizeof(float));
  add_groups(dy, partial.data(), parts, args.width, args.scale, device, "embedding_backward");
  add_groups(partial.data(), dtable, sums, args.width, 1.0f, device, "embedding_backward");
}

void backward(const EmbeddingBackwardArgs& args, const Stream& stream) {
  if (args.num_ids == 0 || args.width == 0 || args.rows == 0) return;
  dispatch(args.dtype, "embedding_backward", [&](auto zero) {
    Groups groups = group_positions(args.ids, args.num_ids, args.row_begin, args.rows, kLongestGroup);
    add_in_parts<decltype(zero)>(args, groups, device_of(stream));
  });
}

void gather_rows(const GatherRowsArgs& args, const Stream& stream) {
  if (args.num_indices == 0 || args.width == 0) return;
  CudaDevice& device = device_of(stream);
  dispatch(args.dtype, "gather_rows", [&](auto zero) {
    using T = decltype(zero);
    if (args.scatter_add) {
      T* x = static_cast<T*>(const_cast<void*>(args.x));
      int64_t rows = *std::max_element(args.indices, args.indices + args.num_indices) + int64_t{1};
      Groups groups = group_positions(args.indices, args.num_indices, 0, rows, args.num_indices);
      add_groups(static_cast<const T*>(args.y), x, groups, args.width, 1.0f, device, "scatter_rows");
      return;
    }
    RowLookup<T> lookup{.table = static_cast<const T*>(args.x),
                        .y = static_cast<T*>(args.y),
                        .width = args.width,
                        .row_begin = 0,
                        .rows = std::numeric_limits<int64_t>::max(),
                        .scale = 1.0f};
    look_up(lookup, args.indices, args.num_indices, device, "gather_rows");
  });
}

}  // namespace
}  // namespace weft::cuda

namespace weft {

EmbeddingKernels cuda_embedding_kernels() {
  return {.forward = cuda::forward, .backward = cuda::backward, .gather_rows = cuda::gather_rows};
}

}  // namespace weft
