#include "ops/relative_attention.h"

#include <utility>

#include "autograd/tape.h"
#include "core/error.h"
#include "ops/vector_gradient.h"

namespace weft {
namespace {

/// A pass's sequences as the kernel reads them, and what they point to.
struct PackedSequences {
  std::vector<AttentionSpan> spans;
  std::vector<int32_t> positions;
  std::vector<RelativeSequence> sequences;
  int64_t num_scores = 0;
};

const std::byte* element(const Tensor& tensor, int64_t index) {
  return static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(index) * dtype_bytes(tensor.dtype());
}

/// Fills `sequences` from spans and positions, which must stay where they are.
void pack(PackedSequences& packed, const Tensor& k, const Tensor& v, const RelativeAttentionOptions& options) {
  packed.sequences.clear();
  packed.num_scores = 0;
  for (const AttentionSpan& span : packed.spans) {
    WEFT_ASSERT(span.past == 0, "attention without a cache has no past");
    const int32_t* positions = packed.positions.empty() ? nullptr : packed.positions.data() + span.begin;
    packed.sequences.push_back({.query_begin = span.begin,
                                .query_count = span.length,
                                .key_count = span.length,
                                .keys = element(k, span.begin * k.size(1)),
                                .values = element(v, span.begin * v.size(1)),
                                .key_token_stride = k.size(1),
                                .key_head_stride = options.head_dim,
                                .value_token_stride = v.size(1),
                                .value_head_stride = options.value_dim,
                                .visible_keys = span.visible_keys.empty() ? nullptr : span.visible_keys.data(),
                                .query_positions = positions,
                                .key_positions = positions,
                                .scores_begin = packed.num_scores});
    packed.num_scores += options.num_heads * span.length * span.length;
  }
}

/// The tables of RelativeTerms, kept.
struct KeptTerms {
  KeptTerms() = default;
  explicit KeptTerms(const RelativeTerms& terms) : rows(terms.rows), max_distance(terms.max_distance) {
    if (terms.query_table != nullptr) query_table = *terms.query_table;
    if (terms.key_table != nullptr) key_table = *terms.key_table;
    if (terms.value_table != nullptr) value_table = *terms.value_table;
    if (terms.bias_table != nullptr) bias_table = *terms.bias_table;
  }
  int64_t table_rows() const {
    for (const Tensor* table : {&query_table, &key_table, &value_table, &bias_table}) {
      if (*table) return table->size(0);
    }
    return 0;
  }
  bool want_grad() const {
    return is_wanted(query_table) || is_wanted(key_table) || is_wanted(value_table) || is_wanted(bias_table);
  }
  static bool is_wanted(const Tensor& table) { return table && table.wants_grad(); }

  std::shared_ptr<const std::vector<int32_t>> rows;
  int64_t max_distance = 0;
  Tensor query_table, key_table, value_table, bias_table;
};

DistanceTable view(const Tensor& table, int64_t width) {
  if (!table) return {};
  return {.values = table.raw(), .row_stride = table.size(1), .head_stride = table.size(1) == width ? 0 : width};
}

/// One bias a head stands beside the others.
DistanceTable bias_view(const Tensor& table) {
  if (!table) return {};
  return {.values = table.raw(), .row_stride = table.size(1), .head_stride = 1};
}

RelativeAttentionArgs make_args(const Tensor& q,
                                const Tensor& previous,
                                std::span<const RelativeSequence> sequences,
                                const KeptTerms& terms,
                                const RelativeAttentionOptions& options) {
  RelativeAttentionArgs args{.q = q.raw(),
                             .sequences = sequences,
                             .num_heads = options.num_heads,
                             .num_kv_heads = options.num_kv_heads,
                             .head_dim = options.head_dim,
                             .value_dim = options.value_dim,
                             .previous_scores = previous ? previous.raw() : nullptr,
                             .scale = options.scale,
                             .causal = options.causal,
                             .normalization = options.normalization,
                             .dtype = q.dtype()};
  if (terms.rows == nullptr) return args;
  args.rows = terms.rows->data();
  args.max_distance = terms.max_distance;
  args.table_rows = terms.table_rows();
  args.query_table = view(terms.query_table, options.head_dim);
  args.key_table = view(terms.key_table, options.head_dim);
  args.value_table = view(terms.value_table, options.value_dim);
  args.bias_table = bias_view(terms.bias_table);
  return args;
}

struct KeptInputs {
  Tensor q, k, v, previous;
  AttentionDropout dropout;
};

class RelativeAttentionNode final : public Node {
 public:
  RelativeAttentionNode(KeptInputs inputs,
                        KeptTerms terms,
                        PackedSequences packed,
                        const RelativeAttentionOptions& options,
                        std::shared_ptr<GradSlot> out,
                        std::shared_ptr<GradSlot> scores)
      : in_(std::move(inputs)),
        terms_(std::move(terms)),
        packed_(std::move(packed)),
        options_(options),
        out_(std::move(out)),
        scores_(std::move(scores)) {}
  std::string_view name() const override { return "relative_attention"; }

