#include "verify/verify_training_run.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/adapter_file.h"
#include "optimizer/schedule.h"
#include "parallel/communicator.h"
#include "train/engine.h"
#include "verify/model_run.h"
#include "verify/training_golden.h"

namespace weft {
namespace {

struct Run {
  std::string_view name;
  Accumulation accumulation = Accumulation::none;
  bool decays_vectors = true;
  DType dtype = DType::f32;
  MasterWeights master = MasterWeights::none;
  bool is_lora = false;
};

constexpr std::array<Run, 7> kRuns = {
    {{.name = "full"},
     {.name = "full_nodecay1d", .decays_vectors = false},
     {.name = "accum2_tokens", .accumulation = Accumulation::tokens},
     {.name = "accum2_mean", .accumulation = Accumulation::mean},
     {.name = "bf16_f32compute", .master = MasterWeights::rounded},
     {.name = "bf16_bf16compute", .dtype = DType::bf16, .master = MasterWeights::full},
     {.name = "lora", .is_lora = true}}};

const Run& find_run(const std::string& name) {
  std::string known;
  for (const Run& run : kRuns) {
    if (run.name == name) return run;
    known += (known.empty() ? "" : ", ") + std::string(run.name);
  }
  fail(ExitCode::usage, "--run {}: unknown; known are {}", printable(name), known);
}

/// Values of a whole parameter from the pieces of all ranks.
using ReadPiece = std::function<void(size_t piece, float* out)>;

class TrainingRun {
 public:
  TrainingRun(const Context& context,
              const Mesh& mesh,
              const OpenedModel& opened,
              GoldenFile& golden,
              const TrainingRunOptions& options)
      : context_(context),
        mesh_(mesh),
        opened_(opened),
        golden_(golden),
        options_(options),
        run_(find_run(options.run)),
        source_(golden, opened.info().attention == AttentionPattern::causal) {
    if (mesh.tensor_parallel().size() > 1) context_.tensor_parallel = &mesh.tensor_parallel();
    if (!golden.has(group() + "/loss")) {
      fail_input("golden file {}: holds no run {}", golden.path(), options.run);
    }
  }

  VerifyReport verify() {
    load();
    compare_held_out(0);
    std::vector<float> losses, norms, rates;
    for (int64_t step = 0; step < source_.num_steps(); ++step) {
      double rate = learning_rate_at(schedule(), step);
      Communicator& data = mesh_.data_parallel();
      std::vector<MicroBatch> batches = source_.micro_batches(step, run_.accumulation, data.rank(), data.size());
      StepResult result = engine_->step(batches, rate, {.seed = 0, .step = static_cast<uint32_t>(step)});
      losses.push_back(static_cast<float>(result.loss));
      norms.push_back(static_cast<float>(result.grad_norm));
      rates.push_back(static_cast<float>(rate));
      if (step == 0) compare_first_gradients();
    }
    compare_held_out(1);
    compare_curve("/loss", "loss", losses, {Measure::absolute, loss_tolerance()}, false);
    compare_curve("/lr", "learning rate", rates, {Measure::absolute, 1e-6}, true);
    if (run_.dtype == DType::bf16) {
      golden_.skip(group() + "/grad_norm", "bf16 arithmetic of another program; losses are compared");
    } else {
      compare_curve("/grad_norm", "gradient norm", norms, {Measure::absolute, 1e-4 * loss_scale()}, true);
    }
    if (run_.dtype == DType::f32) compare_weights();
    return finish();
  }

 private:
  std::string group() const { return std::string(run_.name); }
  bool is_text() const { return golden_.has("data/offsets"); }
  /// Sixty steps of a real text drift apart further than ten of a toy, many layers further than two; and where masters
  /// are rounded to bf16, one that is a rounding error away from half way goes to the other side.
  double loss_scale() const {
    constexpr int64_t kManyLayers = 8;
    if (is_text()) return 50;
    return run_.master == MasterWeights::rounded || opened_.info().num_layers > kManyLayers ? 5 : 1;
  }
  double loss_tolerance() const { return (run_.dtype == DType::bf16 ? 0.1 : 1e-4) * loss_scale(); }
  std::filesystem::path folder() const { return std::filesystem::path(golden_.path()).parent_path(); }

