#include "plan/planned_ops.h"

#include <algorithm>
#include <array>

namespace weft {
namespace {

bool is_recording(const PlanContext& context, bool any_wants_grad) {
  return context.tape != nullptr && any_wants_grad;
}

int64_t element_bytes(const PlanContext& context) {
  return static_cast<int64_t>(dtype_bytes(context.dtype));
}

/// As RmsNormNode.
struct NormNode {
  PlannedTensor input;
  std::shared_ptr<PlannedSlot> x, residual, sum, normed;

  void operator()(PlanContext& context) const {
    PlannedMemory dy = take_grad(normed);
    PlannedMemory dsum = sum ? take_grad(sum) : PlannedMemory();
    if (!dy) return pass_on(context, std::move(dsum));
    PlannedMemory dinput = context.empty(input.memory.bytes());
    context.touch(rms_norm_backward_scratch(input.rows));
    pass_on(context, std::move(dinput));
  }

  void pass_on(PlanContext& context, PlannedMemory grad) const {
    if (!grad) return;
    if (x && residual) {
      add_grad(residual, context.empty(grad.bytes()));
      add_grad(x, std::move(grad));
    } else {
      add_grad(x ? x : residual, std::move(grad));
    }
  }
};

void record_norm(PlanContext& context, NormNode node, PlannedTensor& normed) {
  node.normed = attach_slot(normed);
  node.input = node.input.detach();
  offer_recipe(context, normed, [kept = node.input.memory](PlanContext& again) { return again.empty(kept.bytes()); });
  context.tape->record(std::move(node));
}

/// As LinearNode.
struct LinearNode {
  LinearSizes sizes;
  PlannedSaved x;
  std::shared_ptr<PlannedSlot> input, output;
  bool is_trained = false;

  void operator()(PlanContext& context) const {
    PlannedMemory dy = take_grad(output);
    if (!dy) return;
    if (input != nullptr) {
      open_grad(context, *input, sizes.rows * sizes.in_features * element_bytes(context));
      context.touch(linear_backward_input_scratch(context.dtype, sizes, context.num_threads));
    }
    if (!is_trained) return;
    PlannedMemory values = x.get(context);
    context.touch(linear_backward_weight_scratch(context.dtype, sizes));
  }
};

/// As LowRankNode.
struct LowRankNode {
  PlannedLinear layer;
  int64_t rows = 0;
  std::shared_ptr<PlannedSlot> y, x, output;
  PlannedSaved saved_x;
  PlannedMemory scaled_inner;

  void operator()(PlanContext& context) const {
    PlannedMemory dy = take_grad(output);
    if (!dy) return;
    context.touch(linear_backward_weight_scratch(context.dtype, of_b()));
    PlannedMemory dinner = context.empty(scaled_inner.bytes());
    context.touch(linear_backward_input_scratch(context.dtype, of_b(), context.num_threads));
    add_grad(y, std::move(dy));
    add_factor_a(context);
    if (x != nullptr) add_input(context);
  }

  LinearSizes of_a() const { return {rows, layer.low_rank.rank, layer.in_features}; }
  LinearSizes of_b() const { return {rows, layer.out_features, layer.low_rank.rank}; }
  int64_t x_bytes(const PlanContext& context) const { return rows * layer.in_features * element_bytes(context); }

  void add_factor_a(PlanContext& context) const {
    PlannedMemory values = saved_x.get(context);
    PlannedMemory dropped = layer.low_rank.has_dropout ? context.empty(x_bytes(context)) : PlannedMemory();
    context.touch(linear_backward_weight_scratch(context.dtype, of_a()));
  }

  void add_input(PlanContext& context) const {
    if (!layer.low_rank.has_dropout) {
      open_grad(context, *x, x_bytes(context));
      context.touch(linear_backward_input_scratch(context.dtype, of_a(), context.num_threads));
      return;
    }
    PlannedMemory dropped = context.empty(x_bytes(context));
    context.touch(linear_backward_input_scratch(context.dtype, of_a(), context.num_threads));
    add_grad(x, context.empty(x_bytes(context)));
  }
};

PlannedTensor add_low_rank(PlanContext& context,
                           const PlannedTensor& y,
                           const PlannedTensor& x,
                           const PlannedLinear& layer) {
  PlannedTensor inner;
  {
    PlannedMemory dropped =
        layer.low_rank.has_dropout ? planned_empty(context, x.rows, x.columns).memory : PlannedMemory();
    inner = planned_empty(context, x.rows, layer.low_rank.rank);
    context.touch(linear_forward_scratch(context.dtype, {x.rows, layer.low_rank.rank, x.columns}, context.num_threads));
  }
  PlannedTensor sum = y.detach();
  planned_empty(context, layer.low_rank.rank, layer.out_features);  // B transposed
  if (context.tape != nullptr) {
    context.tape->record(LowRankNode{.layer = layer,
                                     .rows = x.rows,
                                     .y = y.slot,
                                     .x = x.slot,
                                     .output = attach_slot(sum),
                                     .saved_x = PlannedSaved(x),
                                     .scaled_inner = inner.memory});
  }
  return sum;
}

/// As AttentionNode.
struct AttentionNode {
  PlannedTensor q, k, v;
  PlannedMemory log_sum_exp;
  PlannedMemory out;
  std::shared_ptr<PlannedSlot> output;
  AttentionSizes sizes;

