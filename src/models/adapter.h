// LoRA (Hu et al., "LoRA: Low-rank adaptation of large language models", 2021): low-rank updates beside frozen linear
// layers, y = W·x + scale · B·(A·x), with the sharding that follows from the layer's own.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nn/layers.h"

namespace weft {

class LanguageModel;
struct NamedLinear;

struct LoraOptions {
  int64_t rank = 8;  // 0: no factors, of an adapter of whole parameters alone
  double alpha = 16;
  double dropout = 0;
  bool rank_stabilised = false;  // scale alpha / √rank instead of alpha / rank
  /// Last parts of layer names, or * patterns of whole ones; empty: all of the blocks.
  std::vector<std::string> target_modules = {};
  std::vector<int64_t> layers = {};  // numbers in the layers' names, of both stacks of encoder-decoders; empty: all

  double scale() const;
};

/// A parameter of the model and the value that belongs to an adapter.
struct ReplacedParameter {
  Parameter* parameter = nullptr;
  Tensor value;  // this rank's slice
};

/// The factors of one adapter of a model, this rank's slices. Column-parallel layers have A replicated and B split,
/// row- parallel ones A split and B replicated; B is added before the one reduction.
class Adapter {
 public:
  /// Declares A and B for every layer that the options name. Throws Error(bad_input) when a target matches none, naming
  /// what there is. The model must outlive the adapter.
  Adapter(LanguageModel& model, const LoraOptions& options);
  ~Adapter();
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  const LoraOptions& options() const { return options_; }
  /// Named as PEFT names them: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }

  /// Whole parameters of the model that belong to the adapter (PEFT's modules_to_save: norms): they are saved with it,
  /// trained or not. Their values are kept beside the model's, which under ZeRO 3 are not in memory.
  const std::vector<ReplacedParameter>& replaced() const { return replaced_; }
  void set_replaced(std::vector<ReplacedParameter> replaced) { replaced_ = std::move(replaced); }
  /// Writes them over the model's, of one block or of all, which must have been loaded.
  void replace_parameters(std::optional<int64_t> block = std::nullopt) const;

  /// A uniform in ±1/√in_features (PEFT's), B zero; the same at every split. Values that are defined already are filled
  /// in place.
  void initialise(const Context& context, DType dtype, uint64_t seed);

  /// The layers run with this adapter from now on (one at a time), or with none.
  void attach();
  void detach();
  /// Adds scale · B·A to the weights, which must be row-major (Error(failure) otherwise), and detaches.
  void merge(const Context& context);
  /// Takes it back, up to rounding.
  void unmerge(const Context& context);

 private:
  struct Part;
  void add_part(LanguageModel& model, const NamedLinear& named);
  void add_to_weights(const Context& context, double scale);

  LoraOptions options_;
  ParameterStore parameters_;
  std::deque<Part> parts_;
  std::vector<ReplacedParameter> replaced_;
};

}  // namespace weft