  /// "before" or "after": the adapters lie in lora/ beside the golden file, or beside it.
  std::filesystem::path adapter_folder(const char* when) const {
    std::filesystem::path below = folder() / "lora" / when;
    return std::filesystem::exists(below) ? below : folder() / when;
  }

  ScheduleOptions schedule() const {
    const TrainingRecipe& recipe = source_.recipe();
    return {.kind = ScheduleKind::cosine,
            .learning_rate = run_.is_lora ? recipe.lora_learning_rate : recipe.learning_rate,
            .warmup_steps = recipe.warmup_steps,
            .total_steps = recipe.total_steps,
            .minimum_factor = 0,
            .power = 1,
            .points = {}};
  }

  void load() {
    TensorParallelPlace place{mesh_.tensor_parallel().rank(), mesh_.tensor_parallel().size()};
    model_ = opened_.make(place);
    load_parameters(
        context_, opened_, *model_, {.dtype = run_.dtype, .for_training = true, .num_threads = options_.num_threads});
    if (run_.is_lora) {
      adapter_ = load_adapter(context_, *model_, open_adapter(adapter_folder("before").string()), run_.dtype);
      adapter_->attach();
    }
    const TrainingRecipe& recipe = source_.recipe();
    EngineOptions options;
    options.optimizer = {.kind = OptimizerKind::adamw,
                         .beta1 = recipe.beta1,
                         .beta2 = recipe.beta2,
                         .epsilon = recipe.epsilon,
                         .weight_decay = recipe.weight_decay,
                         .decay_vectors = run_.decays_vectors,
                         .ema_momentum = golden_.has_group(group() + "/ema_final") ? recipe.ema_momentum : 0,
                         .master_weights = run_.master};
    options.clip_norm = recipe.clip_norm;
    options.zero_stage = options_.zero_stage;
    options.recompute = options_.recompute;
    engine_ = std::make_unique<TrainingEngine>(context_, mesh_, *model_, adapter_.get(), options);
  }

  void add(const std::string& dataset, std::string_view category, Tolerance tolerance, const Difference& difference) {
    if (options_.tolerance) tolerance.value = *options_.tolerance;
    report_.compared.push_back({.name = dataset,
                                .category = std::string(category),
                                .tolerance = tolerance,
                                .max_abs = difference.max_abs(),
                                .max_rel = difference.max_rel(),
                                .relative_rms = difference.relative_rms(),
                                .count = difference.count(),
                                .note = {}});
  }

  /// `relative`: each value is held against its own reference.
  void compare_curve(const char* name,
                     std::string_view category,
                     std::vector<float> values,
                     const Tolerance& tolerance,
                     bool relative) {
    std::string dataset = group() + name;
    if (!golden_.has(dataset)) return;
    GoldenTensor reference = golden_.tensor(dataset);
    if (reference.values.size() != values.size()) {
      fail_input("golden file {}: {} holds {} steps, the data {}",
                 golden_.path(),
                 dataset,
                 reference.values.size(),
                 values.size());
    }
    for (size_t i = 0; relative && i < values.size(); ++i) {
      if (reference.values[i] == 0) continue;
      values[i] /= reference.values[i];
      reference.values[i] = 1;
    }
    Difference difference;
    difference.add(values, reference.values);
    add(dataset, category, tolerance, difference);
  }

