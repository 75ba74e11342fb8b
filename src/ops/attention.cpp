#include "ops/attention.h"

#include <algorithm>
#include <vector>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/rope.h"

namespace weft {
namespace {

const std::byte* element(const Tensor& tensor, int64_t index) {
  return static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(index) * dtype_bytes(tensor.dtype());
}

/// Where the span's keys are told by it rather than by the mask.
const int32_t* visible_keys(const AttentionSpan& span) {
  const std::vector<int32_t>& visible = span.visible_keys;
  if (visible.empty()) return nullptr;
  WEFT_ASSERT(static_cast<int64_t>(visible.size()) == span.length && visible.front() >= 1 &&
                  visible.back() <= span.past + span.length && std::is_sorted(visible.begin(), visible.end()),
              "attention: the visible keys of {} queries after {} tokens have to rise from 1 or more to {} at most",
              span.length,
              span.past,
              span.past + span.length);
  return visible.data();
}

/// Where a sequence's bias lies; checks that all of its distances are there.
int64_t bias_origin(const AttentionSpan& span, int64_t key_count, const DistanceBias& bias) {
  if (!bias.defined()) return 0;
  int64_t origin = bias.zero - span.past;
  WEFT_ASSERT(origin - span.length + 1 >= 0 && origin + key_count + kAttentionBiasPadding <= bias.values.size(1),
              "attention: {} queries after {} tokens and {} keys are beyond the biases",
              span.length,
              span.past,
              key_count);
  return origin;
}

std::vector<AttentionSequence> packed_sequences(const Tensor& k,
                                                const Tensor& v,
                                                std::span<const AttentionSpan> spans,
                                                int64_t head_dim,
                                                const DistanceBias& bias) {
  std::vector<AttentionSequence> sequences;
  for (const AttentionSpan& span : spans) {
    WEFT_ASSERT(span.past == 0, "attention without a cache has no past");
    bool is_cross = span.key_count >= 0;
    int64_t key_begin = is_cross ? span.key_begin : span.begin;
    int64_t key_count = is_cross ? span.key_count : span.length;
    sequences.push_back({.query_begin = span.begin,
                         .query_count = span.length,
                         .key_count = key_count,
                         .keys = element(k, key_begin * k.size(1)),
                         .values = element(v, key_begin * v.size(1)),
                         .key_token_stride = k.size(1),
                         .key_head_stride = head_dim,
                         .visible_keys = visible_keys(span),
                         .bias_origin = bias_origin(span, key_count, bias)});
  }
  return sequences;
}

AttentionBias view(const DistanceBias& bias) {
  if (!bias.defined()) return {};
  return {.values = bias.values.raw(), .stride = bias.values.size(1)};
}

class AttentionNode final : public Node {
 public:
  struct Inputs {
    Tensor q, k, v, log_sum_exp;
    DistanceBias bias;
    AttentionDropout dropout;
  };

  AttentionNode(Inputs inputs, const Tensor& out, std::span<const AttentionSpan> spans, const AttentionOptions& options)
      : in_(std::move(inputs)),
        out_(out.detach()),
        output_(out.grad_slot()),
        spans_(spans.begin(), spans.end()),
        options_(options) {}
  std::string_view name() const override { return "attention"; }

  void backward(Context& context) override {
    Tensor dout = take_grad(output_);
    if (!dout) return;
    Tensor dq = context.empty(in_.q.shape(), in_.q.dtype());
    Tensor dk = context.empty(in_.k.shape(), in_.k.dtype());
    Tensor dv = context.empty(in_.v.shape(), in_.v.dtype());
    auto sequences = packed_sequences(in_.k, in_.v, spans_, options_.head_dim, in_.bias);
    void* dbias = nullptr;
    if (in_.bias.defined() && in_.bias.values.wants_grad()) {
      const Tensor& values = in_.bias.values;
      GradTarget target = grad_target(context, *values.grad_slot(), values.shape(), values.dtype());
      if (!target.accumulate) target.tensor.fill_zero();
      dbias = target.tensor.raw();
    }
    auto kernel = require_kernel(context.kernels().attention.backward, "attention backward", context.device.type);
    kernel({.q = in_.q.raw(),
            .k = in_.k.raw(),
            .v = in_.v.raw(),
            .out = out_.raw(),
            .dout = dout.raw(),
            .log_sum_exp = in_.log_sum_exp.raw(),
            .dq = dq.raw(),
            .dk = dk.raw(),
            .dv = dv.raw(),
            .sequences = sequences,
            .num_heads = in_.q.size(1) / options_.head_dim,
            .num_kv_heads = in_.k.size(1) / options_.head_dim,
            .head_dim = options_.head_dim,
            .mask = options_.mask,
            .bias = view(in_.bias),
            .dropout = in_.dropout,
            .dbias = dbias,
            .dtype = in_.q.dtype()},
           context.stream());
    add_grad(context, in_.q.grad_slot(), std::move(dq));
    add_grad(context, in_.k.grad_slot(), std::move(dk));
    add_grad(context, in_.v.grad_slot(), std::move(dv));
  }

