#include "plan/planned_shards.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace weft {
namespace {

constexpr int64_t kFloatBytes = 4;

}  // namespace

PlannedShards::PlannedShards(const PlanContext& context,
                             const PlannedParameters& parameters,
                             const PlannedShardOptions& options)
    : context_(context), options_(options) {
  context_.ledger->begin("load");
  for (const Parameter* parameter : parameters.loaded) {
    values_[parameter] = context_.empty(weight_bytes(parameter->local_shape.num_elements()), MemoryTag::weights);
  }
  std::map<int64_t, PlannedParameters> by_block;
  by_block[kOuterBlock];
  for (Parameter* parameter : parameters.trained) by_block[parameter->block].trained.push_back(parameter);
  for (Parameter* parameter : parameters.frozen) by_block[parameter->block].frozen.push_back(parameter);
  for (const auto& [block, of_block] : by_block) add_group(block, of_block);
  for (auto& [block, group] : groups_) {
    if (group.trained.layout.empty()) continue;
    PlannedMemory& grads = shares_state() ? group.grad_part : group.grads;
    grads = context_.empty(group.trained.layout.part_size() * kFloatBytes, MemoryTag::grads);
  }
}

void PlannedShards::add_group(int64_t block, const PlannedParameters& parameters) {
  Context layout_context;
  layout_context.sequence_parallel = context_.sequence_parallel;
  Group& group = groups_[block];
  group.trained.layout = FlatLayout(layout_context, parameters.trained, num_parts());
  group.frozen.layout = FlatLayout(layout_context, parameters.frozen, num_parts());
  bool shares_weights = shares_state() && options_.zero_stage == 3;
  if (shares_state()) move_into_buffer(group.trained);
  if (shares_weights) move_into_buffer(group.frozen);
  give_memory(group.trained);
  give_memory(group.frozen);
  if (!shares_weights) return;
  keep_part(group.trained);
  keep_part(group.frozen);
}

void PlannedShards::give_memory(const Weights& weights) {
  if (weights.whole) return;
  for (const FlatEntry& entry : weights.layout.entries()) {
    PlannedMemory& value = values_[entry.parameter];
    if (!value) value = context_.empty(weight_bytes(entry.count), MemoryTag::weights);
  }
}

int64_t PlannedShards::weight_bytes(int64_t elements) const {
  return elements * static_cast<int64_t>(dtype_bytes(context_.dtype));
}

void PlannedShards::move_into_buffer(Weights& weights) {
  if (weights.layout.empty()) return;
  weights.whole = context_.empty(weight_bytes(weights.layout.size()), MemoryTag::weights);
  for (const FlatEntry& entry : weights.layout.entries()) values_.erase(entry.parameter);
}

void PlannedShards::keep_part(Weights& weights) {
  if (weights.layout.empty()) return;
  weights.part = context_.empty(weight_bytes(weights.layout.part_size()), MemoryTag::weights);
  weights.whole = {};
}

void PlannedShards::gather(Weights& weights) const {
  if (!weights.part || weights.whole) return;
  weights.whole = context_.empty(weight_bytes(weights.layout.size()), MemoryTag::weights);
}

void PlannedShards::gather(Group& group) const {
  gather(group.trained);
  gather(group.frozen);
}

void PlannedShards::prefetch(Group& group) const {
  if (options_.overlap_reduction) gather(group);
}

void PlannedShards::release(Group& group) {
  if (group.trained.part) group.trained.whole = {};
  if (group.frozen.part) group.frozen.whole = {};
}

void PlannedShards::share_weights() const {
  if (!shares_state() || options_.zero_stage == 3) return;
  for (const auto& [block, group] : groups_) {
    if (group.trained.layout.empty()) continue;
    context_.empty(weight_bytes(group.trained.layout.part_size()), MemoryTag::comm);
  }
}

void PlannedShards::pass_whole_weights() {
  for (auto& [block, group] : groups_) gather(group);
  for (auto& [block, group] : groups_) release(group);
}

Recompute PlannedShards::recompute(int64_t block) const {
  if (options_.recompute == Recompute::block && block % options_.recompute_every != 0) return Recompute::none;
  return options_.recompute;
}

void PlannedShards::before_forward(PlanContext& /*context*/, int64_t block) {
  auto found = groups_.find(block);
  Group& group = found->second;
  gather(group);
  if (auto next = std::next(found); next != groups_.end()) prefetch(next->second);
  if (block == kOuterBlock) open_gradients(group);
}

void PlannedShards::after_forward(PlanContext& /*context*/, int64_t block) {
  if (block == kOuterBlock) return;
  release(groups_.at(block));
}

void PlannedShards::before_backward(PlanContext& /*context*/, int64_t block) {
  auto found = groups_.find(block);
  Group& group = found->second;
  gather(group);
  if (found != groups_.begin()) prefetch(std::prev(found)->second);
  open_gradients(group);
}

void PlannedShards::after_backward(PlanContext& /*context*/, int64_t block) {
  Group& group = groups_.at(block);
  release(group);
  close_gradients(group);
}

void PlannedShards::open_gradients(Group& group) const {
  if (group.grads || group.trained.layout.empty()) return;
  group.grads = context_.empty(group.trained.layout.size() * kFloatBytes, MemoryTag::grads);
}

void PlannedShards::close_gradients(Group& group) {
  bool is_complete = is_last_micro_batch_ || options_.zero_stage >= 2;
  if (!shares_state() || group.trained.layout.empty() || !is_complete) return;
  start_reduction(group);
}

void PlannedShards::start_reduction(Group& group) {
  finish_reduction();
  reduced_ = std::exchange(group.grads, {});
  if (group.has_sum) more_ = context_.empty(group.trained.layout.part_size() * kFloatBytes, MemoryTag::comm);
  group.has_sum = true;
  if (!options_.overlap_reduction) finish_reduction();
}

void PlannedShards::finish_reduction() {
  reduced_ = {};
  more_ = {};
}

void PlannedShards::begin_micro_batch(bool is_first, bool is_last) {
  is_last_micro_batch_ = is_last;
  finish_reduction();
  if (!is_first) return;
  for (auto& [block, group] : groups_) group.has_sum = false;
}

std::vector<PlannedPiece> PlannedShards::pieces(int data_rank) const {
  std::vector<PlannedPiece> pieces;
  for (const auto& [block, group] : groups_) {
    const FlatLayout& layout = group.trained.layout;
    int64_t begin = shares_state() ? layout.part_size() * data_rank : 0;
    int64_t end = begin + layout.part_size();
    for (const FlatEntry& entry : layout.entries()) {
      int64_t count = std::min(end, entry.offset + entry.count) - std::max(begin, entry.offset);
      if (count > 0) pieces.push_back({entry.parameter, count});
    }
  }
  return pieces;
}

}  // namespace weft
