#include "config/check_run_config.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <set>
#include <vector>

#include "config/dependent_defaults.h"
#include "config/field_checks.h"
#include "config/run.pb.h"

namespace weft {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Far above every use, far below where products of two of them overflow.
constexpr int64_t kLargestCount = int64_t{1} << 31;

std::string element(const std::string& field, int index) {
  return fmt::format("{}[{}]", field, index);
}

/// What holds for every number: finite, and no count that arithmetic on it would overflow.
void check_number(const FieldChecks& check,
                  const Message& message,
                  const FieldDescriptor& field,
                  const std::string& path) {
  const auto* reflection = message.GetReflection();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    double value = reflection->GetDouble(message, &field);
    check.require(std::isfinite(value), path, "is {}; must be a finite number", value);
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
    int64_t value = reflection->GetInt64(message, &field);
    check.require(value <= kLargestCount, path, "is {}; must be at most {}", value, kLargestCount);
  }
}

void check_numbers(const FieldChecks& check, const Message& message, const std::string& prefix) {
  std::vector<const FieldDescriptor*> fields;
  const auto* reflection = message.GetReflection();
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    std::string path = prefix + field->name();
    if (field->is_repeated()) {
      int size = field->message_type() ? reflection->FieldSize(message, field) : 0;
      for (int i = 0; i < size; ++i) {
        check_numbers(check, reflection->GetRepeatedMessage(message, field, i), element(path, i) + ".");
      }
    } else if (field->message_type()) {
      check_numbers(check, reflection->GetMessage(message, field), path + ".");
    } else {
      check_number(check, message, *field, path);
    }
  }
}

void check_model(const FieldChecks& check, const config::RunConfig& config) {
  check.given("model.path", config.model().path());
  check.require(config.model().compat().empty() || config.model().compat() == "bert4keras3",
                "model.compat",
                "is '{}'; the only one is 'bert4keras3'",
                printable(config.model().compat()));
  for (int i = 0; i < config.model().set_size(); ++i) {
    size_t equals = config.model().set(i).find('=');
    check.require(equals != std::string::npos && equals > 0,
                  element("model.set", i),
                  "is '{}'; write KEY=VALUE, for example hidden_dropout_prob=0.2",
                  printable(config.model().set(i)));
  }
  check.require(!config.model().allow_missing() || !config.model().initialise(),
                "model.allow_missing",
                "is for weights that are read, but with model.initialise none are; remove one of them");
}

void check_lora(const FieldChecks& check, const config::RunConfig& config) {
  if (!config.has_lora()) return;
  const config::LoraConfig& lora = config.lora();
  if (lora.has_adapter()) {
    const std::pair<const char*, bool> given[] = {{"lora.rank", lora.has_rank()},
                                                  {"lora.alpha", lora.has_alpha()},
                                                  {"lora.target_modules", lora.target_modules_size() > 0},
                                                  {"lora.layers", lora.layers_size() > 0},
                                                  {"lora.rank_stabilised", lora.has_rank_stabilised()}};
    for (const auto& [field, is_given] : given) check.require(!is_given, field, "is given by lora.adapter; remove it");
  }
  check.at_least<int64_t>("lora.rank", lora.rank(), 1);
  check.positive("lora.alpha", lora.alpha());
  check.require(lora.quantize() == config::LoraConfig::NONE || config.parallel().zero_stage() < 3,
                "parallel.zero_stage",
                "is 3, which shares out whole weights, but lora.quantize is {}; use 0, 1 or 2",
                config::LoraConfig::Quantization_Name(lora.quantize()));
  check.below_one("lora.dropout", lora.dropout());
  for (int i = 0; i < lora.target_modules_size(); ++i) {
    check.require(!lora.target_modules(i).empty(), element("lora.target_modules", i), "is empty; name a layer");
  }
  std::set<int64_t> layers;
  for (int i = 0; i < lora.layers_size(); ++i) {
    check.at_least<int64_t>(element("lora.layers", i), lora.layers(i), 0);
    check.require(
        layers.insert(lora.layers(i)).second, element("lora.layers", i), "names block {} twice", lora.layers(i));
  }
  check.require(
      config.train().adversarial().kind() != config::AdversarialConfig::FGM,
      "train.adversarial.kind",
      "is FGM, which moves the embedding along its own gradient, but LoRA freezes it; use GRADIENT_PENALTY or "
      "train all weights");
  check.require(!config.model().allow_missing(),
                "model.allow_missing",
                "leaves random weights, which LoRA would freeze and not save; remove it or the lora message");
  check.require(!config.model().initialise(),
                "model.initialise",
                "makes random weights, which LoRA would freeze; remove it or the lora message");
}