 private:
  Inputs in_;
  Tensor out_;
  std::shared_ptr<GradSlot> output_;
  std::vector<AttentionSpan> spans_;
  AttentionOptions options_;
};

void check_attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t head_dim) {
  WEFT_ASSERT(q.rank() == 2 && k.shape() == v.shape() && q.size(1) % k.size(1) == 0 && k.size(1) % head_dim == 0,
              "attention: q {}, k {}, v {}, head_dim {}",
              to_string(q.shape()),
              to_string(k.shape()),
              to_string(v.shape()),
              head_dim);
}

void run_forward(Context& context,
                 const Tensor& q,
                 Tensor& out,
                 Tensor* log_sum_exp,
                 std::span<const AttentionSequence> sequences,
                 int64_t num_kv_heads,
                 const AttentionOptions& options,
                 const DistanceBias& bias,
                 const AttentionDropout& dropout = {}) {
  WEFT_ASSERT(!bias.defined() || bias.values.size(0) == q.size(1) / options.head_dim,
              "attention: biases of other heads");
  for (const AttentionSequence& sequence : sequences) {
    WEFT_ASSERT(!dropout.drops() || sequence.key_count <= kMaxDroppedKeys, "attention drops weights of too many keys");
  }
  auto kernel = require_kernel(context.kernels().attention.forward, "attention", context.device.type);
  kernel({.q = q.raw(),
          .out = out.raw(),
          .log_sum_exp = log_sum_exp != nullptr ? log_sum_exp->raw() : nullptr,
          .sequences = sequences,
          .num_heads = q.size(1) / options.head_dim,
          .num_kv_heads = num_kv_heads,
          .head_dim = options.head_dim,
          .mask = options.mask,
          .bias = view(bias),
          .dropout = dropout,
          .dtype = q.dtype()},
         context.stream());
}

class DistanceBiasNode final : public Node {
 public:
  DistanceBiasNode(const Tensor& table, std::vector<int32_t> rows, const Tensor& out)
      : table_(table), rows_(std::move(rows)), output_(out.grad_slot()), stride_(out.size(1)) {}
  std::string_view name() const override { return "distance_bias"; }

  void backward(Context& context) override {
    Tensor dbias = take_grad(output_);
    if (!dbias) return;
    GradTarget target = grad_target(context, *table_.grad_slot(), table_.shape(), parameter_grad_dtype(table_.dtype()));
    if (!target.accumulate) target.tensor.fill_zero();
    auto kernel = require_kernel(context.kernels().attention.bias_reduce, "bias_reduce", context.device.type);
    kernel({.dbias = dbias.raw(),
            .rows = rows_.data(),
            .dtable = target.tensor.raw(),
            .count = static_cast<int64_t>(rows_.size()),
            .num_heads = table_.size(1),
            .stride = stride_,
            .dtype = table_.dtype()},
           context.stream());
  }

