#include "plan/planned_decoder.h"

#include "core/error.h"
#include "nn/layers.h"

namespace weft {
namespace {

constexpr size_t kLinearsPerBlock = 7;  // q, k, v, o, gate, up, down
constexpr int64_t kFloatBytes = 4;

}  // namespace

PlannedDecoder::PlannedDecoder(const OpenedModel& opened,
                               LanguageModel& model,
                               const std::function<bool(const Parameter&)>& is_trained,
                               bool has_dropout)
    : norm_after_branches_(opened.decoder("memory planning").norm_after_branches),
      hidden_size_(model.info().hidden_size),
      head_dim_(model.info().head_dim),
      vocab_size_(model.info().vocab_size) {
  auto planned = [&](const NamedLinear& named) {
    const Linear& linear = *named.linear;
    int64_t rank = linear.adapter != nullptr ? linear.adapter->a->full_shape[0] : 0;
    return PlannedLinear{.out_features = linear.weight->local_shape[0],
                         .in_features = linear.weight->local_shape[1],
                         .is_trained = is_trained(*linear.weight),
                         .low_rank = {.rank = rank, .has_dropout = has_dropout}};
  };
  auto norm = [&](int64_t layer, const char* name) {
    const Parameter* weight = model.parameters().find("model.layers." + std::to_string(layer) + "." + name + ".weight");
    return PlannedNorm{.is_trained = weight != nullptr && is_trained(*weight)};
  };
  std::vector<NamedLinear> linears = model.linears();
  WEFT_ASSERT(static_cast<int64_t>(linears.size()) == model.info().num_layers * static_cast<int64_t>(kLinearsPerBlock));
  for (int64_t layer = 0; layer < model.info().num_layers; ++layer) {
    const NamedLinear* of_block = &linears[static_cast<size_t>(layer) * kLinearsPerBlock];
    blocks_.push_back(
        {.attention_norm = norm(layer, "input_layernorm"),
         .attention_post_norm = norm(layer, "post_attention_layernorm"),
         .mlp_norm = norm(layer, norm_after_branches_ ? "pre_feedforward_layernorm" : "post_attention_layernorm"),
         .mlp_post_norm = norm(layer, "post_feedforward_layernorm"),
         .qkv = {planned(of_block[0]), planned(of_block[1]), planned(of_block[2])},
         .gate_up = {planned(of_block[4]), planned(of_block[5])},
         .output = planned(of_block[3]),
         .down = planned(of_block[6])});
  }
  const Parameter* final_norm = model.parameters().find("model.norm.weight");
  WEFT_ASSERT(final_norm != nullptr);
  final_norm_.is_trained = is_trained(*final_norm);
  trains_embedding_ = is_trained(model.embedding_table());
  trains_head_ = is_trained(*model.head().weight);
  local_vocab_size_ = model.head().weight->local_shape[0];
}

void PlannedDecoder::run(PlanContext& context, const PlannedBatch& batch, const PlannedTensor& embedding_offset) const {
  context.ledger->begin("forward");
  PlannedTensor hidden_states = hidden(context, batch, embedding_offset);
  context.ledger->begin("loss");
  PlannedLoss loss = linear_cross_entropy(context,
                                          hidden_states,
                                          {.sequence_length = batch.sequence_length,
                                           .vocab_size = vocab_size_,
                                           .local_vocab_size = local_vocab_size_,
                                           .is_trained = trains_head_});
  context.ledger->begin("backward");
  if (loss.slot != nullptr) loss.slot->grad = context.empty(kFloatBytes);
  context.tape->backward(context);
}

PlannedTensor PlannedDecoder::embed(PlanContext& context, int64_t num_tokens, const PlannedTensor& offset) const {
  PlannedTensor embedded =
      leave_tensor_parallel(context, embedding(context, num_tokens, hidden_size_, trains_embedding_));
  if (!offset.memory) return embedded;
  return add(context, embedded, context.sequence_parallel ? split_tokens_to_tp(context, offset) : offset);
}

PlannedTensor PlannedDecoder::hidden(PlanContext& context,
                                     const PlannedBatch& batch,
                                     const PlannedTensor& offset) const {
  const Block& first = blocks_.front();
  auto pass =
      std::make_shared<const Pass>(Pass{.rope_table = context.empty(batch.num_tokens() * head_dim_ * kFloatBytes),
                                        .num_tokens = batch.num_tokens(),
                                        .attention = {.sequences = batch.rows,
                                                      .sequence_length = batch.sequence_length,
                                                      .num_heads = first.qkv[0].out_features / head_dim_,
                                                      .num_kv_heads = first.qkv[1].out_features / head_dim_,
                                                      .head_dim = head_dim_,
                                                      .num_threads = context.num_threads}});
  std::vector<PlannedTensor> stream = {embed(context, batch.num_tokens(), offset)};
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    auto block = static_cast<int64_t>(layer);
    bool is_kept = context.blocks->recompute(block) == Recompute::block;
    if (is_kept && stream.size() == 2) stream = {add(context, stream[1], stream[0])};
    stream = run_block(
        context, block, stream, [this, layer, pass](PlanContext& running, const std::vector<PlannedTensor>& inputs) {
          return run_layer(running, blocks_[layer], inputs, *pass);
        });
  }
  PlannedResidualNorm last = add_rms_norm(context, stream[1], stream[0], final_norm_);
  return enter_tensor_parallel(context, last.normed, batch.num_tokens());
}

std::vector<PlannedTensor> PlannedDecoder::run_layer(PlanContext& context,
                                                     const Block& block,
                                                     const std::vector<PlannedTensor>& inputs,
                                                     const Pass& pass) const {
  PlannedResidualNorm start = inputs.size() == 1 ? pass_rms_norm(context, inputs[0], block.attention_norm)
                                                 : add_rms_norm(context, inputs[1], inputs[0], block.attention_norm);
  PlannedTensor attended = self_attention(context, block, start.normed, pass);
  if (norm_after_branches_) attended = rms_norm(context, attended, block.attention_post_norm);
  PlannedResidualNorm middle = add_rms_norm(context, attended, start.sum, block.mlp_norm);
  PlannedTensor branch = gated_mlp(context, block, middle.normed, pass);
  if (norm_after_branches_) branch = rms_norm(context, branch, block.mlp_post_norm);
  return {middle.sum, branch};
}

PlannedTensor PlannedDecoder::self_attention(PlanContext& context,
                                             const Block& block,
                                             const PlannedTensor& x,
                                             const Pass& pass) {
  PlannedTensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
  std::vector<PlannedTensor> qkv = linear_group(context, whole, block.qkv);
  PlannedTensor q = rope(context, qkv[0], pass.rope_table);
  PlannedTensor k = rope(context, qkv[1], pass.rope_table);
  PlannedTensor mixed = attention(context, q, k, qkv[2], pass.attention);
  return leave_tensor_parallel(context, linear_group(context, mixed, {&block.output, 1})[0]);
}

PlannedTensor PlannedDecoder::gated_mlp(PlanContext& context,
                                        const Block& block,
                                        const PlannedTensor& x,
                                        const Pass& pass) {
  PlannedTensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
  PlannedTensor gated = [&] {
    std::vector<PlannedTensor> gate_up = linear_group(context, whole, block.gate_up);
    return gated_activation(context, gate_up[0], gate_up[1]);
  }();
  return leave_tensor_parallel(context, linear_group(context, gated, {&block.down, 1})[0]);
}

}  // namespace weft