  void backward(Context& context) override {
    Tensor dout = take_grad(out_);
    Tensor dscores = scores_ != nullptr ? take_grad(scores_) : Tensor();
    if (!dout && !dscores) return;
    if (!dout) dout = context.zeros({in_.q.size(0), options_.num_heads * options_.value_dim}, in_.q.dtype());
    Tensor dq = context.empty(in_.q.shape(), in_.q.dtype());
    Tensor dk = context.empty(in_.k.shape(), in_.k.dtype());
    Tensor dv = context.empty(in_.v.shape(), in_.v.dtype());
    bool wants_previous = in_.previous && in_.previous.wants_grad();
    Tensor dprevious = wants_previous ? context.empty(in_.previous.shape(), in_.previous.dtype()) : Tensor();
    VectorGradient query_table(context, terms_.query_table), key_table(context, terms_.key_table),
        value_table(context, terms_.value_table), bias_table(context, terms_.bias_table);
    pack(packed_, in_.k, in_.v, options_);
    auto kernel = require_kernel(
        context.kernels().relative_attention.backward, "relative_attention backward", context.device.type);
    RelativeAttentionArgs forward = make_args(in_.q, in_.previous, packed_.sequences, terms_, options_);
    forward.dropout = in_.dropout;
    kernel({.forward = forward,
            .dout = dout.raw(),
            .dscores = dscores ? dscores.raw() : nullptr,
            .dq = dq.raw(),
            .dk = dk.raw(),
            .dv = dv.raw(),
            .dquery_table = query_table.raw(),
            .dkey_table = key_table.raw(),
            .dvalue_table = value_table.raw(),
            .dbias_table = bias_table.raw(),
            .dprevious_scores = dprevious ? dprevious.raw() : nullptr},
           context.stream());
    query_table.hand_over(context, terms_.query_table);
    key_table.hand_over(context, terms_.key_table);
    value_table.hand_over(context, terms_.value_table);
    bias_table.hand_over(context, terms_.bias_table);
    if (dprevious) add_grad(context, in_.previous.grad_slot(), std::move(dprevious));
    add_grad(context, in_.q.grad_slot(), std::move(dq));
    add_grad(context, in_.k.grad_slot(), std::move(dk));
    add_grad(context, in_.v.grad_slot(), std::move(dv));
  }

