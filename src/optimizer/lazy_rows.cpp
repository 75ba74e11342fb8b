#include "optimizer/lazy_rows.h"

#include <algorithm>

#include "optimizer/element_map.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

/// The runs of a piece that lie in one row each.
template <typename Body>
void for_each_row(const OptimizerPiece& piece, const Body& body) {
  const Parameter& parameter = *piece.parameter;
  ElementMap map = element_map(parameter.full_shape, parameter.range, piece.begin);
  int64_t row_elements = parameter.full_shape.num_elements() / parameter.full_shape[0];
  int64_t count = piece.end - piece.begin;
  for (int64_t begin = 0; begin < count;) {
    int64_t full = map.full_index(begin);
    int64_t end = std::min({count, begin + map.run_length(begin), begin + row_elements - full % row_elements});
    body(full / row_elements, begin, end);
    begin = end;
  }
}

bool is_lazy(const Shape& full_shape) {
  return full_shape.rank() >= 2;
}

/// Where the rows of each parameter of the directory begin in one vector of all rows; the last is their number.
std::vector<int64_t> row_offsets(const ParameterDirectory& directory) {
  std::vector<int64_t> offsets{0};
  for (const DirectoryParameter& parameter : directory.parameters()) {
    offsets.push_back(offsets.back() + (is_lazy(parameter.full_shape) ? parameter.full_shape[0] : 0));
  }
  return offsets;
}

void append(std::vector<ElementRun>& runs, int64_t begin, int64_t end) {
  if (!runs.empty() && runs.back().end == begin) {
    runs.back().end = end;
  } else {
    runs.push_back({begin, end});
  }
}

}  // namespace

void find_active_rows(PieceSet& pieces) {
  std::vector<int64_t> offsets = row_offsets(pieces.directory());
  if (offsets.back() == 0) return;
  Tensor active = pieces.context().host_zeros({offsets.back()}, DType::i32, MemoryTag::workspace);
  auto* flags = active.data<int32_t>();
  auto for_lazy_pieces = [&](const auto& body) {
    for (size_t index = 0; index < pieces.size(); ++index) {
      if (pieces.count(index) == 0 || !is_lazy(pieces.piece(index).parameter->full_shape)) continue;
      body(index, flags + offsets[pieces.settings(index).parameter_index]);
    }
  };
  for_lazy_pieces([&](size_t index, int32_t* rows) {
    Tensor gradient = on_host(pieces.piece(index).grad);
    const float* grad = gradient.data<float>();
    for_each_row(pieces.piece(index), [&](int64_t row, int64_t begin, int64_t end) {
      if (std::any_of(grad + begin, grad + end, [](float value) { return value != 0; })) rows[row] = 1;
    });
  });
  for (Communicator* group : {pieces.sharing().data_parallel, pieces.sharing().tensor_parallel}) {
    if (group != nullptr) group->all_reduce(active, ReduceOp::max);
  }
  for_lazy_pieces([&](size_t index, const int32_t* rows) {
    std::vector<ElementRun>& runs = pieces.active_runs(index);
    runs.clear();
    for_each_row(pieces.piece(index), [&](int64_t row, int64_t begin, int64_t end) {
      if (rows[row] != 0) append(runs, begin, end);
    });
  });
}

}  // namespace weft