 private:
  Tensor table_;
  std::vector<int32_t> rows_;
  std::shared_ptr<GradSlot> output_;
  int64_t stride_;
};

/// Sequences whose keys lie in their slots.
std::vector<AttentionSequence> cached_sequences(const Tensor& key_cache,
                                                const Tensor& value_cache,
                                                std::span<const AttentionSpan> spans,
                                                int64_t head_dim,
                                                const DistanceBias& bias) {
  int64_t max_tokens = key_cache.size(2);
  int64_t slot_elements = key_cache.size(1) * max_tokens * head_dim;
  std::vector<AttentionSequence> sequences;
  for (const AttentionSpan& span : spans) {
    int64_t key_count = span.key_count >= 0 ? span.key_count : span.past + span.length;
    sequences.push_back({.query_begin = span.begin,
                         .query_count = span.length,
                         .key_count = key_count,
                         .keys = element(key_cache, span.slot * slot_elements),
                         .values = element(value_cache, span.slot * slot_elements),
                         .key_token_stride = head_dim,
                         .key_head_stride = max_tokens * head_dim,
                         .visible_keys = visible_keys(span),
                         .bias_origin = bias_origin(span, key_count, bias)});
  }
  return sequences;
}

/// Adds one write for each span.
void append_writes(const Tensor& source,
                   Tensor& cache,
                   std::span<const AttentionSpan> spans,
                   std::vector<CacheWriteArgs>& writes) {
  int64_t num_kv_heads = cache.size(1);
  int64_t max_tokens = cache.size(2);
  int64_t head_dim = cache.size(3);
  for (const AttentionSpan& span : spans) {
    WEFT_ASSERT(span.slot < cache.size(0) && span.past + span.length <= max_tokens, "the cache is full");
    Tensor slot = cache.slice(span.slot, span.slot + 1);
    writes.push_back({.source = element(source, span.begin * source.size(1)),
                      .cache = slot.raw(),
                      .past = span.past,
                      .count = span.length,
                      .num_kv_heads = num_kv_heads,
                      .head_dim = head_dim,
                      .head_stride = max_tokens * head_dim,
                      .dtype = source.dtype()});
  }
}

bool can_rotate_into_cache(const Context& context, const Tensor& rope_table, int64_t head_dim) {
  return context.kernels().rope.rotate_into_cache != nullptr && rope_table.size(1) == head_dim;
}

void rotate_into_cache(Context& context,
                       Tensor& q,
                       const CacheInputs& inputs,
                       const Tensor& rope_table,
                       std::span<const AttentionSpan> spans) {
  int64_t num_kv_heads = inputs.key_cache.size(1), max_tokens = inputs.key_cache.size(2);
  int64_t head_dim = inputs.key_cache.size(3);
  std::vector<RotatedCacheWrite> writes;
  for (const AttentionSpan& span : spans) {
    WEFT_ASSERT(span.slot < inputs.key_cache.size(0) && span.past + span.length <= max_tokens, "the cache is full");
    Tensor rows = q.slice(span.begin, span.begin + span.length);
    Tensor keys = inputs.key_cache.slice(span.slot, span.slot + 1);
    Tensor values = inputs.value_cache.slice(span.slot, span.slot + 1);
    writes.push_back({.q = rows.raw(),
                      .k = element(inputs.k, span.begin * inputs.k.size(1)),
                      .v = element(inputs.v, span.begin * inputs.v.size(1)),
                      .cos_sin = element(rope_table, span.begin * head_dim),
                      .keys = keys.raw(),
                      .values = values.raw(),
                      .past = span.past,
                      .count = span.length});
  }
  context.kernels().rope.rotate_into_cache({.sequences = writes,
                                            .num_heads = q.size(1) / head_dim,
                                            .num_kv_heads = num_kv_heads,
                                            .head_dim = head_dim,
                                            .head_stride = max_tokens * head_dim,
                                            .dtype = q.dtype()},
                                           context.stream());
}

}  // namespace

AttentionDropout attention_dropout(const Context& context, const AttentionDropoutSite& site) {
  if (!context.training || site.probability == 0) return {};
  AttentionDropout dropout{.probability = site.probability,
                           .key = context.random,
                           .row_begin = context.first_token,
                           .head_begin = site.head_begin,
                           .global_heads = site.global_heads};
  dropout.key.site = site.site;
  return dropout;
}

DistanceBias distance_bias(Context& context, const Tensor& table, std::span<const int32_t> rows, int64_t lowest) {
  WEFT_ASSERT(lowest <= 0 && lowest + static_cast<int64_t>(rows.size()) > 0, "distance_bias: distance 0 is missing");
  auto count = static_cast<int64_t>(rows.size());
  int64_t stride = count + kAttentionBiasPadding;
  DType dtype = table.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor values = context.empty({table.size(1), stride}, dtype);
  auto kernel = require_kernel(context.kernels().attention.bias_expand, "bias_expand", context.device.type);
  kernel({.table = table.raw(),
          .rows = rows.data(),
          .bias = values.raw(),
          .count = count,
          .num_heads = table.size(1),
          .stride = stride,
          .dtype = table.dtype()},
         context.stream());
  if (is_recording(context, {&table})) {
    attach_slot(values);
    context.tape->record(
        std::make_unique<DistanceBiasNode>(table, std::vector<int32_t>(rows.begin(), rows.end()), values));
  }
  return {.values = std::move(values), .zero = -lowest};
}

