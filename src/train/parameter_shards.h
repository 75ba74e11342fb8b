// How data-parallel ranks share what training keeps of each parameter (ZeRO: Rajbhandari et al., 2020): stage 0 shares
// nothing, 1 the optimizer state, 2 also the gradients, 3 also the parameters. Works on whole blocks of the model:
// their gradients are reduced as soon as backward has left the block; under stage 3 their weights are gathered before
// the block begins and let go when it ends. Both go on beside the computing.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "autograd/block.h"
#include "optimizer/optimizer.h"
#include "parallel/mesh.h"
#include "train/flat_layout.h"

namespace weft {

/// Fills the values of one block's parameters, those that have none yet: where they have memory, there, and else in
/// memory of its own (frozen ones that are not shared out, which may be quantized).
using LoadBlock = std::function<void(int64_t block)>;

struct ShardOptions {
  int zero_stage = 0;
  /// For models that do not fit a rank as a whole: parameters without a value are given memory of `dtype`, or, frozen
  /// and not shared out, left to the loader, and loaded block by block; each block is shared out before the next one is
  /// loaded. Null: all values are there.
  LoadBlock load_block = nullptr;
  DType dtype = DType::f32;
  bool overlap_reduction = true;  // and the gathers of weights
  Recompute recompute = Recompute::none;
  int64_t recompute_every = 1;
};

class ParameterShards final : public BlockHooks {
 public:
  /// Gives the trained parameters gradient slots and moves their values into flat buffers where the stage asks for it.
  /// Collective over the mesh.
  ParameterShards(const Context& context,
                  const Mesh& mesh,
                  TensorParallelPlace place,
                  const std::vector<Parameter*>& trained,
                  const std::vector<Parameter*>& frozen,
                  const ShardOptions& options);

  /// What this rank updates.
  std::vector<OptimizerPiece> pieces();
  /// Of frozen parameters that are shared out (stage 3): what this rank keeps. Without gradients.
  std::vector<OptimizerPiece> frozen_pieces();
  PieceSharing sharing() const;

  /// Forgets all gradients.
  void begin_step();
  /// Whether the gradients of the micro-batch that follows complete the step's.
  void begin_micro_batch(bool is_last);
  /// To be called when backward is through: reduces what belongs to no block and lets go of it.
  void end_micro_batch(Context& context);
  /// Waits for the reductions; the pieces' gradients are the sums over all ranks and micro-batches then.
  void finish_gradients();
  /// After an update: brings the other ranks' parts of the weights. Nothing to do under stages 0 and 3.
  void share_weights();

  /// Weights of all blocks in place, and let go again. Nothing to do below stage 3.
  void gather_all();
  void release_all();

  Recompute recompute(int64_t block) const override;
  void before_forward(Context& context, int64_t block) override;
  void after_forward(Context& context, int64_t block) override;
  void before_backward(Context& context, int64_t block) override;
  void after_backward(Context& context, int64_t block) override;

 private:
  /// Parameters of a block that share a buffer.
  struct Weights {
    FlatLayout layout;
    Tensor whole;  // [layout.size()], without memory between uses under stage 3
    Tensor part;   // stage 3: [layout.part_size()], what this rank keeps
    PendingCall gathering;
  };
  struct Group {
    Weights trained, frozen;
    Tensor grads;      // [layout.size()] f32: where backward writes
    Tensor grad_part;  // [layout.part_size()] f32: the sum of this rank's part (stages 1 to 3)
    bool has_sum = false;
    bool is_open = false;  // the slots point into `grads`
  };
  /// A sum over ranks that has been started.
  struct Reduction {
    Group* group;
    Tensor more;  // to be added to the group's sum; undefined if it is the sum
    PendingCall call;
  };

  int num_parts() const;
  bool shares_state() const { return num_parts() > 1; }
  bool reduces_every_micro_batch() const { return options_.zero_stage >= 2 && shares_state(); }
  /// Blocks that share one set of weights (ALBERT) have none of their own: it belongs to the outer block.
  bool has_parameters(int64_t block) const { return groups_.count(block) > 0; }
  void give_memory(Weights& weights);
  void move_into_buffer(Weights& weights);
  void keep_part(Weights& weights);
  void start_gather(Weights& weights);
  void gather(Weights& weights);
  void gather(Group& group);
  /// What the next block is likely to be, so that its weights are there when it begins.
  void prefetch(Group& group);
  static void release(Weights& weights);
  static void release(Group& group);
  void open_gradients(Group& group);
  void close_gradients(Group& group);
  void clear_unwritten(Group& group);
  void sum_over_tensor_parallel(Group& group);
  void start_reduction(Group& group);
  void finish_reduction();
  void add_pieces(Weights& weights, const Tensor& grads, std::vector<OptimizerPiece>& pieces) const;

  Context context_;
  const Mesh& mesh_;
  TensorParallelPlace place_;
  ShardOptions options_;
  std::map<int64_t, Group> groups_;
  std::map<int, std::unique_ptr<Communicator>> same_heads_;  // by the number of ranks that hold the same heads
  std::unique_ptr<Communicator> beside_;                     // data-parallel, for calls beside the computing
  bool overlaps_ = false;
  bool is_last_micro_batch_ = true;
  std::optional<Reduction> reduction_;
};

}  // namespace weft
