#include "ops/collective.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/elementwise.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

/// Rows that a GPU's products are done in.
constexpr int64_t kRowTile = 128;

bool is_alone(const Context& context) {
  return context.tensor_parallel == nullptr || context.tensor_parallel->size() == 1;
}

/// For an x whose gradient is going to be summed over ranks.
void let_put_off(const Context& context, GradSlot& slot) {
  if (!context.tensor_parallel->overlaps()) return;
  slot.put_off = std::make_shared<PutOff>();
  slot.put_off->block = context.block;
}

bool has_put_off(const GradSlot& slot) {
  return slot.put_off != nullptr && !slot.put_off->work.empty();
}

/// Sums x in place, and does what was put off beside it.
void sum_beside_put_off(Context& context, Tensor& x, GradSlot& slot) {
  if (!has_put_off(slot)) return context.tensor_parallel->all_reduce(x, ReduceOp::sum);
  PendingCall sum = context.tensor_parallel->start_all_reduce(x, ReduceOp::sum);
  for (auto& work : std::exchange(slot.put_off->work, {})) work(context);
  sum.wait();
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
    if (reduce_) sum_beside_put_off(context, grad, *output_);
    add_grad(context, input_, std::move(grad));
  }

 private:
  std::string_view name_;
  bool reduce_;
  std::shared_ptr<GradSlot> input_;
  std::shared_ptr<GradSlot> output_;
};

int64_t tokens_per_rank(const Context& context, int64_t num_tokens) {
  int64_t size = context.tensor_parallel->size();
  return (num_tokens + size - 1) / size;
}

/// All ranks' shares of `num_tokens` rows, one after the other.
Tensor gather_rows_of_ranks(Context& context, const Tensor& share, int64_t num_tokens) {
  Tensor all = context.empty({share.size(0) * context.tensor_parallel->size(), share.size(1)}, share.dtype());
  context.tensor_parallel->all_gather(share, all);
  return all.slice(0, num_tokens);
}

/// Rows [begin, begin + count) of x; those past its end are zeros.
Tensor padded_rows(Context& context, const Tensor& x, int64_t begin, int64_t count) {
  int64_t begin_here = std::min(begin, x.size(0));
  int64_t rows = std::min(x.size(0), begin + count) - begin_here;
  if (rows == count) return x.slice(begin, begin + count);
  Tensor padded = context.zeros({count, x.size(1)}, x.dtype());
  Tensor present = x.slice(begin_here, begin_here + rows);
  padded.slice(0, rows).copy_from(present);
  return padded;
}

/// This rank's share of the sum over ranks. What was put off till then at the slot of x (may be null) is done beside
/// it.
Tensor scatter_sum_of_ranks(Context& context, const Tensor& x, GradSlot* slot) {
  int64_t share = tokens_per_rank(context, x.size(0));
  Tensor padded = padded_rows(context, x, 0, share * context.tensor_parallel->size());
  Tensor y = context.empty({share, x.size(1)}, x.dtype());
  if (slot == nullptr || !has_put_off(*slot)) {
    context.tensor_parallel->reduce_scatter(padded, y, ReduceOp::sum);
    return y;
  }
  PendingCall sum = context.tensor_parallel->start_reduce_scatter(padded, y, ReduceOp::sum);
  for (auto& work : std::exchange(slot->put_off->work, {})) work(context);
  sum.wait();
  return y;
}

/// Backward of what shares out rows or brings them together, by the conjugate.
class TokenTransferNode final : public Node {
 public:
  enum class Backward : uint8_t { gather, scatter_sum };

  TokenTransferNode(std::string_view name,
                    Backward backward,
                    int64_t num_tokens,
                    std::shared_ptr<GradSlot> input,
                    std::shared_ptr<GradSlot> output)
      : name_(name),
        backward_(backward),
        num_tokens_(num_tokens),
        input_(std::move(input)),
        output_(std::move(output)) {}
  std::string_view name() const override { return name_; }

  void backward(Context& context) override {
    Tensor grad = take_grad(output_);
    WEFT_ASSERT(grad.defined(), "{} got no gradient on this rank: the ranks would wait for it", name_);
    add_grad(context,
             input_,
             backward_ == Backward::gather ? gather_rows_of_ranks(context, grad, num_tokens_)
                                           : scatter_sum_of_ranks(context, grad, output_.get()));
  }

 private:
  std::string_view name_;
  Backward backward_;
  int64_t num_tokens_;
  std::shared_ptr<GradSlot> input_;
  std::shared_ptr<GradSlot> output_;
};

