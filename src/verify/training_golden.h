// The recipe that a golden file of training was made by: hyper parameters and the batch of every step
// (docs/golden-files.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/engine.h"
#include "verify/golden_file.h"

namespace weft {

struct TrainingRecipe {
  double learning_rate = 0, lora_learning_rate = 0;
  double beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, clip_norm = 0, ema_momentum = 0;
  int64_t warmup_steps = 0, total_steps = 0;
  LoraOptions lora;
};

struct GoldenRow {
  std::vector<int32_t> ids;
  std::vector<int32_t> targets;        // −1: not scored
  std::vector<int32_t> segments = {};  // empty: all 0
};

/// How a step's rows become micro-batches, and what each token weighs.
enum class Accumulation : uint8_t {
  none,    // one micro-batch
  tokens,  // two, every token of the step weighs the same
  mean     // two, the mean of each weighs one half
};

class TrainingGolden {
 public:
  /// Labels of a causal model are scored by the token before them, others' by their own. Throws Error(bad_input) when
  /// the file holds no training recipe.
  TrainingGolden(GoldenFile& golden, bool is_causal);

  const TrainingRecipe& recipe() const { return recipe_; }
  int64_t num_steps() const { return num_steps_; }
  /// This data-parallel rank's share of a step.
  std::vector<MicroBatch> micro_batches(int64_t step, Accumulation accumulation, int rank, int num_ranks) const;
  /// The held-out text in rows, this rank's share: one micro-batch on every rank, or none when the file has no such
  /// text.
  std::vector<MicroBatch> held_out(int rank, int num_ranks) const;

 private:
  void read_recipe(const GoldenFile& golden);
  void read_rows(GoldenFile& golden, bool is_causal);
  void read_text(GoldenFile& golden);
  const GoldenRow& row(int64_t step, int64_t index) const;

  TrainingRecipe recipe_;
  int64_t num_steps_ = 0;
  int64_t rows_per_step_ = 0;
  std::vector<GoldenRow> rows_;  // of all steps
  std::vector<GoldenRow> held_out_;
};

}  // namespace weft