  void compare_held_out(size_t index) {
    std::string dataset = group() + "/eval_loss";
    if (!golden_.has(dataset)) return;
    Communicator& data = mesh_.data_parallel();
    held_out_losses_.push_back(static_cast<float>(engine_->evaluate(source_.held_out(data.rank(), data.size()))));
    if (index == 1) compare_curve("/eval_loss", "held-out loss", held_out_losses_, {Measure::absolute, 5e-3}, false);
  }

  std::vector<float> whole(const Parameter& parameter, const ReadPiece& read) {
    Tensor values = context_.host_zeros({parameter.full_shape.num_elements()}, DType::f32);
    const std::vector<OptimizerPiece>& pieces = engine_->optimizer().pieces();
    TensorParallelPlace place = model_->parameters().place();
    bool has_copies = options_.zero_stage == 0 && mesh_.data_parallel().rank() > 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const OptimizerPiece& piece = pieces[i];
      if (piece.parameter != &parameter || has_copies || !is_first_holder(parameter.shard, place)) continue;
      std::vector<float> part(static_cast<size_t>(piece.end - piece.begin));
      read(i, part.data());
      for (int64_t e = piece.begin; e < piece.end; ++e) {
        values.data<float>()[full_index(parameter, e)] = part[static_cast<size_t>(e - piece.begin)];
      }
    }
    if (mesh_.world().size() > 1) mesh_.world().all_reduce(values, ReduceOp::sum);
    return {values.data<float>(), values.data<float>() + values.num_elements()};
  }

  static int64_t full_index(const Parameter& parameter, int64_t local) {
    int64_t width = parameter.full_shape.rank() == 1 ? 1 : parameter.full_shape[1];
    if (parameter.range.dim == 0) return parameter.range.begin * width + local;
    int64_t local_width = parameter.local_shape[1];
    return local / local_width * width + parameter.range.begin + local % local_width;
  }

  void compare_parameters(const std::string& subgroup,
                          std::string_view category,
                          const Tolerance& tolerance,
                          const ReadPiece& read) {
    for (const Parameter* parameter : trained_parameters()) {
      std::string dataset = group() + "/" + subgroup + "/" + name_in_file(*parameter);
      if (!golden_.has(dataset)) continue;
      compare_whole(dataset, category, tolerance, whole(*parameter, read), golden_.tensor(dataset));
    }
  }

  void compare_whole(const std::string& dataset,
                     std::string_view category,
                     const Tolerance& tolerance,
                     const std::vector<float>& values,
                     const GoldenTensor& reference) {
    if (reference.values.size() != values.size()) {
      fail_input("golden file {}: {} is {}, the model's has {} elements; is it the file of another model?",
                 golden_.path(),
                 dataset,
                 to_string(reference.shape),
                 values.size());
    }
    Difference difference;
    difference.add(values, reference.values);
    add(dataset, category, tolerance, difference);
  }

  std::string name_in_file(const Parameter& parameter) const {
    return run_.is_lora ? adapter_tensor_name(parameter.name) : parameter.name;
  }

  std::vector<const Parameter*> trained_parameters() const {
    std::vector<const Parameter*> result;
    const ParameterStore& store = adapter_ != nullptr ? adapter_->parameters() : model_->parameters();
    for (const Parameter& parameter : store.all()) result.push_back(&parameter);
    return result;
  }

  /// The gradients still lie in the pieces after the step, as they were before clipping.
  void compare_first_gradients() {
    compare_parameters("first_grads", "gradients", {Measure::of_maximum, 1e-3}, [&](size_t piece, float* out) {
      const Tensor& grad = engine_->optimizer().pieces()[piece].grad;
      std::ranges::copy(to_floats(grad), out);
    });
  }

  ReadPiece read_state(const std::string& state) {
    return [this, state](size_t piece, float* out) {
      Optimizer& optimizer = engine_->optimizer();
      const OptimizerPiece& of = optimizer.pieces()[piece];
      for (const std::string& name : optimizer.element_states()) {
        if (name == state) return optimizer.read_state(state, piece, 0, of.end - of.begin, out);
      }
      std::ranges::copy(to_floats(of.weight), out);
    };
  }

