#include "plan/planned_optimizer.h"

#include <algorithm>
#include <cmath>

#include "optimizer/update_rule.h"

namespace weft {
namespace {

constexpr int64_t kFloatBytes = 4;
constexpr int64_t kDoubleBytes = 8;

int64_t rows_and_columns(const Shape& shape) {
  if (shape.rank() < 2) return 0;
  return shape.num_elements() / shape[-1] + shape.num_elements() / shape[-2];
}

}  // namespace

int64_t optimizer_piece_bytes(const OptimizerOptions& options, DType dtype, const std::vector<PlannedPiece>& pieces) {
  double bytes = 0;
  for (const PlannedPiece& piece : pieces) {
    const Parameter& parameter = *piece.parameter;
    bytes += static_cast<double>(piece.count) *
             optimizer_bytes_per_element(options, dtype, parameter.full_shape, parameter.block);
  }
  return std::llround(bytes);
}

PlannedOptimizer::PlannedOptimizer(const PlanContext& context,
                                   const OptimizerOptions& options,
                                   const std::vector<Parameter*>& trained,
                                   std::vector<PlannedPiece> pieces,
                                   bool is_shared)
    : context_(context), options_(options), pieces_(std::move(pieces)), is_shared_(is_shared) {
  for (const Parameter* parameter : trained) {
    const Shape& shape = parameter->full_shape;
    if (options_.kind == OptimizerKind::adafactor) vector_elements_ += rows_and_columns(shape);
    if (options_.lazy_rows && shape.rank() >= 2) lazy_rows_ += shape[0];
  }
  int64_t bytes = optimizer_piece_bytes(options_, context_.dtype, pieces_) + vector_elements_ * kFloatBytes;
  states_ = context_.empty(bytes, MemoryTag::optimizer);
}

void PlannedOptimizer::step() const {
  context_.touch(lazy_rows_ * kFloatBytes);
  if (options_.kind == OptimizerKind::muon) context_.touch(muon_workspace());
  if (options_.kind != OptimizerKind::adafactor) return;
  if (is_shared_) context_.empty(vector_elements_ * kDoubleBytes, MemoryTag::comm);
  context_.touch(adafactor_workspace());
}

/// The piece's update, the gathered matrix, it normalised, the next iterate and two squares of the shorter side.
int64_t PlannedOptimizer::muon_workspace() const {
  int64_t most = 0;
  for (const PlannedPiece& piece : pieces_) {
    const Shape& shape = piece.parameter->full_shape;
    if (!is_muon_matrix(shape, piece.parameter->block)) continue;
    int64_t side = std::min(shape[0], shape[1]);
    most = std::max(most, 4 * shape.num_elements() + 2 * side * side);
  }
  return most * kFloatBytes;
}

/// A piece's update, or each thread's sums of rows and columns.
int64_t PlannedOptimizer::adafactor_workspace() const {
  int64_t most = 0;
  for (const PlannedPiece& piece : pieces_) {
    int64_t sums = context_.num_threads * rows_and_columns(piece.parameter->full_shape) * kDoubleBytes;
    most = std::max({most, piece.count * kFloatBytes, sums});
  }
  return most;
}

}  // namespace weft
