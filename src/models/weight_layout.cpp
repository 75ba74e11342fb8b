#include "models/weight_layout.h"

#include <algorithm>
#include <array>

#include "checkpoint/reader.h"
#include "core/error.h"

namespace weft {
namespace {

/// Index, in the rows of a head as the file orders them, of our row.
int64_t permuted_row(int64_t row, int64_t head_dim) {
  int64_t head = row / head_dim;
  int64_t within = row % head_dim;
  int64_t half = head_dim / 2;
  return head * head_dim + (within < half ? 2 * within : 2 * (within - half) + 1);
}

int64_t head_dim_of(const Parameter& parameter) {
  int dim = parameter.shard.kind == ShardKind::head_columns ? 1 : 0;
  WEFT_ASSERT(parameter.shard.num_heads > 0, "{} has no heads", parameter.name);
  return parameter.full_shape[dim] / parameter.shard.num_heads;
}

/// Copies elements of `size` bytes: target(i, j) = source(j, i) for i < rows, j < columns.
void transpose(const std::byte* source, std::byte* target, int64_t rows, int64_t columns, size_t size) {
  constexpr int64_t kBlock = 32;
  for (int64_t i0 = 0; i0 < rows; i0 += kBlock) {
    for (int64_t j0 = 0; j0 < columns; j0 += kBlock) {
      for (int64_t i = i0; i < std::min(rows, i0 + kBlock); ++i) {
        for (int64_t j = j0; j < std::min(columns, j0 + kBlock); ++j) {
          std::copy_n(source + static_cast<size_t>(j * rows + i) * size,
                      size,
                      target + static_cast<size_t>(i * columns + j) * size);
        }
      }
    }
  }
}

struct Reading {
  const CheckpointReader& reader;
  const WeightSource& source;
  const Parameter& parameter;
  DType dtype;

  /// What this rank holds of dim `dim` of our matrix, of which rows [begin, end) of dim 0 are wanted.
  std::array<int64_t, 2> range(int dim, int64_t begin, int64_t end) const {
    int64_t offset = parameter.range.dim == dim ? parameter.range.begin : 0;
    if (dim == 0) offset += source.part.begin;
    if (dim == 0) return {offset + begin, offset + end};
    return {offset, offset + parameter.local_shape[dim]};
  }

