#include "ops/rope.h"

#include "autograd/tape.h"
#include "core/error.h"

namespace weft {
namespace {

void rotate(Context& context, Tensor& x, const Tensor& table, int64_t head_dim, bool interleaved, bool inverse) {
  auto kernel = require_kernel(context.kernels().rope.rotate, "rope", context.device.type);
  kernel({.x = x.raw(),
          .cos_sin = table.raw(),
          .rows = x.size(0),
          .num_heads = x.size(1) / head_dim,
          .head_dim = head_dim,
          .rotary_dim = table.size(1),
          .interleaved = interleaved,
          .inverse = inverse,
          .dtype = x.dtype()},
         context.stream());
}

class RopeNode final : public Node {
 public:
  RopeNode(std::shared_ptr<GradSlot> input,
           std::shared_ptr<GradSlot> output,
           Tensor table,
           int64_t head_dim,
           bool interleaved)
      : input_(std::move(input)),
        output_(std::move(output)),
        table_(std::move(table)),
        head_dim_(head_dim),
        interleaved_(interleaved) {}
  std::string_view name() const override { return "rope"; }

  void backward(Context& context) override {
    Tensor grad = take_grad(output_);
    if (!grad) return;
    Tensor rows = grad.reshape({table_.size(0), grad.num_elements() / table_.size(0)});
    rotate(context, rows, table_, head_dim_, interleaved_, true);
    add_grad(context, input_, std::move(grad));
  }

 private:
  std::shared_ptr<GradSlot> input_;
  std::shared_ptr<GradSlot> output_;
  Tensor table_;
  int64_t head_dim_;
  bool interleaved_;
};

}  // namespace

Tensor rope_table(Context& context,
                  std::span<const int32_t> positions,
                  const std::vector<double>& inverse_frequency,
                  DType compute_dtype) {
  DType dtype = compute_dtype == DType::f64 ? DType::f64 : DType::f32;
  int64_t rotary_dim = static_cast<int64_t>(inverse_frequency.size()) * 2;
  Tensor table = context.empty({static_cast<int64_t>(positions.size()), rotary_dim}, dtype);
  auto kernel = require_kernel(context.kernels().rope.table, "rope table", context.device.type);
  kernel({.positions = positions.data(),
          .inverse_frequency = inverse_frequency.data(),
          .cos_sin = table.raw(),
          .rows = table.size(0),
          .rotary_dim = rotary_dim,
          .dtype = dtype},
         context.stream());
  return table;
}

Tensor rope(Context& context, const Tensor& x, const Tensor& table, int64_t head_dim, bool interleaved) {
  WEFT_ASSERT(x.rank() == 2 && x.size(0) == table.size(0) && x.size(1) % head_dim == 0 && table.size(1) <= head_dim,
              "rope: x {}, table {}",
              to_string(x.shape()),
              to_string(table.shape()));
  Tensor rotated = x.detach();
  rotate(context, rotated, table, head_dim, interleaved, false);
  if (is_recording(context, {&x})) {
    auto output = attach_slot(rotated);
    context.tape->record(std::make_unique<RopeNode>(x.grad_slot(), std::move(output), table, head_dim, interleaved));
  }
  return rotated;
}

}  // namespace weft