  void operator()(PlanContext& context) const {
    PlannedMemory dout = take_grad(output);
    if (!dout) return;
    PlannedMemory dq = context.empty(q.memory.bytes());
    PlannedMemory dk = context.empty(k.memory.bytes());
    PlannedMemory dv = context.empty(v.memory.bytes());
    context.touch(attention_backward_scratch(sizes));
    add_grad(q.slot, std::move(dq));
    add_grad(k.slot, std::move(dk));
    add_grad(v.slot, std::move(dv));
  }
};

/// As GatedActivationNode.
struct GatedActivationNode {
  PlannedTensor gate, up;
  std::shared_ptr<PlannedSlot> output;

  void operator()(PlanContext& context) const {
    PlannedMemory dy = take_grad(output);
    if (!dy) return;
    PlannedMemory dgate = gate.wants_grad() ? context.empty(gate.memory.bytes()) : PlannedMemory();
    PlannedMemory dup = up.wants_grad() ? context.empty(up.memory.bytes()) : PlannedMemory();
    add_grad(gate.slot, std::move(dgate));
    add_grad(up.slot, std::move(dup));
  }
};

/// A gradient that goes on as it is.
void record_passing(PlanContext& context, const PlannedTensor& x, PlannedTensor& y) {
  context.tape->record([input = x.slot, output = attach_slot(y)](PlanContext&) { add_grad(input, take_grad(output)); });
}

int64_t tokens_per_rank(const PlanContext& context, int64_t num_tokens) {
  return (num_tokens + context.tensor_parallel - 1) / context.tensor_parallel;
}

PlannedMemory gather_rows_of_ranks(PlanContext& context, const PlannedMemory& share) {
  return context.empty(share.bytes() * context.tensor_parallel);
}

PlannedMemory scatter_sum_of_ranks(PlanContext& context, int64_t rows, int64_t columns) {
  int64_t share = tokens_per_rank(context, rows);
  int64_t padded_rows = share * context.tensor_parallel;
  int64_t row_bytes = columns * element_bytes(context);
  PlannedMemory padded = padded_rows != rows ? context.empty(padded_rows * row_bytes) : PlannedMemory();
  return context.empty(share * row_bytes);
}

PlannedTensor gather_tokens_from_tp(PlanContext& context, const PlannedTensor& x, int64_t num_tokens) {
  PlannedTensor y{num_tokens, x.columns, gather_rows_of_ranks(context, x.memory), nullptr};
  if (!is_recording(context, x.wants_grad())) return y;
  context.tape->record(
      [input = x.slot, output = attach_slot(y), num_tokens, columns = x.columns](PlanContext& running) {
        PlannedMemory grad = take_grad(output);
        add_grad(input, scatter_sum_of_ranks(running, num_tokens, columns));
      });
  offer_recipe(context, y, [share = PlannedSaved(x)](PlanContext& again) {
    return gather_rows_of_ranks(again, share.get(again));
  });
  return y;
}

/// The gradient of what shared out the tokens.
void record_gathering(PlanContext& context, const PlannedTensor& x, PlannedTensor& y) {
  context.tape->record([input = x.slot, output = attach_slot(y)](PlanContext& running) {
    PlannedMemory grad = take_grad(output);
    add_grad(input, gather_rows_of_ranks(running, grad));
  });
}

/// As ChunkedLoss.
class PlannedChunkedLoss {
 public:
  PlannedChunkedLoss(PlanContext& context, const PlannedTensor& x, const PlannedLossOptions& options)
      : context_(context), x_(x), options_(options) {
    int64_t columns = (options.vocab_size + context.tensor_parallel - 1) / context.tensor_parallel;
    chunk_rows_ = std::max(kMinChunkRows, kChunkBytes / (columns * kFloatBytes));
  }

