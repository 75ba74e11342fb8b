#include "train/engine.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "autograd/tape.h"
#include "core/error.h"
#include "optimizer/grad_norm.h"
#include "optimizer/name_patterns.h"
#include "train/adversarial.h"
#include "train/evaluation.h"
#include "train/parameter_shards.h"

namespace weft {
namespace {

/// PyTorch's clip_grad_norm_.
constexpr double kClipEpsilon = 1e-6;
/// How far the gradient penalty's finite difference moves the embedding with the largest gradient, as a part of an
/// embedding's size: small, since that gradient is far above the others, and large enough for f32.
constexpr double kPenaltyStep = 1e-3;

/// What is added to the looked-up embeddings, and where their size is asked for.
struct ChangedEmbedding {
  Tensor offset = {};
  EmbeddingSize* size = nullptr;
};

/// Squared length of each row.
std::vector<double> row_squares(const Tensor& tensor) {
  std::vector<float> values = to_floats(tensor);
  std::vector<double> squares(static_cast<size_t>(tensor.size(0)));
  auto width = static_cast<size_t>(tensor.size(1));
  for (size_t i = 0; i < values.size(); ++i) {
    squares[i / width] += static_cast<double>(values[i]) * values[i];
  }
  return squares;
}

}  // namespace

TrainedAndFrozen choose_parameters(LanguageModel& model, Adapter* adapter, const EngineOptions& options) {
  NamePatterns frozen(options.freeze, "freeze");
  TrainedAndFrozen result;
  for (Parameter& parameter : model.parameters().all()) {
    bool is_trained = adapter == nullptr || (options.train_norms && parameter.is_norm) || parameter.is_task_head;
    (is_trained && !frozen.match(parameter.name) ? result.trained : result.frozen).push_back(&parameter);
  }
  if (adapter != nullptr) {
    for (Parameter& parameter : adapter->parameters().all()) result.trained.push_back(&parameter);
  }
  return result;
}

class TrainingEngine::State {
 public:
  State(const Context& context, const Mesh& mesh, LanguageModel& model, Adapter* adapter, const EngineOptions& options)
      : context_(context),
        mesh_(mesh),
        model_(model),
        adapter_(adapter),
        options_(options),
        parameters_(choose_parameters(model, adapter, options)),
        shards_(context,
                mesh,
                model.parameters().place(),
                parameters_.trained,
                parameters_.frozen,
                {.zero_stage = options.zero_stage,
                 .load_block = options.load_block,
                 .dtype = options.dtype,
                 .overlap_reduction = options.overlap_gradient_reduction,
                 .recompute = options.recompute,
                 .recompute_every = options.recompute_every}),
        optimizer_(make_optimizer(
            context, options.optimizer, shards_.pieces(), model.parameters().place(), shards_.sharing())) {
    context_.blocks = &shards_;
    if (options_.objective == nullptr) options_.objective = make_language_objective();
    if (options.adversarial == Adversarial::gradient_penalty && model.embedding_table().value.dtype() == DType::bf16) {
      fail(ExitCode::usage,
           "the gradient penalty is a difference of gradients, too small for bf16; set precision.compute F32");
    }
    // Under MasterWeights::rounded the optimizer has rounded this rank's parts.
    shards_.share_weights();
  }

  StepResult step(std::span<const MicroBatch> micro_batches, double learning_rate, const RandomKey& random) {
    context_.random = random;
    StepResult result;
    Objective& objective = *options_.objective;
    if (objective.measures_steps()) objective.begin_evaluation();
    double loss = compute_gradients(micro_batches);
    if (options_.adversarial == Adversarial::fgm) {
      if (before_update_) before_update_();
      loss = compute_shifted_gradients(micro_batches);
    }
    result.loss = sum_over_data(loss);
    if (objective.measures_steps()) result.metrics = objective.metrics(context_, mesh_.data_parallel());
    result.grad_norm = global_grad_norm(context_, optimizer_->pieces(), model_.parameters().place(), shards_.sharing());
    if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
      result.skipped = true;
      return result;
    }
    if (before_update_) before_update_();
    double scale = options_.clip_norm > 0 ? std::min(1.0, options_.clip_norm / (result.grad_norm + kClipEpsilon)) : 1.0;
    optimizer_->step({.learning_rate = learning_rate, .gradient_scale = scale, .update = ++updates_});
    shards_.share_weights();
    return result;
  }

  void add_reference(std::span<const MicroBatch> micro_batches) {
    Context context = context_;
    shards_.before_forward(context, kOuterBlock);
    for (const MicroBatch& micro_batch : micro_batches) {
      Tensor hidden = model_.hidden(context, micro_batch.batch, nullptr);
      options_.objective->add_reference(context, objective_input(micro_batch, micro_batch.batch, hidden, 1));
    }
    shards_.release_all();
  }