void record_token_transfer(Context& context,
                           std::string_view name,
                           TokenTransferNode::Backward backward,
                           int64_t num_tokens,
                           const Tensor& x,
                           Tensor& y) {
  auto output = attach_slot(y);
  if (backward == TokenTransferNode::Backward::scatter_sum) let_put_off(context, *output);
  context.tape->record(
      std::make_unique<TokenTransferNode>(name, backward, num_tokens, x.grad_slot(), std::move(output)));
}

/// `count` columns of each row of `from`, from `from_begin` on, to `to_begin` on in the rows of `to`. Both are
/// [rows, columns] on the context's device.
void copy_columns(
    const Context& context, const Tensor& from, int64_t from_begin, Tensor& to, int64_t to_begin, int64_t count) {
  size_t element = dtype_bytes(from.dtype());
  auto bytes = [&](int64_t columns) { return static_cast<size_t>(columns) * element; };
  context.allocator->copy_rows(static_cast<std::byte*>(to.raw()) + bytes(to_begin),
                               bytes(to.size(1)),
                               static_cast<const std::byte*>(from.raw()) + bytes(from_begin),
                               bytes(from.size(1)),
                               bytes(count),
                               static_cast<size_t>(from.size(0)));
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
    copy_columns(context, grad, begin_, dx, 0, x_.size(1));
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
  copy_columns(context, x, 0, padded, 0, x.size(1));
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
  output->recipe = x.grad_slot()->recipe;
  let_put_off(context, *output);
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

Tensor linear_reduced_from_tp(Context& context,
                              const Tensor& x,
                              const LinearParameters& parameters,
                              int64_t rows_worth_halving) {
  if (is_alone(context) || !context.tensor_parallel->overlaps() || x.size(0) < rows_worth_halving) {
    return reduce_from_tp(context, linear(context, x, parameters));
  }
  int64_t half = (x.size(0) + 1) / 2;
  if (half > kRowTile) half = (half + kRowTile - 1) / kRowTile * kRowTile;
  std::vector<PendingCall> sums;
  // The identity backward of the sums needs no node.
  Tensor y = linear_by_rows(context, x, parameters, half, [&](const Tensor& part) {
    sums.push_back(context.tensor_parallel->start_all_reduce(part, ReduceOp::sum));
  });
  for (PendingCall& sum : sums) sum.wait();
  return y;
}

Tensor gather_tokens_from_tp(Context& context, const Tensor& x, int64_t num_tokens) {
  if (is_alone(context)) return x;
  WEFT_ASSERT(x.size(0) == tokens_per_rank(context, num_tokens));
  Tensor y = gather_rows_of_ranks(context, x, num_tokens);
  if (is_recording(context, {&x})) {
    record_token_transfer(context, "gather_tokens_from_tp", TokenTransferNode::Backward::scatter_sum, num_tokens, x, y);
    offer_recipe(context, y, [share = Saved(x), num_tokens](Context& again) {
      return gather_rows_of_ranks(again, share.get(again), num_tokens);
    });
  }
  return y;
}

Tensor scatter_tokens_to_tp(Context& context, const Tensor& x) {
  if (is_alone(context)) return x;
  Tensor y = scatter_sum_of_ranks(context, x, nullptr);
  if (is_recording(context, {&x})) {
    record_token_transfer(context, "scatter_tokens_to_tp", TokenTransferNode::Backward::gather, x.size(0), x, y);
  }
  return y;
}

Tensor split_tokens_to_tp(Context& context, const Tensor& x) {
  if (is_alone(context)) return x;
  int64_t share = tokens_per_rank(context, x.size(0));
  Tensor y = padded_rows(context, x, share * context.tensor_parallel->rank(), share);
  if (is_recording(context, {&x})) {
    record_token_transfer(context, "split_tokens_to_tp", TokenTransferNode::Backward::gather, x.size(0), x, y);
  }
  return y;
}

Tensor share_gradient_over_tp(Context& context, const Tensor& x) {
  if (is_alone(context)) return x;
  return scale_gradient(context, x, 1.0 / context.tensor_parallel->size());
}

Tensor enter_tensor_parallel(Context& context, const Tensor& x, int64_t num_tokens) {
  return context.sequence_parallel ? gather_tokens_from_tp(context, x, num_tokens) : copy_to_tp(context, x);
}

Tensor leave_tensor_parallel(Context& context, const Tensor& x) {
  return context.sequence_parallel ? scatter_tokens_to_tp(context, x) : reduce_from_tp(context, x);
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
    copy_columns(context, all.slice(rank, rank + 1).reshape({rows, part}), 0, y, begin, end - begin);
  }
  if (is_recording(context, {&x})) {
    auto output = attach_slot(y);
    context.tape->record(std::make_unique<GatherColumnsNode>(
        x, even_part_begin(total_columns, group.rank(), group.size()), std::move(output)));
  }
  return y;
}

}  // namespace weft