  PlannedLoss run() {
    int64_t scored_per_row = options_.sequence_length - 1;
    int64_t scored = x_.rows / options_.sequence_length * scored_per_row;
    PlannedLoss result{context_.empty(kFloatBytes), context_.empty(x_.rows * kFloatBytes), {}};
    if (x_.wants_grad()) dx_ = planned_empty(context_, x_.rows, x_.columns).memory;
    for (int64_t begin = 0; begin < scored; begin += chunk_rows_) {
      int64_t rows = std::min(chunk_rows_, scored - begin);
      run_chunk(rows, begin / scored_per_row == (begin + rows - 1) / scored_per_row);
    }
    if (!x_.wants_grad() && !options_.is_trained) return result;
    result.slot = std::make_shared<PlannedSlot>();
    context_.tape->record([x = x_.slot, dx = std::move(dx_), output = result.slot](PlanContext&) mutable {
      PlannedMemory dloss = take_grad(output);
      add_grad(x, std::move(dx));
    });
    return result;
  }

 private:
  static constexpr int64_t kFloatBytes = 4;
  static constexpr int64_t kChunkBytes = 64 << 20;
  static constexpr int64_t kMinChunkRows = 128;

  PlannedMemory& buffer(PlannedMemory& memory, int64_t rows, int64_t bytes_each) {
    if (!memory) memory = context_.empty(rows * options_.local_vocab_size * bytes_each, MemoryTag::workspace);
    return memory;
  }

  void run_chunk(int64_t rows, bool is_contiguous) {
    int64_t x_bytes = rows * x_.columns * element_bytes(context_);
    LinearSizes head{rows, options_.local_vocab_size, x_.columns};
    PlannedMemory taken = is_contiguous ? PlannedMemory() : context_.empty(x_bytes);
    buffer(logits_, rows, kFloatBytes);
    context_.touch(linear_forward_scratch(context_.dtype, head, context_.num_threads));
    PlannedMemory statistics = context_.empty(3 * rows * kFloatBytes);
    if (!x_.wants_grad() && !options_.is_trained) return;
    context_.empty(rows * kFloatBytes);  // the rows' weights
    if (context_.dtype == DType::bf16) buffer(narrow_, rows, element_bytes(context_));
    if (options_.is_trained) context_.touch(linear_backward_weight_scratch(context_.dtype, head));
    if (!dx_) return;
    PlannedMemory dx = is_contiguous ? PlannedMemory() : context_.empty(x_bytes);
    context_.touch(linear_backward_input_scratch(context_.dtype, head, context_.num_threads));
  }

  PlanContext& context_;
  const PlannedTensor& x_;
  const PlannedLossOptions& options_;
  int64_t chunk_rows_ = 0;
  PlannedMemory logits_, narrow_, dx_;
};

}  // namespace

PlannedTensor embedding(PlanContext& context, int64_t num_tokens, int64_t columns, bool is_trained) {
  PlannedTensor y = planned_empty(context, num_tokens, columns);
  if (is_recording(context, is_trained)) {
    context.tape->record([output = attach_slot(y)](PlanContext&) { take_grad(output); });
  }
  return y;
}

PlannedTensor add(PlanContext& context, const PlannedTensor& x, const PlannedTensor& y) {
  PlannedTensor sum = planned_empty(context, x.rows, x.columns);
  if (is_recording(context, x.wants_grad() || y.wants_grad())) {
    context.tape->record([to_x = x.slot, to_y = y.slot, output = attach_slot(sum)](PlanContext& running) {
      PlannedMemory grad = take_grad(output);
      if (!grad) return;
      for (const auto& slot : {to_x, to_y}) {
        if (slot != nullptr) add_grad(slot, running.empty(grad.bytes()));
      }
    });
  }
  return sum;
}

PlannedTensor rms_norm(PlanContext& context, const PlannedTensor& x, const PlannedNorm& norm) {
  PlannedTensor normed = planned_empty(context, x.rows, x.columns);
  if (is_recording(context, x.wants_grad() || norm.is_trained)) {
    record_norm(context, {.input = x, .x = x.slot, .residual = {}, .sum = {}, .normed = {}}, normed);
  }
  return normed;
}

PlannedResidualNorm pass_rms_norm(PlanContext& context, const PlannedTensor& x, const PlannedNorm& norm) {
  PlannedResidualNorm result{x.detach(), planned_empty(context, x.rows, x.columns)};
  if (is_recording(context, x.wants_grad() || norm.is_trained)) {
    auto sum = attach_slot(result.sum);
    record_norm(context, {.input = x, .x = x.slot, .residual = {}, .sum = std::move(sum), .normed = {}}, result.normed);
  }
  return result;
}

PlannedResidualNorm add_rms_norm(PlanContext& context,
                                 const PlannedTensor& x,
                                 const PlannedTensor& residual,
                                 const PlannedNorm& norm) {
  PlannedResidualNorm result;
  result.sum = planned_empty(context, x.rows, x.columns);
  result.normed = planned_empty(context, x.rows, x.columns);
  if (is_recording(context, x.wants_grad() || residual.wants_grad() || norm.is_trained)) {
    auto sum = attach_slot(result.sum);
    record_norm(context,
                {.input = result.sum, .x = x.slot, .residual = residual.slot, .sum = std::move(sum), .normed = {}},
                result.normed);
  }
  return result;
}

std::vector<PlannedTensor> linear_group(PlanContext& context,
                                        const PlannedTensor& x,
                                        std::span<const PlannedLinear> layers) {
  std::vector<PlannedTensor> outputs;
  for (const PlannedLinear& layer : layers) outputs.push_back(planned_empty(context, x.rows, layer.out_features));
  for (size_t i = 0; i < layers.size(); ++i) {
    LinearSizes sizes{x.rows, layers[i].out_features, layers[i].in_features};
    context.touch(linear_forward_scratch(context.dtype, sizes, context.num_threads));
    if (!is_recording(context, x.wants_grad() || layers[i].is_trained)) continue;
    context.tape->record(LinearNode{.sizes = sizes,
                                    .x = layers[i].is_trained ? PlannedSaved(x) : PlannedSaved(),
                                    .input = x.slot,
                                    .output = attach_slot(outputs[i]),
                                    .is_trained = layers[i].is_trained});
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].low_rank.rank > 0) outputs[i] = add_low_rank(context, outputs[i], x, layers[i]);
  }
  return outputs;
}