  void share_reference() { options_.objective->share_reference(context_, mesh_.data_parallel()); }

  double evaluate(std::span<const MicroBatch> micro_batches) {
    Objective& objective = *options_.objective;
    Context context = context_;
    shards_.before_forward(context, kOuterBlock);
    double loss =
        evaluate_objective(context, model_, objective, micro_batches, mesh_.data_parallel(), nullptr, adapter_);
    shards_.release_all();
    metrics_ = objective.metrics(context, mesh_.data_parallel());
    return sum_over_data(loss);
  }

  void with_whole_weights(const std::function<void(Context&)>& body) {
    shards_.gather_all();
    Context context = context_;
    context.blocks = nullptr;
    body(context);
    shards_.release_all();
  }

  void with_averages(const std::function<void()>& body) {
    if (before_update_) before_update_();
    swap_averages();
    body();
    swap_averages();
  }

  void set_before_update(std::function<void()> hook) { before_update_ = std::move(hook); }
  void share_weights() { shards_.share_weights(); }
  Optimizer& optimizer() { return *optimizer_; }
  std::vector<OptimizerPiece> frozen_pieces() { return shards_.frozen_pieces(); }
  const std::vector<Metric>& metrics() const { return metrics_; }
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

 private:
  ObjectiveInput objective_input(const MicroBatch& micro_batch,
                                 const Batch& batch,
                                 const Tensor& hidden,
                                 double factor) {
    return {.model = model_,
            .micro_batch = micro_batch,
            .batch = batch,
            .hidden = hidden,
            .factor = static_cast<float>(factor),
            .data_parallel = mesh_.data_parallel(),
            .adapter = adapter_};
  }

  /// The loss's weights are multiplied by `factor`.
  double forward(Context& context, const MicroBatch& micro_batch, double factor, const ChangedEmbedding& embedding) {
    context.first_token = micro_batch.first_token;
    Batch batch = micro_batch.batch;
    batch.embedding_offset = embedding.offset;
    batch.embedding_size = embedding.size;
    Tensor hidden = model_.hidden(context, batch, nullptr);
    // What comes with the loss lives through backward, as the planner counts.
    ObjectiveLoss result = options_.objective->loss(context, objective_input(micro_batch, batch, hidden, factor));
    double value = scalar_of(result.loss);
    if (context.tape != nullptr) context.tape->backward(context, result.loss);
    return value;
  }

  /// One forward and backward.
  double forward_and_backward(const MicroBatch& micro_batch,
                              bool is_last,
                              double factor = 1,
                              const ChangedEmbedding& embedding = {}) {
    Tape tape;
    Context context = context_;
    context.tape = &tape;
    context.training = true;
    shards_.begin_micro_batch(is_last);
    shards_.before_forward(context, kOuterBlock);
    double loss = forward(context, micro_batch, factor, embedding);
    shards_.end_micro_batch(context);
    return loss;
  }

  double compute_gradients(std::span<const MicroBatch> micro_batches) {
    shards_.begin_step();
    double loss = 0;
    bool is_penalised = options_.adversarial == Adversarial::gradient_penalty;
    for (size_t i = 0; i < micro_batches.size() && !is_penalised; ++i) {
      loss += forward_and_backward(micro_batches[i], i + 1 == micro_batches.size());
    }
    if (is_penalised) loss = penalised_gradients(micro_batches);
    shards_.finish_gradients();
    return loss;
  }

  /// The loss's gradient at the embedding table moved along its own gradient there.
  double compute_shifted_gradients(std::span<const MicroBatch> micro_batches) {
    EmbeddingShift shift(
        context_, model_.embedding_table(), optimizer_->pieces(), model_.parameters().place(), shards_.sharing());
    if (!shift.apply(options_.adversarial_epsilon)) return std::nan("");
    shards_.share_weights();
    double loss = compute_gradients(micro_batches);
    shift.undo();
    shards_.share_weights();
    return loss;
  }

