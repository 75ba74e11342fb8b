// ParameterShards (train/parameter_shards.h) as memory.
#pragma once

#include <map>
#include <vector>

#include "optimizer/optimizer.h"
#include "plan/planned_tape.h"
#include "train/flat_layout.h"

namespace weft {

struct PlannedShardOptions {
  int zero_stage = 0;
  int data = 1;  // ranks
  bool overlap_reduction = true;
  Recompute recompute = Recompute::none;
  int64_t recompute_every = 1;
};

struct PlannedParameters {
  std::vector<Parameter*> trained, frozen;
  std::vector<Parameter*> loaded;  // those that have values before; the others are loaded block by block
};

/// A run of elements of a trained parameter that this rank updates.
struct PlannedPiece {
  const Parameter* parameter = nullptr;
  int64_t count = 0;
};

class PlannedShards final : public PlannedBlockHooks {
 public:
  /// Takes the memory of the loaded parameters, then that of the buffers.
  PlannedShards(const PlanContext& context, const PlannedParameters& parameters, const PlannedShardOptions& options);

  /// Of a data-parallel rank.
  std::vector<PlannedPiece> pieces(int data_rank) const;
  bool shares_state() const { return num_parts() > 1; }

  void begin_micro_batch(bool is_first, bool is_last);
  void end_micro_batch(PlanContext& context) { after_backward(context, kOuterBlock); }
  void finish_gradients() { finish_reduction(); }
  void share_weights() const;
  /// With the weights of all blocks in place for a moment.
  void pass_whole_weights();

  Recompute recompute(int64_t block) const override;
  void before_forward(PlanContext& context, int64_t block) override;
  void after_forward(PlanContext& context, int64_t block) override;
  void before_backward(PlanContext& context, int64_t block) override;
  void after_backward(PlanContext& context, int64_t block) override;

 private:
  struct Weights {
    FlatLayout layout;
    PlannedMemory whole, part;
  };
  struct Group {
    Weights trained, frozen;
    PlannedMemory grads, grad_part;
    bool has_sum = false;
  };

  int num_parts() const { return options_.zero_stage == 0 ? 1 : options_.data; }
  int64_t weight_bytes(int64_t elements) const;
  void add_group(int64_t block, const PlannedParameters& parameters);
  void give_memory(const Weights& weights);
  void move_into_buffer(Weights& weights);
  void keep_part(Weights& weights);
  void gather(Weights& weights) const;
  void gather(Group& group) const;
  void prefetch(Group& group) const;
  static void release(Group& group);
  void open_gradients(Group& group) const;
  void close_gradients(Group& group);
  void start_reduction(Group& group);
  void finish_reduction();

  PlanContext context_;
  PlannedShardOptions options_;
  std::map<const Parameter*, PlannedMemory> values_;
  std::map<int64_t, Group> groups_;
  PlannedMemory reduced_, more_;  // by the reduction that goes on beside backward: its input, and what it adds
  bool is_last_micro_batch_ = true;
};

}  // namespace weft