void check_state_tuning(const FieldChecks& check, const config::RunConfig& config) {
  if (!config.has_state_tuning()) return;
  check.require(!config.model().initialise(),
                "model.initialise",
                "makes random weights, which state_tuning would freeze; remove it or the state_tuning message");
  check.require(!config.model().allow_missing(),
                "model.allow_missing",
                "leaves random weights, which state_tuning would freeze and not save; remove it");
  check.require(config.train().adversarial().kind() != config::AdversarialConfig::FGM,
                "train.adversarial.kind",
                "is FGM, which moves the embedding along its own gradient, but state_tuning freezes it");
}

void check_sources(const FieldChecks& check,
                   const std::string& field,
                   const google::protobuf::RepeatedPtrField<config::DataSource>& sources) {
  for (int i = 0; i < sources.size(); ++i) {
    check.given(element(field, i) + ".path", sources[i].path());
    check.positive(element(field, i) + ".weight", sources[i].weight());
  }
}

void check_data(const FieldChecks& check, const config::RunConfig& config) {
  const config::DataConfig& data = config.data();
  check.require(!data.sources().empty(), "data.sources", "is required: sources {{ path: \"…\" }}");
  check_sources(check, "data.sources", data.sources());
  check.at_least<int64_t>("data.sequence_length", data.sequence_length(), 2);
  bool has_prompts = config.task().kind() == config::TaskConfig::SEQUENCE_TO_SEQUENCE;
  check.require(!has_prompts || packing_of(config) != config::DataConfig::SPLIT,
                "data.packing",
                "is SPLIT, which cuts prompts from their completions; SEQUENCE_TO_SEQUENCE takes NONE or WHOLE");
}

void check_length(const FieldChecks& check, const config::TrainConfig& train) {
  check.require(train.has_steps() || train.has_epochs(), "train.steps", "or train.epochs is required");
  check.require(!train.has_steps() || !train.has_epochs(),
                "train.epochs",
                "is {}, but train.steps is {}; give one of the two",
                train.epochs(),
                train.steps());
  if (train.has_steps()) check.at_least<int64_t>("train.steps", train.steps(), 1);
  if (train.has_epochs()) check.positive("train.epochs", train.epochs());
}

void check_batch(const FieldChecks& check, const config::TrainConfig& train) {
  check.at_least<int64_t>("train.batch_size", train.batch_size(), 1);
  check.at_least<int64_t>("train.micro_batch_size", train.micro_batch_size(), 0);
  check.require(train.micro_batch_size() == 0 || train.batch_size() % train.micro_batch_size() == 0,
                "train.batch_size",
                "is {}; must be a multiple of train.micro_batch_size, {}",
                train.batch_size(),
                train.micro_batch_size());
}

void check_train(const FieldChecks& check, const config::TrainConfig& train) {
  check_length(check, train);
  check_batch(check, train);
  check.positive("train.learning_rate", train.learning_rate());
  check.at_least<double>("train.clip_norm", train.clip_norm(), 0);
  check.at_least<int64_t>("train.checkpoint_every", train.checkpoint_every(), 1);
  check.require(train.checkpoint_every() == 1 || train.gradient_checkpointing() == config::TrainConfig::BLOCK,
                "train.checkpoint_every",
                "is {}, but train.gradient_checkpointing is {}; only BLOCK counts blocks",
                train.checkpoint_every(),
                config::TrainConfig::Recompute_Name(train.gradient_checkpointing()));
  check.at_least<int64_t>("train.max_bad_steps", train.max_bad_steps(), 1);
}

void check_task(const FieldChecks& check, const config::TaskConfig& task) {
  check.positive("task.mask_probability", task.mask_probability());
  check.below_one("task.mask_probability", task.mask_probability());
  check.below_one("task.dropout", task.dropout());
  check.positive("task.transition_scale", task.transition_scale());
  check.require(task.pointer_size() >= 2 && task.pointer_size() <= 4096 && task.pointer_size() % 2 == 0,
                "task.pointer_size",
                "is {}; must be an even number from 2 to 4096",
                task.pointer_size());
  check.at_least<int64_t>("task.stride", task.stride(), 0);
  check.at_least<int64_t>("task.max_answer_length", task.max_answer_length(), 1);
  check.at_least<int64_t>("task.max_ngram", task.max_ngram(), 1);
  check.at_least<double>("task.mean_span_length", task.mean_span_length(), 1);
  check.positive("task.similarity_scale", task.similarity_scale());
  check.positive("task.cosent_scale", task.cosent_scale());
  check.require(!task.multilabel() || task.kind() == config::TaskConfig::CLASSIFICATION,
                "task.multilabel",
                "is true, but task.kind is {}; only CLASSIFICATION has labels of texts",
                config::TaskConfig::Kind_Name(task.kind()));
}

