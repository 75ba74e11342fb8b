#include "optimizer/piece_set.h"

#include <cstring>

#include "autograd/tape.h"
#include "optimizer/element_map.h"
#include "optimizer/name_patterns.h"

namespace weft {
namespace {

/// FNV-1a: the same on every rank, whatever else it holds.
uint32_t hash_name(const std::string& name) {
  uint32_t hash = 2166136261u;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return hash;
}

using PatternFactors = std::vector<std::pair<std::regex, double>>;

double first_factor(const PatternFactors& factors, const std::string& name) {
  for (const auto& [pattern, factor] : factors) {
    if (std::regex_search(name, pattern)) return factor;
  }
  return 1;
}

std::vector<PieceSettings> make_settings(const OptimizerOptions& options,
                                         const std::vector<OptimizerPiece>& pieces,
                                         TensorParallelPlace place) {
  NamePatterns no_decay(options.weight_decay_exclude, "weight_decay_exclude");
  NamePatterns no_adaptation(options.layer_adaptation_exclude, "layer_adaptation_exclude");
  PatternFactors factors;
  for (const auto& [pattern, factor] : options.learning_rate_factors) {
    factors.emplace_back(compile_name_pattern(pattern, "learning_rate_factors"), factor);
  }
  std::vector<PieceSettings> settings;
  for (const OptimizerPiece& piece : pieces) {
    const Parameter& parameter = *piece.parameter;
    bool decays = options.kind != OptimizerKind::adam && !no_decay.match(parameter.name) &&
                  (options.decay_vectors || parameter.full_shape.rank() >= 2);
    settings.push_back({.weight_decay = decays ? options.weight_decay : 0,
                        .learning_rate_factor = first_factor(factors, parameter.name),
                        .layer_adaptation = !no_adaptation.match(parameter.name),
                        .counts = is_first_holder(parameter.shard, place),
                        .random_site = hash_name(parameter.name)});
  }
  return settings;
}

void check_piece(const OptimizerPiece& piece) {
  int64_t count = piece.end - piece.begin;
  WEFT_ASSERT(piece.begin >= 0 && count >= 0 && piece.end <= piece.parameter->local_shape.num_elements());
  if (count == 0) return;
  WEFT_ASSERT(piece.weight.num_elements() == count && piece.grad.num_elements() == count);
  WEFT_ASSERT(piece.grad.dtype() == DType::f32);
  WEFT_ASSERT(piece.weight.dtype() == DType::f32 || piece.weight.dtype() == DType::bf16);
}

void round_to_bf16(Context& context, Tensor& weight) {
  weight.copy_from(copy_of(context, copy_of(context, weight, DType::bf16), DType::f32));
}

}  // namespace

PieceSet::PieceSet(const Context& context,
                   const OptimizerOptions& options,
                   std::vector<OptimizerPiece> pieces,
                   TensorParallelPlace place,
                   const PieceSharing& sharing)
    : context_(context),
      options_(options),
      pieces_(std::move(pieces)),
      place_(place),
      sharing_(sharing),
      settings_(make_settings(options_, pieces_, place)),
      extras_(pieces_.size()),
      active_runs_(pieces_.size()) {
  for (size_t index = 0; index < size(); ++index) {
    check_piece(pieces_[index]);
    if (count(index) == 0) continue;
    active_runs_[index] = {{0, count(index)}};
    const Tensor& value = pieces_[index].weight;
    WeightStorage kept = storage(value.dtype());
    if (kept == WeightStorage::low_bits) {
      // Two bytes an element: there is no 16-bit integer dtype.
      extras_[index] = context_.zeros({count(index)}, DType::bf16, MemoryTag::optimizer);
    } else if (kept == WeightStorage::rounded) {
      extras_[index] = context_.empty({count(index)}, DType::f32, MemoryTag::optimizer);
      extras_[index].copy_from(value);
      round_to_bf16(context_, pieces_[index].weight);
    }
  }
}

WeightStorage PieceSet::storage(DType dtype) const {
  bool is_bf16 = dtype == DType::bf16;
  switch (options_.master_weights) {
    case MasterWeights::none:
      return WeightStorage::own;
    case MasterWeights::full:
      return is_bf16 ? WeightStorage::low_bits : WeightStorage::own;
    case MasterWeights::stochastic:
      return is_bf16 ? WeightStorage::stochastic : WeightStorage::own;
    case MasterWeights::rounded:
      return is_bf16 ? WeightStorage::low_bits : WeightStorage::rounded;
  }
  return WeightStorage::own;
}

OptimizerWeight PieceSet::weight(size_t index, int64_t update) const {
  const OptimizerPiece& piece = pieces_[index];
  const Parameter& parameter = *piece.parameter;
  Tensor value = piece.weight, extra = extras_[index];
  return {.weight = value.raw(),
          .extra = extra.defined() ? extra.raw() : nullptr,
          .dtype = value.dtype(),
          .storage = storage(value.dtype()),
          .map = element_map(parameter.full_shape, parameter.range, piece.begin),
          .key = {.seed = options_.seed, .step = static_cast<uint32_t>(update), .site = settings_[index].random_site}};
}

bool PieceSet::has_separate_master() const {
  for (const Tensor& extra : extras_) {
    if (extra.defined()) return true;
  }
  return false;
}

std::vector<Tensor>& PieceSet::add_state(const std::string& name, const std::function<bool(size_t index)>& wanted) {
  std::vector<Tensor>& state = states_[name];
  state.resize(size());
  for (size_t index = 0; index < size(); ++index) {
    if (count(index) == 0 || (wanted && !wanted(index))) continue;
    state[index] = context_.zeros({count(index)}, DType::f32, MemoryTag::optimizer);
  }
  return state;
}

const ParameterDirectory& PieceSet::make_directory() {
  if (directory_ == nullptr) {
    directory_ = std::make_unique<ParameterDirectory>(pieces_, place_, sharing_);
    for (size_t index = 0; index < size(); ++index) {
      settings_[index].parameter_index = directory_->index(pieces_[index].parameter->name);
    }
  }
  return *directory_;
}

}  // namespace weft
