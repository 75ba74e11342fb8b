#include "ops/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/collective.h"
#include "ops/linear.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

constexpr int64_t kChunkBytes = 64 << 20;
/// Fewer rows would leave the product waiting for the head's weights.
constexpr int64_t kMinChunkRows = 128;
/// A GPU needs many rows to be busy, and to read and write the head's gradient seldom.
constexpr int64_t kGpuChunkBytes = int64_t{1} << 30;

void store_scalar(Tensor& tensor, int64_t index, double value) {
  if (tensor.dtype() == DType::f64) {
    tensor.data<double>()[index] = value;
  } else {
    tensor.data<float>()[index] = static_cast<float>(value);
  }
}

double load_scalar(const Tensor& tensor, int64_t index) {
  return tensor.dtype() == DType::f64 ? tensor.data<double>()[index] : double{tensor.data<float>()[index]};
}

/// Hands over what the forward pass has computed.
class LinearCrossEntropyNode final : public Node {
 public:
  LinearCrossEntropyNode(std::shared_ptr<GradSlot> x, Tensor dx, std::shared_ptr<GradSlot> output)
      : x_(std::move(x)), dx_(std::move(dx)), output_(std::move(output)) {}
  std::string_view name() const override { return "linear_cross_entropy"; }

  void backward(Context& context) override {
    Tensor dloss = take_grad(output_);
    WEFT_ASSERT(dloss.defined() && load_scalar(dloss, 0) == 1.0, "the loss's gradient has to be 1: scale the weights");
    add_grad(context, x_, std::move(dx_));
  }

 private:
  std::shared_ptr<GradSlot> x_;
  Tensor dx_;
  std::shared_ptr<GradSlot> output_;
};

std::vector<double> row_weights(std::span<const int32_t> targets,
                                std::span<const float> weights,
                                LossReduction reduction) {
  std::vector<double> result(targets.size());
  double total = 0;
  for (size_t row = 0; row < targets.size(); ++row) {
    if (targets[row] >= 0) result[row] = weights.empty() ? 1.0 : static_cast<double>(weights[row]);
    total += result[row];
  }
  if (reduction == LossReduction::mean && total > 0) {
    for (double& weight : result) weight /= total;
  }
  return result;
}

/// The loss of one call, chunk by chunk; each chunk is some of the rows that have a target.
class ChunkedLoss {
 public:
  ChunkedLoss(Context& context, const Tensor& x, const Tensor& head, const LinearCrossEntropyOptions& options)
      : context_(context), x_(x), head_(head), options_(options) {
    dtype_ = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
    Communicator* group = context.tensor_parallel;
    if (group != nullptr) column_begin_ = even_part_begin(options.vocab_size, group->rank(), group->size());
    // By the largest part, so that all ranks cut alike.
    int64_t columns = even_part_begin(options.vocab_size, 1, group != nullptr ? group->size() : 1);
    int64_t row_bytes = columns * static_cast<int64_t>(dtype_bytes(dtype_));
    int64_t chunk_bytes = context.device.type == DeviceType::cuda ? kGpuChunkBytes : kChunkBytes;
    chunk_rows_ = options.chunk_rows > 0 ? options.chunk_rows : std::max(kMinChunkRows, chunk_bytes / row_bytes);
    recording_ =
        is_recording(context, {&x, &head}) || (options.bias != nullptr && is_recording(context, {options.bias}));
    WEFT_ASSERT(!recording_ || head.layout() == Layout::row_major,
                "linear_cross_entropy has no backward through a packed head");
  }

  CrossEntropy run(std::span<const int32_t> targets, const std::vector<double>& weights) {
    std::vector<int32_t> scored;
    for (size_t row = 0; row < targets.size(); ++row) {
      if (targets[row] >= 0) scored.push_back(static_cast<int32_t>(row));
    }
    CrossEntropy result{context_.host_empty({1}, dtype_), context_.host_zeros({x_.size(0)}, dtype_)};
    if (recording_ && x_.wants_grad()) dx_ = context_.zeros(x_.shape(), x_.dtype());
    double loss = 0;
    auto count = static_cast<int64_t>(scored.size());
    for (int64_t begin = 0; begin < count; begin += chunk_rows_) {
      int64_t rows = std::min(chunk_rows_, count - begin);
      loss += run_chunk({scored.data() + begin, static_cast<size_t>(rows)}, targets, weights, result.token_loss);
    }
    store_scalar(result.loss, 0, loss);
    if (recording_) {
      auto output = attach_slot(result.loss);
      context_.tape->record(
          std::make_unique<LinearCrossEntropyNode>(x_.grad_slot(), std::move(dx_), std::move(output)));
    }
    return result;
  }

 private:
  struct Chunk {
    std::vector<int32_t> targets;
    std::vector<double> weights;
    Tensor x, logits;
    Tensor maximum, sum_exp, target_logit;  // [rows] each
  };