void check_condition(const FieldChecks& check, const config::RunConfig& config) {
  using Task = config::TaskConfig;
  const Task& task = config.task();
  // A printed config has every default.
  const Task& defaults = Task::default_instance();
  bool has_size = task.condition_size() != defaults.condition_size();
  bool has_activation = task.condition_activation() != defaults.condition_activation();
  const std::pair<const char*, bool> changed[] = {
      {"task.condition_size", has_size},
      {"task.condition_hidden_size", task.condition_hidden_size() != defaults.condition_hidden_size()},
      {"task.condition_activation", has_activation}};
  for (const auto& [field, is_changed] : changed) {
    check.require(!is_changed || task.condition() != Task::NO_CONDITION, field, "is given, but task.condition is not");
  }
  check.at_least<int64_t>("task.condition_size", task.condition_size(), 1);
  check.at_least<int64_t>("task.condition_hidden_size", task.condition_hidden_size(), 0);
  if (task.condition() == Task::NO_CONDITION) return;
  check.require(task.kind() == Task::LANGUAGE_MODEL || task.kind() == Task::SEQUENCE_TO_SEQUENCE,
                "task.condition",
                "is {}, but task.kind is {}; LANGUAGE_MODEL and SEQUENCE_TO_SEQUENCE write under conditions",
                Task::Condition_Name(task.condition()),
                Task::Kind_Name(task.kind()));
  check.require(!has_size || task.condition() == Task::LABEL,
                "task.condition_size",
                "is given, but task.condition is VECTOR, whose size is that of the data's");
  check.require(!has_activation || task.condition_hidden_size() > 0,
                "task.condition_activation",
                "is given, but task.condition_hidden_size is 0");
  check.require(config.samples().prompts().empty(),
                "samples.prompts",
                "have no condition to be continued under; remove them, or use evaluation.generation");
}

void check_precision(const FieldChecks& check, const config::PrecisionConfig& precision) {
  check.require(precision.master_weights() != config::PrecisionConfig::STOCHASTIC_ROUNDING ||
                    precision.compute() == config::PrecisionConfig::BF16,
                "precision.master_weights",
                "is STOCHASTIC_ROUNDING, but precision.compute is F32, which is not rounded; set one of them");
}

void check_parallel(const FieldChecks& check, const config::ParallelConfig& parallel) {
  check.at_least<int64_t>("parallel.tensor", parallel.tensor(), 1);
  check.at_least<int64_t>("parallel.data", parallel.data(), 0);
  check.require(parallel.zero_stage() >= 0 && parallel.zero_stage() <= 3,
                "parallel.zero_stage",
                "is {}; must be 0, 1, 2 or 3",
                parallel.zero_stage());
  check.require(!parallel.sequence_parallel() || parallel.tensor() > 1,
                "parallel.sequence_parallel",
                "shares tokens among tensor-parallel ranks, but parallel.tensor is 1");
  check.at_least<int64_t>("parallel.threads", parallel.threads(), 0);
}

void check_generation(const FieldChecks& check, const config::RunConfig& config, bool is_held_out) {
  if (!config.evaluation().has_generation()) return;
  const config::GenerationConfig& generation = config.evaluation().generation();
  using Task = config::TaskConfig;
  Task::Kind kind = config.task().kind();
  check.require(kind == Task::SEQUENCE_TO_SEQUENCE || kind == Task::LANGUAGE_MODEL,
                "evaluation.generation",
                "is given, but task.kind is {}; SEQUENCE_TO_SEQUENCE and LANGUAGE_MODEL write answers",
                Task::Kind_Name(kind));
  check.require(is_held_out,
                "evaluation.generation",
                "is given, but nothing is held out; set evaluation.sources or evaluation.held_out_fraction");
  check.require(config.data().packing() != config::DataConfig::SPLIT,
                "evaluation.generation",
                "is given, but data.packing is SPLIT, which cuts prompts and answers; use WHOLE or NONE");
  check.at_least<int64_t>("evaluation.generation.max_rows", generation.max_rows(), 0);
  check.at_least<int64_t>("evaluation.generation.max_new_tokens", generation.max_new_tokens(), 1);
  check.at_least<int64_t>("evaluation.generation.beams", generation.beams(), 1);
}

