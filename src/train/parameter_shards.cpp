#include "train/parameter_shards.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "autograd/tape.h"
#include "core/error.h"
#include "parallel/background_communicator.h"

namespace weft {
namespace {

void copy_elements(const Tensor& from, Tensor to) {
  to.copy_from(from);
}

Tensor flat(const Tensor& tensor) {
  return tensor.detach().reshape({tensor.num_elements()});
}

}  // namespace

ParameterShards::ParameterShards(const Context& context,
                                 const Mesh& mesh,
                                 TensorParallelPlace place,
                                 const std::vector<Parameter*>& trained,
                                 const std::vector<Parameter*>& frozen,
                                 const ShardOptions& options)
    : context_(context), mesh_(mesh), place_(place), options_(options) {
  std::map<int64_t, std::pair<std::vector<Parameter*>, std::vector<Parameter*>>> by_block;
  by_block[kOuterBlock];
  for (Parameter* parameter : trained) by_block[parameter->block].first.push_back(parameter);
  for (Parameter* parameter : frozen) by_block[parameter->block].second.push_back(parameter);
  for (Parameter* parameter : trained) {
    int replicas = shard_replicas(parameter->shard, place);
    if (replicas > 1 && same_heads_.count(replicas) == 0) {
      same_heads_[replicas] = mesh.tensor_parallel().split(place.rank / replicas, place.rank);
    }
  }
  if (mesh.data_parallel().size() > 1) {
    Communicator& ranks = mesh.data_parallel();
    beside_ = options.overlap_reduction ? make_background_communicator(ranks) : ranks.split(0, ranks.rank());
    overlaps_ = options.overlap_reduction && beside_->overlaps();
  }
  for (auto& [block, parameters] : by_block) {
    Group& group = groups_[block];
    group.trained.layout = FlatLayout(context, parameters.first, num_parts());
    group.frozen.layout = FlatLayout(context, parameters.second, num_parts());
    bool shares_weights = shares_state() && options_.zero_stage == 3;
    if (shares_state()) move_into_buffer(group.trained);
    if (shares_weights) move_into_buffer(group.frozen);
    if (options_.load_block != nullptr) {
      give_memory(group.trained);
      options_.load_block(block);
    }
    if (shares_weights) {
      keep_part(group.trained);
      keep_part(group.frozen);
    }
    for (Parameter* parameter : parameters.first) {
      auto slot = std::make_shared<GradSlot>();
      slot->tag = MemoryTag::grads;
      parameter->value.set_grad_slot(std::move(slot));
    }
    for (Parameter* parameter : parameters.second) parameter->value.set_grad_slot(nullptr);
  }
}

int ParameterShards::num_parts() const {
  return options_.zero_stage == 0 ? 1 : mesh_.data_parallel().size();
}

void ParameterShards::give_memory(Weights& weights) {
  for (const FlatEntry& entry : weights.layout.entries()) {
    Parameter& parameter = *entry.parameter;
    if (!parameter.value) parameter.value = context_.empty(parameter.local_shape, options_.dtype, MemoryTag::weights);
  }
}

void ParameterShards::move_into_buffer(Weights& weights) {
  if (weights.layout.empty()) return;
  const Tensor& first = weights.layout.entries().front().parameter->value;
  DType dtype = first ? first.dtype() : options_.dtype;
  weights.whole = context_.empty({weights.layout.size()}, dtype, MemoryTag::weights);
  weights.layout.clear_gaps(weights.whole);
  for (const FlatEntry& entry : weights.layout.entries()) {
    Tensor& value = entry.parameter->value;
    WEFT_ASSERT(!value || (value.dtype() == dtype && value.layout() == Layout::row_major));
    Tensor view = FlatLayout::view(weights.whole, entry);
    if (value) copy_elements(value, view);
    value = std::move(view);
  }
}

void ParameterShards::keep_part(Weights& weights) {
  if (weights.layout.empty()) return;
  int64_t size = weights.layout.part_size();
  int64_t begin = size * mesh_.data_parallel().rank();
  weights.part = context_.empty({size}, weights.whole.dtype(), MemoryTag::weights);
  copy_elements(weights.whole.slice(begin, begin + size), weights.part);
  weights.whole.release_memory();
}

void ParameterShards::start_gather(Weights& weights) {
  if (!weights.part || weights.whole.has_memory()) return;
  weights.whole.acquire_memory();
  weights.gathering = beside_->start_all_gather(weights.part, weights.whole);
}

void ParameterShards::gather(Weights& weights) {
  start_gather(weights);
  weights.gathering.wait();
}

void ParameterShards::gather(Group& group) {
  gather(group.trained);
  gather(group.frozen);
}

void ParameterShards::prefetch(Group& group) {
  if (!overlaps_) return;
  start_gather(group.trained);
  start_gather(group.frozen);
}

void ParameterShards::release(Weights& weights) {
  if (!weights.part || !weights.whole.has_memory()) return;
  weights.gathering.wait();
  weights.whole.release_memory();
}

void ParameterShards::release(Group& group) {
  release(group.trained);
  release(group.frozen);
}

void ParameterShards::gather_all() {
  for (auto& [block, group] : groups_) gather(group);
}

void ParameterShards::release_all() {
  for (auto& [block, group] : groups_) release(group);
}

void ParameterShards::share_weights() {
  if (!shares_state() || options_.zero_stage == 3) return;
  Communicator& ranks = mesh_.data_parallel();
  for (auto& [block, group] : groups_) {
    Weights& weights = group.trained;
    if (weights.layout.empty()) continue;
    int64_t size = weights.layout.part_size();
    Tensor mine = context_.empty({size}, weights.whole.dtype(), MemoryTag::comm);
    copy_elements(weights.whole.slice(size * ranks.rank(), size * (ranks.rank() + 1)), mine);
    ranks.all_gather(mine, weights.whole);
  }
}

Recompute ParameterShards::recompute(int64_t block) const {
  if (options_.recompute == Recompute::block && block % options_.recompute_every != 0) return Recompute::none;
  return options_.recompute;
}

void ParameterShards::before_forward(Context& context, int64_t block) {
  if (!has_parameters(block)) return;
  auto found = groups_.find(block);
  Group& group = found->second;
  gather(group);
  if (auto next = std::next(found); next != groups_.end()) prefetch(next->second);
  // The head's gradient arises in forward, with the loss.
  if (block == kOuterBlock && context.tape != nullptr) open_gradients(group);
}

void ParameterShards::after_forward(Context& /*context*/, int64_t block) {
  if (block == kOuterBlock || !has_parameters(block)) return;
  release(groups_.at(block));
}

void ParameterShards::before_backward(Context& /*context*/, int64_t block) {
  if (!has_parameters(block)) return;
  auto found = groups_.find(block);
  Group& group = found->second;
  gather(group);
  if (found != groups_.begin()) prefetch(std::prev(found)->second);
  open_gradients(group);
}

void ParameterShards::after_backward(Context& /*context*/, int64_t block) {
  if (!has_parameters(block)) return;
  Group& group = groups_.at(block);
  release(group);
  close_gradients(group);
}

void ParameterShards::open_gradients(Group& group) {
  const FlatLayout& layout = group.trained.layout;
  if (group.is_open || layout.empty()) return;
  if (!group.grads) group.grads = context_.empty({layout.size()}, DType::f32, MemoryTag::grads);
  for (const FlatEntry& entry : layout.entries()) {
    entry.parameter->value.grad_slot()->home = FlatLayout::view(group.grads, entry);
  }
  group.is_open = true;
}

void ParameterShards::clear_unwritten(Group& group) {
  group.trained.layout.clear_gaps(group.grads);
  for (const FlatEntry& entry : group.trained.layout.entries()) {
    if (entry.parameter->value.grad_slot()->tensor) continue;
    Tensor view = FlatLayout::view(group.grads, entry);
    view.fill_zero();
  }
}

void ParameterShards::sum_over_tensor_parallel(Group& group) {
  if (place_.size == 1) return;
  const FlatLayout& layout = group.trained.layout;
  if (layout.partial_size() > 0) {
    Tensor partial = group.grads.slice(0, layout.partial_size());
    mesh_.tensor_parallel().all_reduce(partial, ReduceOp::sum);
  }
  for (const FlatEntry& entry : layout.entries()) {
    int replicas = shard_replicas(entry.parameter->shard, place_);
    if (replicas == 1) continue;
    Tensor grad = FlatLayout::view(group.grads, entry);
    same_heads_.at(replicas)->all_reduce(grad, ReduceOp::sum);
  }
}

void ParameterShards::close_gradients(Group& group) {
  if (!group.is_open || !(is_last_micro_batch_ || reduces_every_micro_batch())) return;
  clear_unwritten(group);
  for (const FlatEntry& entry : group.trained.layout.entries()) {
    GradSlot& slot = *entry.parameter->value.grad_slot();
    slot.tensor = Tensor();
    slot.home = Tensor();
  }
  group.is_open = false;
  sum_over_tensor_parallel(group);
  if (mesh_.data_parallel().size() > 1) start_reduction(group);
}

/// One sum is on its way at a time: it has the whole backward of the next block, and what it holds stays bounded.
void ParameterShards::start_reduction(Group& group) {
  finish_reduction();
  Reduction& reduction = reduction_.emplace(Reduction{.group = &group, .more = {}, .call = {}});
  if (!shares_state()) {
    reduction.call = beside_->start_all_reduce(group.grads, ReduceOp::sum);
  } else {
    Tensor grads = std::exchange(group.grads, Tensor());
    if (group.has_sum) reduction.more = context_.empty(group.grad_part.shape(), DType::f32, MemoryTag::comm);
    const Tensor& sum = group.has_sum ? reduction.more : group.grad_part;
    reduction.call = beside_->start_reduce_scatter(grads, sum, ReduceOp::sum);
    group.has_sum = true;
  }
  if (!overlaps_) finish_reduction();
}

void ParameterShards::finish_reduction() {
  if (!reduction_.has_value()) return;
  Reduction reduction = std::move(*reduction_);
  reduction_.reset();
  reduction.call.wait();
  if (!reduction.more) return;
  Tensor& sum = reduction.group->grad_part;
  auto axpby = require_kernel(context_.kernels().elementwise.axpby, "add", context_.device.type);
  axpby({.x = reduction.more.raw(),
         .y_in = sum.raw(),
         .y = sum.raw(),
         .count = sum.num_elements(),
         .a = 1,
         .b = 1,
         .x_dtype = DType::f32,
         .y_dtype = DType::f32},
        context_.stream());
}

void ParameterShards::begin_step() {
  for (auto& [block, group] : groups_) {
    group.has_sum = false;
    group.is_open = false;
    for (const FlatEntry& entry : group.trained.layout.entries()) {
      GradSlot& slot = *entry.parameter->value.grad_slot();
      slot.tensor = Tensor();
      slot.home = Tensor();
    }
  }
}

void ParameterShards::begin_micro_batch(bool is_last) {
  is_last_micro_batch_ = is_last;
  // Backward of this micro-batch writes where the last one's reduction may still read.
  finish_reduction();
}

void ParameterShards::end_micro_batch(Context& context) {
  after_backward(context, kOuterBlock);
}

void ParameterShards::finish_gradients() {
  finish_reduction();
  // What was gathered ahead for a block that backward did not come to.
  release_all();
}

PieceSharing ParameterShards::sharing() const {
  return {.data_parallel = shares_state() ? &mesh_.data_parallel() : nullptr,
          .tensor_parallel = place_.size > 1 ? &mesh_.tensor_parallel() : nullptr};
}

std::vector<OptimizerPiece> ParameterShards::pieces() {
  std::vector<OptimizerPiece> pieces;
  for (auto& [block, group] : groups_) {
    if (group.trained.layout.empty()) continue;
    Tensor& grads = shares_state() ? group.grad_part : group.grads;
    if (!grads) grads = context_.zeros({group.trained.layout.part_size()}, DType::f32, MemoryTag::grads);
    add_pieces(group.trained, grads, pieces);
  }
  return pieces;
}

std::vector<OptimizerPiece> ParameterShards::frozen_pieces() {
  std::vector<OptimizerPiece> pieces;
  for (auto& [block, group] : groups_) {
    if (group.frozen.part) add_pieces(group.frozen, {}, pieces);
  }
  return pieces;
}

void ParameterShards::add_pieces(Weights& weights, const Tensor& grads, std::vector<OptimizerPiece>& pieces) const {
  const FlatLayout& layout = weights.layout;
  int64_t part_begin = shares_state() ? layout.part_size() * mesh_.data_parallel().rank() : 0;
  int64_t part_end = part_begin + layout.part_size();
  for (const FlatEntry& entry : layout.entries()) {
    int64_t begin = std::max(part_begin, entry.offset);
    int64_t end = std::min(part_end, entry.offset + entry.count);
    if (begin >= end) continue;
    int64_t first = begin - entry.offset, last = end - entry.offset;
    Tensor weight = weights.part ? weights.part.slice(begin - part_begin, end - part_begin)
                                 : flat(entry.parameter->value).slice(first, last);
    pieces.push_back({.parameter = entry.parameter,
                      .begin = first,
                      .end = last,
                      .weight = std::move(weight),
                      .grad = grads ? grads.slice(begin - part_begin, end - part_begin) : Tensor()});
  }
}

}  // namespace weft