  void compare_weights() {
    Tolerance tolerance{Measure::absolute, 2e-4};
    compare_parameters("final", "weights", tolerance, read_state("master"));
    compare_parameters("ema_final", "averages", tolerance, read_state("ema"));
    if (!run_.is_lora) return;
    compare_adapter(tolerance);
    compare_adapted_logits(tolerance);
  }

  /// Against the adapter that PEFT saved in the end.
  void compare_adapter(const Tolerance& tolerance) {
    std::filesystem::path path = adapter_folder("after") / "adapter_model.safetensors";
    if (!std::filesystem::exists(path)) return;
    std::unique_ptr<CheckpointReader> reader = open_checkpoint(path.string());
    for (const Parameter* parameter : trained_parameters()) {
      std::string name = name_in_file(*parameter);
      GoldenTensor reference{.shape = reader->info(name).shape, .values = {}};
      reference.values.resize(static_cast<size_t>(reference.shape.num_elements()));
      reader->read(name, reference.values.data(), DType::f32);
      compare_whole("lora/after/" + name, "weights", tolerance, whole(*parameter, read_state("master")), reference);
    }
  }

  /// Of the first step's batch, by the model with the adapter that PEFT saved in the end.
  void compare_adapted_logits(const Tolerance& tolerance) {
    std::string dataset = group() + "/logits_after_batch0";
    if (!golden_.has(dataset)) return;
    TensorParallelPlace place{mesh_.tensor_parallel().rank(), mesh_.tensor_parallel().size()};
    auto model = opened_.make(place);  // what was trained may lie in shards
    load_parameters(context_, opened_, *model, {.dtype = DType::f32, .num_threads = options_.num_threads});
    auto adapter = load_adapter(context_, *model, open_adapter(adapter_folder("after").string()), DType::f32);
    adapter->attach();
    Batch batch = source_.micro_batches(0, Accumulation::none, 0, 1).front().batch;
    TokenValues logits = run_forward(context_, *model, batch).at("logits");
    GoldenTensor reference = golden_.tensor(dataset);
    auto rows = static_cast<int64_t>(batch.sequences.size());
    if (reference.shape.rank() != 3 || reference.shape[0] != rows || reference.width() != logits.width) {
      fail_input("golden file {}: {} is {}, expected [{}, tokens, {}]",
                 golden_.path(),
                 dataset,
                 to_string(reference.shape),
                 rows,
                 logits.width);
    }
    Difference difference;
    for (int64_t row = 0; row < rows; ++row) {
      const BatchSequence& sequence = batch.sequences[static_cast<size_t>(row)];
      for (int64_t i = 0; i < std::min(sequence.length, reference.shape[1]); ++i) {
        difference.add(logits.row(sequence.begin + i), reference.row(row * reference.shape[1] + i));
      }
    }
    add(dataset, "logits", tolerance, difference);
  }

  VerifyReport finish() {
    for (const NotCompared& row : golden_.not_compared()) {
      if (row.name.rfind(group() + "/", 0) == 0) report_.not_compared.push_back(row);
    }
    return report_;
  }

  Context context_;
  const Mesh& mesh_;
  const OpenedModel& opened_;
  GoldenFile& golden_;
  TrainingRunOptions options_;
  const Run& run_;
  TrainingGolden source_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Adapter> adapter_;
  std::unique_ptr<TrainingEngine> engine_;
  std::vector<float> held_out_losses_;
  VerifyReport report_;
};

}  // namespace

VerifyReport verify_training_run(const Context& context,
                                 const Mesh& mesh,
                                 const OpenedModel& opened,
                                 GoldenFile& golden,
                                 const TrainingRunOptions& options) {
  return TrainingRun(context, mesh, opened, golden, options).verify();
}

}  // namespace weft
