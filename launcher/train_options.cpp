#include "launcher/train_options.h"

#include <algorithm>
#include <cmath>

#include "config/dependent_defaults.h"
#include "config/run.pb.h"
#include "models/initial_state.h"

namespace weft {
namespace {

// A switch without a default: the compiler names the value that is missing.

OptimizerKind optimizer_kind(config::OptimizerConfig::Kind kind) {
  switch (kind) {
    case config::OptimizerConfig::ADAMW:
      return OptimizerKind::adamw;
    case config::OptimizerConfig::LAMB:
      return OptimizerKind::lamb;
    case config::OptimizerConfig::LION:
      return OptimizerKind::lion;
    case config::OptimizerConfig::ADAFACTOR:
      return OptimizerKind::adafactor;
    case config::OptimizerConfig::MUON:
      return OptimizerKind::muon;
    case config::OptimizerConfig::SGD:
      return OptimizerKind::sgd;
  }
  WEFT_ASSERT(false, "optimizer kind {}", static_cast<int>(kind));
  return OptimizerKind::adamw;
}

ScheduleKind schedule_kind(config::ScheduleConfig::Kind kind) {
  switch (kind) {
    case config::ScheduleConfig::COSINE:
      return ScheduleKind::cosine;
    case config::ScheduleConfig::LINEAR:
      return ScheduleKind::linear;
    case config::ScheduleConfig::CONSTANT:
      return ScheduleKind::constant;
    case config::ScheduleConfig::POLYNOMIAL:
      return ScheduleKind::polynomial;
    case config::ScheduleConfig::PIECEWISE_LINEAR:
      return ScheduleKind::piecewise_linear;
  }
  WEFT_ASSERT(false, "schedule kind {}", static_cast<int>(kind));
  return ScheduleKind::cosine;
}

Recompute recompute_kind(config::TrainConfig::Recompute kind) {
  switch (kind) {
    case config::TrainConfig::KEEP:
      return Recompute::none;
    case config::TrainConfig::SELECTIVE:
      return Recompute::selective;
    case config::TrainConfig::BLOCK:
      return Recompute::block;
  }
  WEFT_ASSERT(false, "recomputation kind {}", static_cast<int>(kind));
  return Recompute::none;
}

Adversarial adversarial_kind(config::AdversarialConfig::Kind kind) {
  switch (kind) {
    case config::AdversarialConfig::OFF:
      return Adversarial::none;
    case config::AdversarialConfig::FGM:
      return Adversarial::fgm;
    case config::AdversarialConfig::GRADIENT_PENALTY:
      return Adversarial::gradient_penalty;
  }
  WEFT_ASSERT(false, "adversarial kind {}", static_cast<int>(kind));
  return Adversarial::none;
}

Packing packing_kind(config::DataConfig::Packing packing) {
  switch (packing) {
    case config::DataConfig::SPLIT:
      return Packing::split;
    case config::DataConfig::WHOLE:
      return Packing::whole;
    case config::DataConfig::NONE:
      return Packing::none;
  }
  WEFT_ASSERT(false, "packing {}", static_cast<int>(packing));
  return Packing::split;
}

MasterWeights master_weights(const config::PrecisionConfig& precision) {
  if (precision.compute() == config::PrecisionConfig::F32) return MasterWeights::none;
  return precision.master_weights() == config::PrecisionConfig::STOCHASTIC_ROUNDING ? MasterWeights::stochastic
                                                                                    : MasterWeights::full;
}

std::vector<DataSourceOptions> data_sources(const google::protobuf::RepeatedPtrField<config::DataSource>& sources) {
  std::vector<DataSourceOptions> out;
  for (const config::DataSource& source : sources) out.push_back({source.path(), source.weight()});
  return out;
}

}  // namespace

std::vector<std::string> model_fields(const ModelOptions& model) {
  std::vector<std::string> fields;
  if (!model.path.empty()) fields.push_back("model.path=" + model.path);
  if (!model.family.empty()) fields.push_back("model.family=" + model.family);
  if (!model.compat.empty()) fields.push_back("model.compat=" + model.compat);
  if (!model.config.empty()) fields.push_back("model.config=" + model.config);
  if (!model.application.empty()) fields.push_back("model.application=" + model.application);
  for (const std::string& setting : model.set) fields.push_back("model.set+=" + setting);
  return fields;
}

DType compute_dtype(const config::RunConfig& config) {
  return config.precision().compute() == config::PrecisionConfig::F32 ? DType::f32 : DType::bf16;
}

InitialState initial_state(const config::RunConfig& config) {
  if (!config.has_state_tuning()) return InitialState::zeros;
  return config.state_tuning().shifts() ? InitialState::learned_with_shifts : InitialState::learned;
}

ModelOptions model_options(const config::RunConfig& config) {
  return {.path = config.model().path(),
          .family = config.model().family(),
          .compat = config.model().compat(),
          .application = config.model().application(),
          .config = config.model().config(),
          .overrides = initial_state_overrides(initial_state(config)),
          .set = {config.model().set().begin(), config.model().set().end()}};
}

Quantization quantization_of(const config::RunConfig& config) {
  switch (config.lora().quantize()) {
    case config::LoraConfig::NONE:
      return Quantization::none;
    case config::LoraConfig::INT8:
      return Quantization::int8;
    case config::LoraConfig::INT4:
      return Quantization::int4;
  }
  WEFT_ASSERT(false, "quantization {}", static_cast<int>(config.lora().quantize()));
  return Quantization::none;
}

LoraOptions lora_options(const config::RunConfig& config) {
  const config::LoraConfig& lora = config.lora();
  return {.rank = lora.rank(),
          .alpha = lora.alpha(),
          .dropout = lora.dropout(),
          .rank_stabilised = lora.rank_stabilised(),
          .target_modules = {lora.target_modules().begin(), lora.target_modules().end()},
          .layers = {lora.layers().begin(), lora.layers().end()}};
}

OptimizerOptions optimizer_options(const config::RunConfig& config) {
  const config::OptimizerConfig& optimizer = config.train().optimizer();
  bool is_keras = optimizer.epsilon_placement() == config::OptimizerConfig::KERAS;
  OptimizerOptions options{
      .kind = optimizer_kind(optimizer.kind()),
      .beta1 = optimizer.beta1(),
      .beta2 = beta2_of(optimizer),
      .epsilon = optimizer.epsilon(),
      .momentum = momentum_of(optimizer),
      .epsilon_placement = is_keras ? EpsilonPlacement::keras : EpsilonPlacement::torch,
      .bias_correction = optimizer.bias_correction(),
      .weight_decay = optimizer.weight_decay(),
      .weight_decay_exclude = {optimizer.weight_decay_exclude().begin(), optimizer.weight_decay_exclude().end()},
      .decay_vectors = optimizer.decay_vectors(),
      .layer_adaptation_exclude = {optimizer.layer_adaptation_exclude().begin(),
                                   optimizer.layer_adaptation_exclude().end()},
      .layer_adaptation_includes_decay = optimizer.layer_adaptation_includes_decay(),
      .learning_rate_factors = {},
      .ema_momentum = optimizer.ema_momentum(),
      .lookahead_steps = optimizer.lookahead_steps(),
      .lookahead_alpha = optimizer.lookahead_alpha(),
      .lazy_rows = optimizer.lazy_rows(),
      .master_weights = master_weights(config.precision()),
      .seed = config.train().seed()};
  for (const config::LearningRateFactor& factor : optimizer.learning_rate_factors()) {
    options.learning_rate_factors.emplace_back(factor.pattern(), factor.factor());
  }
  return options;
}

int64_t total_steps(const config::RunConfig& config, int64_t rows_per_epoch) {
  const config::TrainConfig& train = config.train();
  if (train.has_steps()) return train.steps();
  double steps =
      std::ceil(train.epochs() * static_cast<double>(rows_per_epoch) / static_cast<double>(train.batch_size()));
  return static_cast<int64_t>(std::clamp(steps, 1.0, 0x1p53));
}

ScheduleOptions schedule_options(const config::RunConfig& config, int64_t num_steps) {
  const config::ScheduleConfig& schedule = config.train().schedule();
  ScheduleOptions options{.kind = schedule_kind(schedule.kind()),
                          .learning_rate = config.train().learning_rate(),
                          .warmup_steps = schedule.warmup_steps(),
                          .total_steps = num_steps,
                          .minimum_factor = schedule.minimum_factor(),
                          .power = schedule.power(),
                          .points = {}};
  for (const config::SchedulePoint& point : schedule.points())
    options.points.emplace_back(point.step(), point.factor());
  return options;
}

EngineOptions engine_options(const config::RunConfig& config) {
  const config::TrainConfig& train = config.train();
  return {.optimizer = optimizer_options(config),
          .clip_norm = train.clip_norm(),
          .zero_stage = static_cast<int>(config.parallel().zero_stage()),
          .overlap_gradient_reduction = config.parallel().overlap_gradient_reduction(),
          .recompute = recompute_kind(train.gradient_checkpointing()),
          .recompute_every = train.checkpoint_every(),
          .adversarial = adversarial_kind(train.adversarial().kind()),
          .adversarial_epsilon = train.adversarial().epsilon(),
          .train_norms = config.has_lora() && config.lora().train_norms(),
          .freeze = {train.freeze().begin(), train.freeze().end()}};
}

TrainingDataOptions training_data_options(const config::RunConfig& config) {
  const config::DataConfig& data = config.data();
  return {.sources = data_sources(data.sources()),
          .sequence_length = data.sequence_length(),
          .packing = packing_kind(packing_of(config)),
          .shuffle = data.shuffle(),
          .seed = config.train().seed()};
}

TrainingDataOptions evaluation_data_options(const config::RunConfig& config) {
  TrainingDataOptions options = training_data_options(config);
  options.sources = data_sources(config.evaluation().sources());
  options.shuffle = false;
  return options;
}

}  // namespace weft
