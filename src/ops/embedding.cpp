#include "ops/embedding.h"

#include <algorithm>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

class EmbeddingNode final : public Node {
 public:
  EmbeddingNode(
      Tensor table, std::span<const int32_t> ids, int64_t row_begin, float scale, std::shared_ptr<GradSlot> output)
      : table_(std::move(table)),
        ids_(ids.begin(), ids.end()),
        row_begin_(row_begin),
        scale_(scale),
        output_(std::move(output)) {}
  std::string_view name() const override { return "embedding"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    GradTarget target = grad_target(context, *table_.grad_slot(), table_.shape(), parameter_grad_dtype(table_.dtype()));
    if (!target.accumulate) target.tensor.fill_zero();
    auto kernel = require_kernel(context.kernels().embedding.backward, "embedding backward", context.device.type);
    kernel({.ids = ids_.data(),
            .dy = dy.raw(),
            .dtable = target.tensor.raw(),
            .num_ids = static_cast<int64_t>(ids_.size()),
            .width = table_.size(1),
            .row_begin = row_begin_,
            .rows = table_.size(0),
            .scale = scale_,
            .dtype = dy.dtype()},
           context.stream());
  }

 private:
  Tensor table_;
  std::vector<int32_t> ids_;
  int64_t row_begin_;
  float scale_;
  std::shared_ptr<GradSlot> output_;
};

class GatherRowsNode final : public Node {
 public:
  GatherRowsNode(Tensor x, std::span<const int32_t> indices, std::shared_ptr<GradSlot> output)
      : x_(std::move(x)), indices_(indices.begin(), indices.end()), output_(std::move(output)) {}
  std::string_view name() const override { return "gather_rows"; }

  void backward(Context& context) override {
    Tensor dy = take_grad(output_);
    if (!dy) return;
    Tensor dx = context.zeros(x_.shape(), x_.dtype());
    auto kernel = require_kernel(context.kernels().embedding.gather_rows, "gather_rows backward", context.device.type);
    kernel({.x = dx.raw(),
            .indices = indices_.data(),
            .y = dy.raw(),
            .num_indices = static_cast<int64_t>(indices_.size()),
            .width = x_.size(1),
            .scatter_add = true,
            .dtype = x_.dtype()},
           context.stream());
    add_grad(context, x_.grad_slot(), std::move(dx));
  }

 private:
  Tensor x_;
  std::vector<int32_t> indices_;
  std::shared_ptr<GradSlot> output_;
};

Tensor packed_lookup(
    Context& context, const Tensor& table, std::span<const int32_t> ids, int64_t row_begin, float factor) {
  auto is_here = [&](int32_t id) { return id >= row_begin && id < row_begin + table.size(0); };
  // Passed on where they lie, if they can be: they may be late values.
  std::vector<int32_t> rows;
  if (row_begin != 0 || !std::ranges::all_of(ids, is_here)) {
    for (int32_t id : ids) rows.push_back(is_here(id) ? static_cast<int32_t>(id - row_begin) : -1);
  }
  Tensor y = context.empty({static_cast<int64_t>(ids.size()), table.size(1)}, table.dtype());
  auto unpack = require_kernel(context.kernels().linear.unpack_rows, "unpack_rows", context.device.type);
  unpack({.packed = table.raw(),
          .indices = rows.empty() ? ids.data() : rows.data(),
          .rows = y.raw(),
          .num_indices = y.size(0),
          .out_features = table.size(0),
          .in_features = table.size(1),
          .dtype = table.dtype(),
          .layout = table.layout()},
         context.stream());
  return factor == 1.0f ? y : scale(context, y, factor);
}

}  // namespace

Tensor embedding(Context& context, const Tensor& table, std::span<const int32_t> ids, int64_t row_begin, float scale) {
  if (table.layout() != Layout::row_major) {
    WEFT_ASSERT(!is_recording(context, {&table}), "embedding has no backward through a packed table");
    return packed_lookup(context, table, ids, row_begin, scale);
  }
  Tensor y = context.empty({static_cast<int64_t>(ids.size()), table.size(1)}, table.dtype());
  auto kernel = require_kernel(context.kernels().embedding.forward, "embedding", context.device.type);
  kernel({.table = table.raw(),
          .ids = ids.data(),
          .y = y.raw(),
          .num_ids = y.size(0),
          .width = table.size(1),
          .row_begin = row_begin,
          .rows = table.size(0),
          .scale = scale,
          .dtype = table.dtype()},
         context.stream());
  if (is_recording(context, {&table})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<EmbeddingNode>(table, ids, row_begin, scale, std::move(output)));
  }
  return y;
}

Tensor gather_rows(Context& context, const Tensor& x, std::span<const int32_t> indices) {
  WEFT_ASSERT(x.rank() == 2);
  for (int32_t index : indices)
    WEFT_ASSERT(index >= 0 && index < x.size(0), "gather_rows: row {} of {}", index, x.size(0));
  Tensor y = context.empty({static_cast<int64_t>(indices.size()), x.size(1)}, x.dtype());
  auto kernel = require_kernel(context.kernels().embedding.gather_rows, "gather_rows", context.device.type);
  kernel({.x = x.raw(),
          .indices = indices.data(),
          .y = y.raw(),
          .num_indices = y.size(0),
          .width = x.size(1),
          .dtype = x.dtype()},
         context.stream());
  if (is_recording(context, {&x})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<GatherRowsNode>(x, indices, std::move(output)));
  }
  return y;
}

}  // namespace weft