  void box(std::initializer_list<std::array<int64_t, 2>> ranges, void* into) const {
    std::array<int64_t, Shape::kMaxRank> begin{};
    std::array<int64_t, Shape::kMaxRank> end{};
    size_t rank = 0;
    for (const auto& one : ranges) {
      begin[rank] = one[0];
      end[rank++] = one[1];
    }
    reader.read_slice(source.theirs, {begin.data(), rank}, {end.data(), rank}, into, dtype);
  }
};

void read_plain(const Reading& reading, int64_t begin, int64_t end, void* into) {
  if (reading.parameter.full_shape.rank() == 1) {
    reading.box({reading.range(0, begin, end)}, into);
  } else {
    reading.box({reading.range(0, begin, end), reading.range(1, begin, end)}, into);
  }
}

void read_transposed(const Reading& reading, int64_t begin, int64_t end, std::byte* into) {
  int64_t rows = end - begin;
  int64_t columns = reading.parameter.local_shape[1];
  std::vector<std::byte> buffer(static_cast<size_t>(rows * columns) * dtype_bytes(reading.dtype));
  reading.box({reading.range(1, begin, end), reading.range(0, begin, end)}, buffer.data());
  transpose(buffer.data(), into, rows, columns, dtype_bytes(reading.dtype));
}

/// theirs [H, in, d]; whole heads are read, of which rows [begin, end) are kept.
void read_heads_in(const Reading& reading, int64_t begin, int64_t end, std::byte* into) {
  int64_t head_dim = head_dim_of(reading.parameter);
  int64_t columns = reading.parameter.local_shape[1];
  size_t size = dtype_bytes(reading.dtype);
  std::vector<std::byte> buffer(static_cast<size_t>(head_dim * columns) * size);
  std::vector<std::byte> head_rows(buffer.size());
  auto [first, last] = reading.range(0, begin, end);
  for (int64_t head = first / head_dim; head * head_dim < last; ++head) {
    reading.box({{head, head + 1}, {0, columns}, {0, head_dim}}, buffer.data());
    transpose(buffer.data(), head_rows.data(), head_dim, columns, size);
    int64_t from = std::max(first, head * head_dim);
    int64_t to = std::min(last, (head + 1) * head_dim);
    size_t row_bytes = static_cast<size_t>(columns) * size;
    std::copy_n(head_rows.data() + static_cast<size_t>(from - head * head_dim) * row_bytes,
                static_cast<size_t>(to - from) * row_bytes,
                into + static_cast<size_t>(from - first) * row_bytes);
  }
}

/// theirs [H, d, out], that is [H·d, out]: a transpose over flattened heads.
void read_heads_out(const Reading& reading, int64_t begin, int64_t end, std::byte* into) {
  int64_t head_dim = head_dim_of(reading.parameter);
  auto [first, last] = reading.range(1, 0, 0);
  int64_t rows = end - begin;
  int64_t columns = last - first;
  std::vector<std::byte> buffer(static_cast<size_t>(rows * columns) * dtype_bytes(reading.dtype));
  reading.box({{first / head_dim, last / head_dim}, {0, head_dim}, reading.range(0, begin, end)}, buffer.data());
  transpose(buffer.data(), into, rows, columns, dtype_bytes(reading.dtype));
}

void read_rotary_permuted(const Reading& reading, int64_t begin, int64_t end, std::byte* into) {
  int64_t head_dim = head_dim_of(reading.parameter);
  auto [first, last] = reading.range(0, begin, end);
  int64_t head_begin = first / head_dim * head_dim;
  int64_t head_end = (last + head_dim - 1) / head_dim * head_dim;
  bool is_matrix = reading.parameter.full_shape.rank() == 2;
  int64_t columns = is_matrix ? reading.parameter.local_shape[1] : 1;
  size_t row_bytes = static_cast<size_t>(columns) * dtype_bytes(reading.dtype);
  std::vector<std::byte> buffer(static_cast<size_t>(head_end - head_begin) * row_bytes);
  if (is_matrix) {
    reading.box({{head_begin, head_end}, {0, columns}}, buffer.data());
  } else {
    reading.box({{head_begin, head_end}}, buffer.data());
  }
  for (int64_t row = first; row < last; ++row) {
    const std::byte* from = buffer.data() + static_cast<size_t>(permuted_row(row, head_dim) - head_begin) * row_bytes;
    std::copy_n(from, row_bytes, into + static_cast<size_t>(row - first) * row_bytes);
  }
}

/// theirs [in, H, d]; whole heads are read, of which rows [begin, end) are kept.
void read_heads_middle(const Reading& reading, int64_t begin, int64_t end, std::byte* into) {
  int64_t head_dim = head_dim_of(reading.parameter);
  int64_t columns = reading.parameter.local_shape[1];
  size_t size = dtype_bytes(reading.dtype);
  auto [first, last] = reading.range(0, begin, end);
  int64_t first_head = first / head_dim;
  int64_t last_head = (last + head_dim - 1) / head_dim;
  int64_t rows = (last_head - first_head) * head_dim;
  std::vector<std::byte> buffer(static_cast<size_t>(rows * columns) * size);
  std::vector<std::byte> transposed(buffer.size());
  reading.box({{0, columns}, {first_head, last_head}, {0, head_dim}}, buffer.data());
  transpose(buffer.data(), transposed.data(), rows, columns, size);
  size_t row_bytes = static_cast<size_t>(columns) * size;
  std::copy_n(transposed.data() + static_cast<size_t>(first - first_head * head_dim) * row_bytes,
              static_cast<size_t>(last - first) * row_bytes,
              into);
}

void read_flat_vector(const Reading& reading, int64_t begin, int64_t end, void* into) {
  reading.box({{0, 1}, {0, 1}, reading.range(0, begin, end)}, into);
}

void read_stacked(const Reading& reading, int64_t begin, int64_t end, std::byte* into) {
  int64_t offset = reading.parameter.range.dim == 0 ? reading.parameter.range.begin : 0;
  int64_t rows = end - begin;
  int64_t columns = reading.parameter.local_shape[1];
  int64_t number = reading.source.part.begin;
  std::vector<std::byte> buffer(static_cast<size_t>(rows * columns) * dtype_bytes(reading.dtype));
  reading.box({{number, number + 1}, reading.range(1, begin, end), {offset + begin, offset + end}}, buffer.data());
  transpose(buffer.data(), into, rows, columns, dtype_bytes(reading.dtype));
}

void read_head_vectors(const Reading& reading, int64_t begin, int64_t end, std::byte* into) {
  int64_t head_dim = head_dim_of(reading.parameter);
  auto [first, last] = reading.range(0, begin, end);
  int64_t first_head = first / head_dim;
  int64_t last_head = (last + head_dim - 1) / head_dim;
  size_t size = dtype_bytes(reading.dtype);
  std::vector<std::byte> buffer(static_cast<size_t>((last_head - first_head) * head_dim) * size);
  reading.box({{first_head, last_head}, {0, head_dim}}, buffer.data());
  std::copy_n(buffer.data() + static_cast<size_t>(first - first_head * head_dim) * size,
              static_cast<size_t>(last - first) * size,
              into);
}

/// Means are taken in f32.
void read_selected(Reading reading, int64_t begin, int64_t end, std::byte* into) {
  const RowSelection& selection = *reading.source.selection;
  bool is_matrix = reading.parameter.full_shape.rank() == 2;
  int64_t width = is_matrix ? reading.parameter.local_shape[1] : 1;
  DType dtype = reading.dtype;
  reading.dtype = DType::f32;
  std::vector<float> row(static_cast<size_t>(width));
  std::vector<float> mean(row.size());
  auto [first, last] = reading.range(0, begin, end);
  for (int64_t i = first; i < last; ++i) {
    const RowSelection::Row& wanted = selection.rows[static_cast<size_t>(i)];
    double total = 0;
    for (size_t k = 0; k < wanted.ids.size(); ++k) total += wanted.weights.empty() ? 1 : wanted.weights[k];
    std::fill(mean.begin(), mean.end(), 0.0f);
    for (size_t k = 0; k < wanted.ids.size(); ++k) {
      std::array<int64_t, 2> rows = {wanted.ids[k], wanted.ids[k] + 1};
      if (is_matrix && reading.source.transform == WeightTransform::transpose) {
        reading.box({reading.range(1, 0, 0), rows}, row.data());
      } else if (is_matrix) {
        reading.box({rows, reading.range(1, 0, 0)}, row.data());
      } else {
        reading.box({rows}, row.data());
      }
      auto weight = static_cast<float>((wanted.weights.empty() ? 1 : wanted.weights[k]) / total);
      for (size_t j = 0; j < row.size(); ++j) mean[j] += weight * row[j];
    }
    std::byte* target = into + static_cast<size_t>((i - first) * width) * dtype_bytes(dtype);
    convert_dtype(mean.data(), DType::f32, target, dtype, width);
  }
}

void read_minus_one(Reading reading, int64_t begin, int64_t end, void* into) {
  DType dtype = reading.dtype;
  reading.dtype = DType::f32;
  std::vector<float> values(static_cast<size_t>(end - begin));
  read_plain(reading, begin, end, values.data());
  for (float& value : values) value -= 1.0f;
  convert_dtype(values.data(), DType::f32, into, dtype, end - begin);
}

/// Calls body(index in the parameter, index in the tensor that it is a part of).
template <typename Body>
void for_each_of_part(const WeightSource& source, const Parameter& parameter, const Body& body) {
  bool is_transposed = source.transform == WeightTransform::transpose;
  int64_t width = parameter.full_shape.rank() == 2 ? parameter.full_shape[1] : 1;
  if (source.transform == WeightTransform::stacked) {
    int64_t rows = parameter.full_shape[0];
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < width; ++j) body(i * width + j, (source.part.begin * width + j) * rows + i);
    }
    return;
  }
  for (int64_t i = 0; i < parameter.full_shape[0]; ++i) {
    int64_t row = source.part.begin + i;
    for (int64_t j = 0; j < width; ++j) {
      body(i * width + j, is_transposed ? j * source.part.total + row : row * width + j);
    }
  }
}

}  // namespace

