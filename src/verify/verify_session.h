// What the layouts of golden files share while a model is verified: the model in memory, the tolerances, the table so
// far.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/weight_map.h"
#include "verify/model_run.h"
#include "verify/verifier.h"

namespace weft {

/// Rows of a golden file as a batch without padding.
struct PackedRows {
  Batch batch;
  std::vector<int64_t> positions;         // row · length + column in the file, of each token
  std::vector<int64_t> source_positions;  // likewise, of the sources' tokens

  /// The places of what is observed under a name.
  const std::vector<int64_t>& positions_of(std::string_view observed) const {
    return observed.starts_with("encoder_") ? source_positions : positions;
  }
};

/// Makes the rows the sources of others.
void add_sources(PackedRows& packed, const PackedRows& sources);

/// The positions of each row whose mask is not 0 (all without a mask). Throws Error(bad_input) when a row's are not
/// contiguous.
PackedRows pack_rows(const GoldenFile& golden, const GoldenIds& ids, const GoldenIds* mask);

/// Tolerances by what is compared: those of the golden file's `tolerance` attribute, else defaults of the dtype.
class ToleranceTable {
 public:
  ToleranceTable(const GoldenFile& golden, const VerifyOptions& options);
  /// `kind`: "outputs", "outputs_float32", "grads", "loss", "nll", "perplexity", "text_logits".
  Tolerance get(std::string_view kind) const;
  /// For what was made in bf16 by the reference, whatever the dtype here.
  Tolerance loose() const;
  /// Logits closer than this are a tie that may fall either way, as a part of the largest logit's size plus an absolute
  /// part.
  double near_tie(double largest_logit) const;

 private:
  std::vector<std::pair<std::string, Tolerance>> of_file_;
  DType dtype_;
  std::optional<double> override_;
};

class VerifySession {
 public:
  VerifySession(const Context& context, const OpenedModel& opened, GoldenFile& golden, const VerifyOptions& options);

  const Context& context() const { return context_; }
  const OpenedModel& opened() const { return opened_; }
  GoldenFile& golden() { return golden_; }
  const ToleranceTable& tolerances() const { return tolerances_; }
  DType dtype() const { return options_.dtype; }
  bool computes_in_bf16() const { return options_.dtype == DType::bf16; }

  /// The model, loaded for inference or for training; loading it the other way drops the former one.
  LanguageModel& model(bool for_training = false);

  void add(Comparison comparison) { report_.compared.push_back(std::move(comparison)); }
  void compare(std::string_view dataset,
               std::string_view category,
               const Tolerance& tolerance,
               const Difference& difference);
  void compare_scalar(std::string_view dataset, std::string_view category, const Tolerance& tolerance, double value);
  /// Token i of `values` against position positions[i] of the dataset.
  void compare_tokens(std::string_view dataset,
                      std::string_view category,
                      const Tolerance& tolerance,
                      const TokenValues& values,
                      const std::vector<int64_t>& positions);
  /// Continuations against rows of ids; a row is left at a near tie. `expected[r]` are the ids that row r should make.
  void compare_ids(std::string_view dataset,
                   std::string_view category,
                   const std::vector<GreedyRow>& rows,
                   const std::vector<std::vector<int32_t>>& expected);
  /// The gradient of a parameter against the dataset that holds it in the checkpoint's layout.
  void compare_gradient(std::string_view dataset, const std::vector<float>& gradient);
  /// The gradient of a parameter that is part of the dataset's tensor.
  void compare_gradient_part(std::string_view dataset,
                             const Parameter& parameter,
                             const WeightSource& source,
                             const std::vector<float>& gradient);

  /// The table, with the largest difference that any rank saw.
  VerifyReport finish();

 private:
  void merge_ranks();

  Context context_;
  const OpenedModel& opened_;
  GoldenFile& golden_;
  VerifyOptions options_;
  ToleranceTable tolerances_;
  std::unique_ptr<LanguageModel> model_;
  bool model_for_training_ = false;
  VerifyReport report_;
};

/// The layouts (docs/golden-files.md); each does nothing when the file holds none of its datasets.
void verify_keras_layout(VerifySession& session);
void verify_reference_layout(VerifySession& session);
void verify_text_layout(VerifySession& session);
void verify_sentence_layout(VerifySession& session);
void verify_state_layout(VerifySession& session);

/// The loss and the gradient of every parameter, against `loss_dataset` and `grads_group`/<tensor of a checkpoint whose
/// names are those of `map`>.
void verify_training(VerifySession& session,
                     const Batch& batch,
                     const TrainingTargets& targets,
                     const WeightMap& map,
                     std::string_view loss_dataset,
                     std::string_view grads_group);

/// Fails unless all ids lie in the model's vocabulary.
void check_ids(VerifySession& session, std::string_view dataset, const GoldenIds& ids);

}  // namespace weft
