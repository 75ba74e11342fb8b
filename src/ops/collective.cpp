#include "ops/collective.h"

#include <algorithm>
#include <cstring>

#include "autograd/tape.h"
#include "core/error.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

bool is_alone(const Context& context) {
  return context.tensor_parallel == nullptr || context.tensor_parallel->size() == 1;
}

/// Sums or passes on the gradient, per the forward's conjugate.
class TransferNode final : public Node {
 public:
  TransferNode(std::string_view name, bool reduce, std::shared_ptr<GradSlot> input, std::shared_ptr<GradSlot> output)
      : name_(name), reduce_(reduce), input_(std::move(input)), output_(std::move(output)) {}
  std::string_view name() const override { return name_; }

  void backward(Context& context) override {
    Tensor grad = take_grad(output_);
    WEFT_ASSERT(grad.defined() || !reduce_, "{} got no gradient on this rank: the ranks would wait for it", name_);
    if (!grad) return;
    if (reduce_) context.tensor_parallel->all_reduce(grad, ReduceOp::sum);
    add_grad(context, input_, std::move(grad));
  }

 private:
  std::string_view name_;
  bool reduce_;
  std::shared_ptr<GradSlot> input_;
  std::shared_ptr<GradSlot> output_;
};

struct ColumnCopy {
  int64_t rows;
  size_t element_bytes;
  int64_t from_columns, from_begin, to_columns, to_begin, count;
};

void copy_columns(const void* from, void* to, const ColumnCopy& copy) {
  for (int64_t row = 0; row < copy.rows; ++row) {
    const auto* source = static_cast<const std::byte*>(from) +
                         static_cast<size_t>(row * copy.from_columns + copy.from_begin) * copy.element_bytes;
    auto* target =
        static_cast<std::byte*>(to) + static_cast<size_t>(row * copy.to_columns + copy.to_begin) * copy.element_bytes;
    std::memcpy(target, source, static_cast<size_t>(copy.count) * copy.element_bytes);
  }
}

class GatherColumnsNode final : public Node {
 public:
  GatherColumnsNode(Tensor x, int64_t begin, std::shared_ptr<GradSlot> output)
      : x_(std::move(x)), begin_(begin), output_(std::move(output)) {}
  std::string_view name() const override { return "gather_columns_from_tp"; }

  void backward(Context& context) override {
    Tensor grad = take_grad(output_);
    if (!grad) return;
    Tensor dx = context.empty(x_.shape(), x_.dtype());
    copy_columns(grad.raw(),
                 dx.raw(),
                 {.rows = x_.size(0),
                  .element_bytes = dtype_bytes(x_.dtype()),
                  .from_columns = grad.size(1),
                  .from_begin = begin_,
                  .to_columns = x_.size(1),
                  .to_begin = 0,
                  .count = x_.size(1)});
    add_grad(context, x_.grad_slot(), std::move(dx));
  }

 private:
  Tensor x_;
  int64_t begin_;
  std::shared_ptr<GradSlot> output_;
};

Tensor padded_columns(Context& context, const Tensor& x, int64_t columns) {
  if (x.size(1) == columns) return x;
  Tensor padded = context.zeros({x.size(0), columns}, x.dtype());
  copy_columns(x.raw(),
               padded.raw(),
               {.rows = x.size(0),
                .element_bytes = dtype_bytes(x.dtype()),
                .from_columns = x.size(1),
                .from_begin = 0,
                .to_columns = columns,
                .to_begin = 0,
                .count = x.size(1)});
  return padded;
}

}  // namespace

int64_t even_part_begin(int64_t total, int rank, int size) {
  int64_t part = (total + size - 1) / size;
  return std::min(total, part * rank);
}

Tensor copy_to_tp(Context& context, const Tensor& x) {
  if (is_alone(context) || !is_recording(context, {&x})) return x;
  Tensor y = x.detach();
  auto output = attach_slot(y);
  context.tape->record(std::make_unique<TransferNode>("copy_to_tp", true, x.grad_slot(), std::move(output)));
  return y;
}

Tensor reduce_from_tp(Context& context, const Tensor& x) {
  if (is_alone(context)) return x;
  bool recording = is_recording(context, {&x});
  Tensor y = x.detach();
  context.tensor_parallel->all_reduce(y, ReduceOp::sum);
  if (recording) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<TransferNode>("reduce_from_tp", false, x.grad_slot(), std::move(output)));
  }
  return y;
}

Tensor gather_columns_from_tp(Context& context, const Tensor& x, int64_t total_columns) {
  if (is_alone(context)) return x;
  Communicator& group = *context.tensor_parallel;
  int64_t part = (total_columns + group.size() - 1) / group.size();
  int64_t rows = x.size(0);
  Tensor mine = padded_columns(context, x, part);
  Tensor all = context.empty({group.size(), rows, part}, x.dtype(), MemoryTag::comm);
  group.all_gather(mine, all);
  Tensor y = context.empty({rows, total_columns}, x.dtype());
  for (int rank = 0; rank < group.size(); ++rank) {
    int64_t begin = even_part_begin(total_columns, rank, group.size());
    int64_t end = even_part_begin(total_columns, rank + 1, group.size());
    copy_columns(all.slice(rank, rank + 1).raw(),
                 y.raw(),
                 {.rows = rows,
                  .element_bytes = dtype_bytes(x.dtype()),
                  .from_columns = part,
                  .from_begin = 0,
                  .to_columns = total_columns,
                  .to_begin = begin,
                  .count = end - begin});
  }
  if (is_recording(context, {&x})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<GatherColumnsNode>(
        x, even_part_begin(total_columns, group.rank(), group.size()), std::move(output)));
  }
  return y;
}

}  // namespace weft