PlannedTensor rope(PlanContext& context, const PlannedTensor& x, const PlannedMemory& table) {
  PlannedTensor rotated = x.detach();
  if (is_recording(context, x.wants_grad())) {
    context.tape->record(
        [table, input = x.slot, output = attach_slot(rotated)](PlanContext&) { add_grad(input, take_grad(output)); });
  }
  return rotated;
}

PlannedTensor attention(PlanContext& context,
                        const PlannedTensor& q,
                        const PlannedTensor& k,
                        const PlannedTensor& v,
                        const AttentionSizes& sizes) {
  PlannedTensor out = planned_empty(context, q.rows, q.columns);
  bool records = is_recording(context, q.wants_grad() || k.wants_grad() || v.wants_grad());
  PlannedMemory log_sum_exp;
  if (records) log_sum_exp = context.empty(q.rows * sizes.num_heads * 4);
  context.touch(attention_forward_scratch(sizes));
  if (!records) return out;
  auto output = attach_slot(out);
  context.tape->record(AttentionNode{.q = q,
                                     .k = k,
                                     .v = v,
                                     .log_sum_exp = log_sum_exp,
                                     .out = out.memory,
                                     .output = std::move(output),
                                     .sizes = sizes});
  return out;
}

PlannedTensor gated_activation(PlanContext& context, const PlannedTensor& gate, const PlannedTensor& up) {
  PlannedTensor y = planned_empty(context, gate.rows, gate.columns);
  if (is_recording(context, gate.wants_grad() || up.wants_grad())) {
    auto output = attach_slot(y);
    offer_recipe(context, y, [kept_gate = gate.detach(), kept_up = up.detach()](PlanContext& again) {
      return again.empty(kept_gate.memory.bytes());
    });
    context.tape->record(GatedActivationNode{gate, up, std::move(output)});
  }
  return y;
}

PlannedTensor enter_tensor_parallel(PlanContext& context, const PlannedTensor& x, int64_t num_tokens) {
  if (context.tensor_parallel == 1) return x;
  if (context.sequence_parallel) return gather_tokens_from_tp(context, x, num_tokens);
  if (!is_recording(context, x.wants_grad())) return x;
  PlannedTensor y = x.detach();
  auto recipe = x.slot->recipe;
  record_passing(context, x, y);
  y.slot->recipe = std::move(recipe);
  return y;
}

PlannedTensor leave_tensor_parallel(PlanContext& context, const PlannedTensor& x) {
  if (context.tensor_parallel == 1) return x;
  if (!context.sequence_parallel) {
    PlannedTensor y = x.detach();
    if (is_recording(context, x.wants_grad())) record_passing(context, x, y);
    return y;
  }
  PlannedTensor y{
      tokens_per_rank(context, x.rows), x.columns, scatter_sum_of_ranks(context, x.rows, x.columns), nullptr};
  if (is_recording(context, x.wants_grad())) record_gathering(context, x, y);
  return y;
}

PlannedTensor split_tokens_to_tp(PlanContext& context, const PlannedTensor& x) {
  if (context.tensor_parallel == 1) return x;
  PlannedTensor y = x.detach();
  y.rows = tokens_per_rank(context, x.rows);
  if (is_recording(context, x.wants_grad())) record_gathering(context, x, y);
  return y;
}

PlannedLoss linear_cross_entropy(PlanContext& context, const PlannedTensor& x, const PlannedLossOptions& options) {
  return PlannedChunkedLoss(context, x, options).run();
}

}  // namespace weft