Shape format_shape(const WeightSource& source, const Parameter& parameter) {
  Shape shape = parameter.full_shape;
  if (source.transform == WeightTransform::stacked) return {source.part.total, shape[1], shape[0]};
  if (source.part.total > 0) shape.set(0, source.part.total);
  if (source.selection != nullptr) shape.set(0, source.selection->source_rows);
  switch (source.transform) {
    case WeightTransform::transpose:
      return {shape[1], shape[0]};
    case WeightTransform::heads_in:
      return {parameter.shard.num_heads, shape[1], head_dim_of(parameter)};
    case WeightTransform::heads_out:
      return {parameter.shard.num_heads, head_dim_of(parameter), shape[0]};
    case WeightTransform::heads_middle:
      return {shape[1], parameter.shard.num_heads, head_dim_of(parameter)};
    case WeightTransform::head_vectors:
      return {parameter.shard.num_heads, head_dim_of(parameter)};
    case WeightTransform::flat_vector:
      return {1, 1, shape[0]};
    default:
      return shape;
  }
}

std::vector<float> to_format(WeightTransform transform,
                             const Parameter& parameter,
                             const std::vector<float>& full,
                             bool is_gradient) {
  const Shape& shape = parameter.full_shape;
  std::vector<float> result(full.size());
  const auto* source = reinterpret_cast<const std::byte*>(full.data());
  auto* target = reinterpret_cast<std::byte*>(result.data());
  switch (transform) {
    case WeightTransform::none:
    case WeightTransform::head_vectors:
    case WeightTransform::flat_vector:
      return full;
    case WeightTransform::transpose:
    case WeightTransform::stacked:
    case WeightTransform::heads_middle:
    case WeightTransform::heads_out:
      transpose(source, target, shape[1], shape[0], sizeof(float));
      return result;
    case WeightTransform::heads_in: {
      int64_t head_dim = head_dim_of(parameter);
      size_t head_bytes = static_cast<size_t>(head_dim * shape[1]) * sizeof(float);
      for (size_t head = 0; head < static_cast<size_t>(parameter.shard.num_heads); ++head) {
        transpose(source + head * head_bytes, target + head * head_bytes, shape[1], head_dim, sizeof(float));
      }
      return result;
    }
    case WeightTransform::rotary_permuted: {
      int64_t columns = shape.rank() == 2 ? shape[1] : 1;
      for (int64_t row = 0; row < shape[0]; ++row) {
        std::copy_n(
            full.data() + row * columns, columns, result.data() + permuted_row(row, head_dim_of(parameter)) * columns);
      }
      return result;
    }
    case WeightTransform::minus_one:
      std::transform(
          full.begin(), full.end(), result.begin(), [&](float value) { return is_gradient ? value : value + 1.0f; });
      return result;
  }
  return result;
}