void check_evaluation(const FieldChecks& check, const config::RunConfig& config) {
  const config::EvaluationConfig& evaluation = config.evaluation();
  check_sources(check, "evaluation.sources", evaluation.sources());
  check.below_one("evaluation.held_out_fraction", evaluation.held_out_fraction());
  bool has_sources = !evaluation.sources().empty();
  bool holds_out = evaluation.held_out_fraction() > 0;
  check.require(!has_sources || !holds_out,
                "evaluation.held_out_fraction",
                "is {}, but evaluation.sources are given; choose one of the two",
                evaluation.held_out_fraction());
  check.at_least<int64_t>("evaluation.every_steps", evaluation.every_steps(), 0);
  check.require(evaluation.every_steps() == 0 || has_sources || holds_out,
                "evaluation.every_steps",
                "is {}, but nothing is held out; set evaluation.sources or evaluation.held_out_fraction",
                evaluation.every_steps());
  check.at_least<int64_t>("evaluation.max_rows", evaluation.max_rows(), 0);
  check.require(!evaluation.use_ema() || config.train().optimizer().ema_momentum() > 0,
                "evaluation.use_ema",
                "is true, but there are no averages; set train.optimizer.ema_momentum");
  check.require(config.checkpoint().best_metric() == "loss" || has_sources || holds_out,
                "checkpoint.best_metric",
                "is '{}', but nothing is held out; set evaluation.sources or evaluation.held_out_fraction",
                printable(config.checkpoint().best_metric()));
  check_generation(check, config, has_sources || holds_out);
  check.at_least<int64_t>("train.patience", config.train().patience(), 0);
  check.require(config.train().patience() == 0 || evaluation.every_steps() > 0,
                "train.patience",
                "is {}, but evaluation.every_steps is 0; evaluate while training",
                config.train().patience());
}

void check_samples(const FieldChecks& check, const config::SampleConfig& samples) {
  check.at_least<int64_t>("samples.every_steps", samples.every_steps(), 0);
  check.require(samples.every_steps() == 0 || !samples.prompts().empty(),
                "samples.every_steps",
                "is {}, but there are no samples.prompts",
                samples.every_steps());
  check.at_least<int64_t>("samples.max_new_tokens", samples.max_new_tokens(), 1);
}

void check_output(const FieldChecks& check, const config::RunConfig& config) {
  check.at_least<int64_t>("checkpoint.every_steps", config.checkpoint().every_steps(), 0);
  check.at_least<int64_t>("checkpoint.keep_last", config.checkpoint().keep_last(), 1);
  check.given("output.directory", config.output().directory());
  check.at_least<int64_t>("output.log_every_steps", config.output().log_every_steps(), 1);
}

RankLayout divide_ranks(const RunConfig& config, int num_ranks) {
  const config::ParallelConfig& parallel = config.message().parallel();
  int64_t tensor = parallel.tensor();
  bool fixes_data = parallel.data() > 0;
  int64_t data = fixes_data ? parallel.data() : num_ranks / tensor;
  if (tensor * data == num_ranks && num_ranks > 0) {
    return {.tensor = static_cast<int>(tensor), .data = static_cast<int>(data)};
  }
  fail(ExitCode::usage,
       "{}: parallel.tensor is {}{}, but {} started; start {} ranks",
       config.location(fixes_data ? "parallel.data" : "parallel.tensor"),
       tensor,
       fixes_data ? fmt::format(" and parallel.data {}", data) : "",
       num_ranks == 1 ? "1 rank was" : fmt::format("{} ranks were", num_ranks),
       fixes_data ? fmt::format("{}", tensor * data) : fmt::format("a multiple of {}", tensor));
}

}  // namespace

void check_run_config(const RunConfig& config) {
  FieldChecks check(config);
  const config::RunConfig& message = config.message();
  check_numbers(check, message, "");
  check_model(check, message);
  check_lora(check, message);
  check_state_tuning(check, message);
  check_task(check, message.task());
  check_condition(check, message);
  check_preference(config);
  check_data(check, message);
  check_train(check, message.train());
  check_optimizer(config);
  check_precision(check, message.precision());
  check_parallel(check, message.parallel());
  check_evaluation(check, message);
  check_samples(check, message.samples());
  check_output(check, message);
}

RankLayout check_against_ranks(const RunConfig& config, int num_ranks) {
  RankLayout layout = divide_ranks(config, num_ranks);
  const config::TrainConfig& train = config.message().train();
  if (train.batch_size() % layout.data != 0) {
    fail(ExitCode::usage,
         "{}: train.batch_size is {}; must be a multiple of the {} data-parallel ranks",
         config.location("train.batch_size"),
         train.batch_size(),
         layout.data);
  }
  int64_t rank_rows = train.batch_size() / layout.data;
  layout.micro_batch_size = train.micro_batch_size() > 0 ? train.micro_batch_size() : rank_rows;
  if (rank_rows % layout.micro_batch_size != 0) {
    fail(ExitCode::usage,
         "{}: train.micro_batch_size is {}; must divide the {} rows of a data-parallel rank (train.batch_size {} on {} "
         "ranks)",
         config.location("train.micro_batch_size"),
         layout.micro_batch_size,
         rank_rows,
         train.batch_size(),
         layout.data);
  }
  layout.num_micro_batches = rank_rows / layout.micro_batch_size;
  return layout;
}

}  // namespace weft