  double run_chunk(std::span<const int32_t> rows,
                   std::span<const int32_t> targets,
                   const std::vector<double>& weights,
                   Tensor& token_loss) {
    Chunk chunk;
    for (int32_t row : rows) {
      chunk.targets.push_back(targets[static_cast<size_t>(row)]);
      chunk.weights.push_back(weights[static_cast<size_t>(row)]);
    }
    chunk.x = take_rows(rows);
    compute_logits(chunk);
    reduce(chunk);
    if (recording_) add_gradients(chunk, rows);
    double loss = 0;
    Tensor sum_exp = context_.to_host(chunk.sum_exp), target_logit = context_.to_host(chunk.target_logit);
    for (size_t i = 0; i < rows.size(); ++i) {
      auto index = static_cast<int64_t>(i);
      double one = std::log(load_scalar(sum_exp, index)) - load_scalar(target_logit, index);
      store_scalar(token_loss, rows[i], one);
      loss += chunk.weights[i] * one;
    }
    return loss;
  }

  static bool are_contiguous(std::span<const int32_t> rows) {
    return rows.back() - rows.front() == static_cast<int32_t>(rows.size()) - 1;
  }

  /// The kernel's view of rows of a table that are copied out, or added back.
  void move_rows(const Tensor& table, Tensor& some, std::span<const int32_t> rows, bool scatter_add) {
    auto kernel = require_kernel(context_.kernels().embedding.gather_rows, "gather_rows", context_.device.type);
    kernel({.x = table.raw(),
            .indices = rows.data(),
            .y = some.raw(),
            .num_indices = some.size(0),
            .width = some.size(1),
            .scatter_add = scatter_add,
            .dtype = some.dtype()},
           context_.stream());
  }

  Tensor take_rows(std::span<const int32_t> rows) {
    if (are_contiguous(rows)) return x_.slice(rows.front(), rows.back() + 1);
    Tensor some = context_.empty({static_cast<int64_t>(rows.size()), x_.size(1)}, x_.dtype());
    move_rows(x_, some, rows, false);
    return some;
  }

  /// All chunks share one buffer.
  Tensor buffer(Tensor& memory, int64_t rows, DType dtype) {
    if (!memory) memory = context_.empty({rows, head_.size(0)}, dtype, MemoryTag::workspace);
    return memory.slice(0, rows);
  }

  void compute_logits(Chunk& chunk) {
    chunk.logits = buffer(logits_, chunk.x.size(0), dtype_);
    LinearWeight weight{.weight = head_.raw(),
                        .bias = options_.bias != nullptr ? options_.bias->raw() : nullptr,
                        .y = chunk.logits.raw(),
                        .out_features = head_.size(0),
                        .layout = head_.layout()};
    require_kernel(context_.kernels().linear.forward, "linear", context_.device.type)({.x = chunk.x.raw(),
                                                                                       .weights = {&weight, 1},
                                                                                       .rows = chunk.x.size(0),
                                                                                       .in_features = x_.size(1),
                                                                                       .dtype = x_.dtype(),
                                                                                       .y_dtype = dtype_},
                                                                                      context_.stream());
  }

  /// Statistics of this rank's columns, then of the whole vocabulary.
  void reduce(Chunk& chunk) {
    int64_t rows = chunk.logits.size(0);
    chunk.maximum = context_.empty({rows}, dtype_);
    Tensor sums = context_.empty({2, rows}, dtype_);
    chunk.sum_exp = sums.slice(0, 1).reshape({rows});
    chunk.target_logit = sums.slice(1, 2).reshape({rows});
    auto kernel =
        require_kernel(context_.kernels().cross_entropy.row_statistics, "linear_cross_entropy", context_.device.type);
    kernel({.logits = chunk.logits.raw(),
            .targets = chunk.targets.data(),
            .maximum = chunk.maximum.raw(),
            .sum_exp = chunk.sum_exp.raw(),
            .target_logit = chunk.target_logit.raw(),
            .rows = rows,
            .columns = chunk.logits.size(1),
            .column_begin = column_begin_,
            .soft_cap = options_.soft_cap,
            .dtype = dtype_},
           context_.stream());
    if (context_.tensor_parallel != nullptr) reduce_over_ranks(chunk, sums);
  }

  void reduce_over_ranks(Chunk& chunk, Tensor& sums) {
    // A number a row: the host does it.
    Tensor maximum = context_.to_host(chunk.maximum), host_sums = context_.to_host(sums);
    int64_t rows = maximum.size(0);
    std::vector<double> local_maximum;
    for (int64_t row = 0; row < rows; ++row) local_maximum.push_back(load_scalar(maximum, row));
    context_.tensor_parallel->all_reduce(maximum, ReduceOp::max);
    for (size_t i = 0; i < local_maximum.size(); ++i) {
      auto row = static_cast<int64_t>(i);
      double below = local_maximum[i] - load_scalar(maximum, row);
      store_scalar(host_sums, row, load_scalar(host_sums, row) * std::exp(below));
      int64_t column = chunk.targets[i] - column_begin_;
      bool is_here = column >= 0 && column < head_.size(0);
      if (is_here) store_scalar(host_sums, rows + row, load_scalar(host_sums, rows + row) + below);
    }
    context_.tensor_parallel->all_reduce(host_sums, ReduceOp::sum);
    if (chunk.maximum.is_on_host()) return;
    chunk.maximum.copy_from_host(maximum.raw());
    sums.copy_from_host(host_sums.raw());
  }