 private:
  KeptInputs in_;
  KeptTerms terms_;
  PackedSequences packed_;
  RelativeAttentionOptions options_;
  std::shared_ptr<GradSlot> out_;
  std::shared_ptr<GradSlot> scores_;
};

void check(const RelativeAttentionInputs& inputs, const RelativeAttentionOptions& options) {
  WEFT_ASSERT(inputs.q->size(1) == options.num_heads * options.head_dim &&
                  inputs.k->size(1) == options.num_kv_heads * options.head_dim &&
                  inputs.v->size(1) == options.num_kv_heads * options.value_dim,
              "relative_attention: q {}, k {}, v {}, {} heads of {} and {}",
              to_string(inputs.q->shape()),
              to_string(inputs.k->shape()),
              to_string(inputs.v->shape()),
              options.num_heads,
              options.head_dim,
              options.value_dim);
}

void run_kernel(Context& context, const RelativeAttentionArgs& args) {
  for (const RelativeSequence& sequence : args.sequences) {
    WEFT_ASSERT(!args.dropout.drops() || sequence.key_count <= kMaxDroppedKeys,
                "relative_attention drops weights of too many keys");
  }
  require_kernel(context.kernels().relative_attention.forward, "relative_attention", context.device.type)(
      args, context.stream());
}

}  // namespace

RelativeAttentionResult relative_attention(Context& context,
                                           const RelativeAttentionInputs& inputs,
                                           std::span<const AttentionSpan> sequences,
                                           std::span<const int32_t> positions,
                                           const RelativeTerms& terms,
                                           const RelativeAttentionOptions& options,
                                           bool want_scores) {
  check(inputs, options);
  const Tensor& q = *inputs.q;
  PackedSequences packed{.spans = {sequences.begin(), sequences.end()},
                         .positions = {positions.begin(), positions.end()},
                         .sequences = {}};
  pack(packed, *inputs.k, *inputs.v, options);
  KeptTerms kept(terms);
  Tensor previous = inputs.previous_scores != nullptr ? *inputs.previous_scores : Tensor();
  RelativeAttentionResult result{.out = context.empty({q.size(0), options.num_heads * options.value_dim}, q.dtype()),
                                 .scores = {}};
  if (want_scores) result.scores = context.empty({packed.num_scores, 1}, q.dtype());
  RelativeAttentionArgs args = make_args(q, previous, packed.sequences, kept, options);
  args.dropout = attention_dropout(context, options.dropout);
  args.out = result.out.raw();
  args.scores = want_scores ? result.scores.raw() : nullptr;
  run_kernel(context, args);
  bool recording = is_recording(context, {&q, inputs.k, inputs.v, inputs.previous_scores}) ||
                   (context.tape != nullptr && kept.want_grad());
  if (!recording) return result;
  auto out = attach_slot(result.out);
  auto scores = want_scores ? attach_slot(result.scores) : nullptr;
  context.tape->record(std::make_unique<RelativeAttentionNode>(
      KeptInputs{.q = q, .k = *inputs.k, .v = *inputs.v, .previous = previous, .dropout = args.dropout},
      std::move(kept),
      std::move(packed),
      options,
      std::move(out),
      std::move(scores)));
  return result;
}

Tensor cached_relative_attention(Context& context,
                                 const RelativeAttentionInputs& inputs,
                                 Tensor& key_cache,
                                 Tensor& value_cache,
                                 std::span<const AttentionSpan> sequences,
                                 const RelativeTerms& terms,
                                 const RelativeAttentionOptions& options) {
  check(inputs, options);
  WEFT_ASSERT(inputs.previous_scores == nullptr, "scores of the layer before are not cached");
  write_attention_caches(
      context, {.k = *inputs.k, .v = *inputs.v, .key_cache = key_cache, .value_cache = value_cache}, sequences);
  int64_t max_tokens = key_cache.size(2);
  std::vector<RelativeSequence> cached;
  for (const AttentionSpan& span : sequences) {
    int64_t heads = span.slot * key_cache.size(1) * max_tokens;
    cached.push_back({.query_begin = span.begin,
                      .query_count = span.length,
                      .key_count = span.past + span.length,
                      .keys = element(key_cache, heads * options.head_dim),
                      .values = element(value_cache, heads * options.value_dim),
                      .key_token_stride = options.head_dim,
                      .key_head_stride = max_tokens * options.head_dim,
                      .value_token_stride = options.value_dim,
                      .value_head_stride = max_tokens * options.value_dim,
                      .visible_keys = span.visible_keys.empty() ? nullptr : span.visible_keys.data()});
  }
  Tensor out = context.empty({inputs.q->size(0), options.num_heads * options.value_dim}, inputs.q->dtype());
  RelativeAttentionArgs args = make_args(*inputs.q, {}, cached, KeptTerms(terms), options);
  args.out = out.raw();
  run_kernel(context, args);
  return out;
}

}  // namespace weft