  /// Gradients of L + ½·ε·‖g‖², g = ∂L/∂e of the looked-up embeddings e. The penalty's gradient ε·(∂g/∂θ)ᵀ·g is ε times
  /// the derivative of ∂L/∂θ along g, taken as a centred difference.
  double penalised_gradients(std::span<const MicroBatch> micro_batches) {
    std::vector<Tensor> gradients;
    double loss = 0, squares = 0, largest_row = 0;
    EmbeddingSize size;
    for (const MicroBatch& micro_batch : micro_batches) {
      gradients.push_back(embedding_gradient(micro_batch, size, loss));
      for (double square : row_squares(gradients.back())) {
        squares += square;
        largest_row = std::max(largest_row, square);
      }
    }
    double rows = reduce(mesh_.world(), static_cast<double>(size.rows), ReduceOp::sum);
    WEFT_ASSERT(rows > 0, "{} does not measure its embeddings", model_.info().family);
    double embedding_length = std::sqrt(reduce(mesh_.world(), size.squares, ReduceOp::sum) / rows);
    largest_row = std::sqrt(reduce(mesh_.world(), largest_row, ReduceOp::max));
    // One step for all ranks and micro-batches: no split changes the result.
    double step = largest_row > 0 ? kPenaltyStep * embedding_length / largest_row : 0;
    double factor = step > 0 ? options_.adversarial_epsilon / (2 * step) : 0;
    for (size_t i = 0; i < micro_batches.size(); ++i) {
      bool is_last = i + 1 == micro_batches.size();
      forward_and_backward(micro_batches[i], false, factor, {.offset = scaled(gradients[i], step)});
      forward_and_backward(micro_batches[i], is_last, -factor, {.offset = scaled(gradients[i], -step)});
    }
    return loss + 0.5 * options_.adversarial_epsilon * squares;
  }

  /// An ordinary forward and backward, whose loss and embeddings are added to `loss` and `size`, and the gradient of
  /// the looked-up embeddings.
  Tensor embedding_gradient(const MicroBatch& micro_batch, EmbeddingSize& size, double& loss) {
    Shape shape = {micro_batch.batch.num_tokens(), model_.embedding_table().full_shape[1]};
    Tensor offset = context_.zeros(shape, model_.embedding_table().value.dtype());
    auto slot = attach_slot(offset);
    loss += forward_and_backward(micro_batch, false, 1, {.offset = offset, .size = &size});
    Tensor gradient = take_grad(slot);
    return gradient ? gradient : context_.zeros(shape, offset.dtype());
  }

  Tensor scaled(const Tensor& tensor, double factor) {
    Tensor result = context_.empty(tensor.shape(), tensor.dtype());
    auto axpby = require_kernel(context_.kernels().elementwise.axpby, "scale", context_.device.type);
    axpby({.x = tensor.raw(),
           .y = result.raw(),
           .count = tensor.num_elements(),
           .a = factor,
           .b = 0,
           .x_dtype = tensor.dtype(),
           .y_dtype = result.dtype()},
          context_.stream());
    return result;
  }

  void swap_averages() {
    optimizer_->swap_ema();
    shards_.share_weights();
  }

  double sum_over_data(double value) { return reduce(mesh_.data_parallel(), value, ReduceOp::sum); }

  double reduce(Communicator& ranks, double value, ReduceOp op) {
    if (ranks.size() == 1) return value;
    Tensor tensor = context_.host_empty({1}, DType::f64, MemoryTag::comm);
    *tensor.data<double>() = value;
    ranks.all_reduce(tensor, op);
    return *tensor.data<double>();
  }

  Context context_;
  const Mesh& mesh_;
  LanguageModel& model_;
  Adapter* adapter_;
  EngineOptions options_;
  TrainedAndFrozen parameters_;
  ParameterShards shards_;
  std::unique_ptr<Optimizer> optimizer_;
  std::function<void()> before_update_;
  std::vector<Metric> metrics_;
  int64_t updates_ = 0;
};

TrainingEngine::TrainingEngine(
    const Context& context, const Mesh& mesh, LanguageModel& model, Adapter* adapter, const EngineOptions& options)
    : state_(std::make_unique<State>(context, mesh, model, adapter, options)) {}

TrainingEngine::~TrainingEngine() = default;

StepResult TrainingEngine::step(std::span<const MicroBatch> micro_batches,
                                double learning_rate,
                                const RandomKey& random) {
  return state_->step(micro_batches, learning_rate, random);
}

double TrainingEngine::evaluate(std::span<const MicroBatch> micro_batches) {
  return state_->evaluate(micro_batches);
}

void TrainingEngine::add_reference(std::span<const MicroBatch> micro_batches) {
  state_->add_reference(micro_batches);
}

void TrainingEngine::share_reference() {
  state_->share_reference();
}

void TrainingEngine::with_whole_weights(const std::function<void(Context&)>& body) {
  state_->with_whole_weights(body);
}

void TrainingEngine::with_averages(const std::function<void()>& body) {
  state_->with_averages(body);
}

void TrainingEngine::set_before_update(std::function<void()> hook) {
  state_->set_before_update(std::move(hook));
}

void TrainingEngine::share_weights() {
  state_->share_weights();
}

const std::vector<Metric>& TrainingEngine::metrics() const {
  return state_->metrics();
}

int64_t TrainingEngine::updates() const {
  return state_->updates();
}

void TrainingEngine::set_updates(int64_t updates) {
  state_->set_updates(updates);
}

Optimizer& TrainingEngine::optimizer() {
  return state_->optimizer();
}

std::vector<OptimizerPiece> TrainingEngine::frozen_pieces() {
  return state_->frozen_pieces();
}

}  // namespace weft