void copy_part(const WeightSource& source, const Parameter& parameter, const float* ours, float* theirs) {
  for_each_of_part(source, parameter, [&](int64_t mine, int64_t at) { theirs[at] = ours[mine]; });
}

void copy_part_back(const WeightSource& source, const Parameter& parameter, const float* theirs, float* ours) {
  for_each_of_part(source, parameter, [&](int64_t mine, int64_t at) { ours[mine] = theirs[at]; });
}

void read_rows(const CheckpointReader& reader,
               const WeightSource& source,
               const Parameter& parameter,
               int64_t begin,
               int64_t end,
               void* into,
               DType dtype) {
  Reading reading{reader, source, parameter, dtype};
  auto* bytes = static_cast<std::byte*>(into);
  if (source.selection != nullptr) return read_selected(reading, begin, end, bytes);
  switch (source.transform) {
    case WeightTransform::none:
      return read_plain(reading, begin, end, into);
    case WeightTransform::transpose:
      return read_transposed(reading, begin, end, bytes);
    case WeightTransform::heads_in:
      return read_heads_in(reading, begin, end, bytes);
    case WeightTransform::heads_out:
      return read_heads_out(reading, begin, end, bytes);
    case WeightTransform::rotary_permuted:
      return read_rotary_permuted(reading, begin, end, bytes);
    case WeightTransform::minus_one:
      return read_minus_one(reading, begin, end, into);
    case WeightTransform::heads_middle:
      return read_heads_middle(reading, begin, end, bytes);
    case WeightTransform::head_vectors:
      return read_head_vectors(reading, begin, end, bytes);
    case WeightTransform::flat_vector:
      return read_flat_vector(reading, begin, end, into);
    case WeightTransform::stacked:
      return read_stacked(reading, begin, end, bytes);
  }
}

}  // namespace weft