  void add_gradients(Chunk& chunk, std::span<const int32_t> rows) {
    Tensor dlogits = logit_gradient(chunk);
    if (head_.wants_grad()) add_head_gradient(chunk, dlogits);
    if (options_.bias != nullptr && options_.bias->wants_grad()) add_bias_gradient(chunk, dlogits);
    if (!dx_) return;
    bool in_place = are_contiguous(rows);
    Tensor dx = in_place ? dx_.slice(rows.front(), rows.back() + 1) : context_.empty(chunk.x.shape(), x_.dtype());
    require_kernel(context_.kernels().linear.backward_input, "linear backward", context_.device.type)(
        {.dy = dlogits.raw(),
         .weight = head_.raw(),
         .dx = dx.raw(),
         .rows = dx.size(0),
         .out_features = head_.size(0),
         .in_features = head_.size(1),
         .dtype = x_.dtype()},
        context_.stream());
    if (!in_place) move_rows(dx_, dx, rows, true);
  }

  Tensor logit_gradient(const Chunk& chunk) {
    int64_t rows = chunk.logits.size(0);
    Tensor row_scale = context_.empty({rows}, dtype_);
    row_scale.set_values(chunk.weights.data(), DType::f64);
    Tensor dlogits = x_.dtype() == dtype_ ? chunk.logits : buffer(narrow_, rows, x_.dtype());
    auto kernel = require_kernel(
        context_.kernels().cross_entropy.backward, "linear_cross_entropy backward", context_.device.type);
    kernel({.logits = chunk.logits.raw(),
            .maximum = chunk.maximum.raw(),
            .sum_exp = chunk.sum_exp.raw(),
            .targets = chunk.targets.data(),
            .row_scale = row_scale.raw(),
            .dlogits = dlogits.raw(),
            .rows = rows,
            .columns = chunk.logits.size(1),
            .column_begin = column_begin_,
            .soft_cap = options_.soft_cap,
            .dtype = dtype_,
            .dlogits_dtype = x_.dtype()},
           context_.stream());
    return dlogits;
  }

  void add_head_gradient(const Chunk& chunk, const Tensor& dlogits) {
    GradTarget target = grad_target(context_, *head_.grad_slot(), head_.shape(), parameter_grad_dtype(head_.dtype()));
    require_kernel(context_.kernels().linear.backward_weight, "linear backward", context_.device.type)(
        {.dy = dlogits.raw(),
         .x = chunk.x.raw(),
         .dw = target.tensor.raw(),
         .rows = dlogits.size(0),
         .out_features = head_.size(0),
         .in_features = head_.size(1),
         .dtype = head_.dtype(),
         .accumulate_weight = target.accumulate},
        context_.stream());
  }

  void add_bias_gradient(const Chunk& chunk, const Tensor& dlogits) {
    const Tensor& bias = *options_.bias;
    GradTarget target = grad_target(context_, *bias.grad_slot(), bias.shape(), parameter_grad_dtype(bias.dtype()));
    require_kernel(context_.kernels().linear.backward_weight, "linear backward", context_.device.type)(
        {.dy = dlogits.raw(),
         .x = chunk.x.raw(),
         .dbias = target.tensor.raw(),
         .rows = dlogits.size(0),
         .out_features = head_.size(0),
         .in_features = head_.size(1),
         .dtype = head_.dtype(),
         .accumulate_bias = target.accumulate},
        context_.stream());
  }

  Context& context_;
  const Tensor& x_;
  const Tensor& head_;
  const LinearCrossEntropyOptions& options_;
  DType dtype_ = DType::f32;  // of logits and statistics
  int64_t column_begin_ = 0;
  int64_t chunk_rows_ = 0;
  bool recording_ = false;
  Tensor logits_, narrow_;  // of the largest chunk, which is the first
  Tensor dx_;
};

}  // namespace

CrossEntropy linear_cross_entropy(Context& context,
                                  const Tensor& x,
                                  const Tensor& head,
                                  std::span<const int32_t> targets,
                                  std::span<const float> weights,
                                  const LinearCrossEntropyOptions& options) {
  WEFT_ASSERT(x.rank() == 2 && head.rank() == 2 && x.size(1) == head.size(1) && x.dtype() == head.dtype() &&
                  static_cast<int64_t>(targets.size()) == x.size(0) &&
                  (weights.empty() || weights.size() == targets.size()),
              "linear_cross_entropy: x {}, head {}, {} targets, {} weights",
              to_string(x.shape()),
              to_string(head.shape()),
              targets.size(),
              weights.size());
  WEFT_ASSERT(options.bias == nullptr ||
                  (options.bias->num_elements() == head.size(0) && options.bias->dtype() == head.dtype()),
              "linear_cross_entropy: head {}, bias {}",
              to_string(head.shape()),
              to_string(options.bias->shape()));
  return ChunkedLoss(context, x, head, options).run(targets, row_weights(targets, weights, options.reduction));
}

}  // namespace weft