void write_attention_cache(Context& context,
                           const Tensor& source,
                           Tensor& cache,
                           std::span<const AttentionSpan> spans) {
  std::vector<CacheWriteArgs> writes;
  append_writes(source, cache, spans, writes);
  require_kernel(context.kernels().attention.cache_write, "cache_write", context.device.type)(writes, context.stream());
}

void write_attention_caches(Context& context, const CacheInputs& inputs, std::span<const AttentionSpan> spans) {
  std::vector<CacheWriteArgs> writes;
  append_writes(inputs.k, inputs.key_cache, spans, writes);
  append_writes(inputs.v, inputs.value_cache, spans, writes);
  require_kernel(context.kernels().attention.cache_write, "cache_write", context.device.type)(writes, context.stream());
}

Tensor attention(Context& context,
                 const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 std::span<const AttentionSpan> sequences,
                 const AttentionOptions& options,
                 const DistanceBias& bias) {
  check_attention(q, k, v, options.head_dim);
  Tensor out = context.empty(q.shape(), q.dtype());
  int64_t num_kv_heads = k.size(1) / options.head_dim;
  AttentionDropout dropout = attention_dropout(context, options.dropout);
  bool records = is_recording(context, {&q, &k, &v, &bias.values});
  Tensor log_sum_exp;
  if (records) {
    DType statistics_dtype = q.dtype() == DType::f64 ? DType::f64 : DType::f32;
    log_sum_exp = context.empty({q.size(0), q.size(1) / options.head_dim}, statistics_dtype);
  }
  run_forward(context,
              q,
              out,
              records ? &log_sum_exp : nullptr,
              packed_sequences(k, v, sequences, options.head_dim, bias),
              num_kv_heads,
              options,
              bias,
              dropout);
  if (!records) return out;
  attach_slot(out);
  AttentionNode::Inputs inputs{
      .q = q, .k = k, .v = v, .log_sum_exp = std::move(log_sum_exp), .bias = bias, .dropout = dropout};
  context.tape->record(std::make_unique<AttentionNode>(std::move(inputs), out, sequences, options));
  return out;
}

Tensor cached_attention(Context& context,
                        const Tensor& q,
                        const Tensor& k,
                        const Tensor& v,
                        Tensor& key_cache,
                        Tensor& value_cache,
                        std::span<const AttentionSpan> spans,
                        const AttentionOptions& options,
                        const DistanceBias& bias) {
  check_attention(q, k, v, options.head_dim);
  WEFT_ASSERT(!is_recording(context, {&q, &k, &v}), "cached_attention has no backward");
  write_attention_caches(context, {.k = k, .v = v, .key_cache = key_cache, .value_cache = value_cache}, spans);
  return cached_cross_attention(context, q, key_cache, value_cache, spans, options, bias);
}

Tensor rope_cached_attention(Context& context,
                             const Tensor& q,
                             const Tensor& k,
                             const Tensor& v,
                             const Tensor& rope_table,
                             Tensor& key_cache,
                             Tensor& value_cache,
                             std::span<const AttentionSpan> spans,
                             const AttentionOptions& options) {
  check_attention(q, k, v, options.head_dim);
  WEFT_ASSERT(!is_recording(context, {&q, &k, &v}), "cached_attention has no backward");
  CacheInputs inputs{.k = k, .v = v, .key_cache = key_cache, .value_cache = value_cache};
  Tensor rotated = q.detach();
  if (can_rotate_into_cache(context, rope_table, options.head_dim)) {
    rotate_into_cache(context, rotated, inputs, rope_table, spans);
  } else {
    rotated = rope(context, q, rope_table, options.head_dim);
    rope(context, k, rope_table, options.head_dim);
    write_attention_caches(context, inputs, spans);
  }
  return cached_cross_attention(context, rotated, key_cache, value_cache, spans, options);
}

Tensor cached_cross_attention(Context& context,
                              const Tensor& q,
                              const Tensor& key_cache,
                              const Tensor& value_cache,
                              std::span<const AttentionSpan> spans,
                              const AttentionOptions& options,
                              const DistanceBias& bias) {
  WEFT_ASSERT(!is_recording(context, {&q}), "cached_cross_attention has no backward");
  Tensor out = context.empty(q.shape(), q.dtype());
  run_forward(context,
              q,
              out,
              nullptr,
              cached_sequences(key_cache, value_cache, spans, options.head_dim, bias),
              key_cache.size(1),
              options,
              bias);
  return out;
}

}  // namespace weft
