// Plans of every family against what its golden model then takes: weights, inference, training.
#include <gtest/gtest.h>

#include <filesystem>

#include "data/task_rows.h"
#include "generate/generator.h"
#include "generate/request_support.h"
#include "plan/measured_training.h"
#include "plan/memory_plan.h"
#include "plan/training_plan.h"
#include "support/paths.h"
#include "tasks/objective.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr double kPlanTolerance = 0.05;

const std::vector<std::string> kFamilies = {
    "albert",      "bert",  "electra_disc",    "electra_gen", "gau_alpha", "deberta", "nezha",      "roformer",
    "roformer_v2", "gpt2",  "gpt2_ml",         "openai_gpt",  "gpt",       "gemma",   "gemma2",     "llama",
    "qwen2",       "rwkv6", "t5_v10",          "t5_v11",      "mt5",       "umt5",    "t5_encoder", "roberta",
    "distilbert",  "mpnet", "bert_conditional"};

/// Folders of goldens, and what their config says where they hold none that names a family.
ModelOptions golden(const std::string& name) {
  const std::map<std::string, std::pair<std::string, std::string>> seed = {
      {"gau_alpha", {"gau_alpha-mlm", "gau_alpha"}},
      {"deberta", {"deberta-mlm", "deberta"}},
      {"roformer_v2", {"roformer_v2-mlm", "roformer_v2"}},
      {"gpt2_ml", {"gpt2_ml-lm", "gpt2_ml"}},
      {"gpt", {"gpt-lm", "gpt"}},
      {"bert_conditional", {"bert-condln", "bert"}},
      {"t5_encoder", {"t5_encoder-t5.1.1", "t5_encoder"}}};
  auto found = seed.find(name);
  if (found != seed.end()) {
    return {.path = test_data("seed/" + found->second.first), .family = found->second.second, .compat = "bert4keras3"};
  }
  std::string folder = name == "llama" ? "llama_gqa" : name;
  return {.path = test_data("hf/" + folder), .family = {}, .compat = {}};
}

void expect_near(const std::string& what, int64_t planned, int64_t measured) {
  EXPECT_NEAR(
      static_cast<double>(planned), static_cast<double>(measured), kPlanTolerance * static_cast<double>(measured))
      << what;
}

class FamilyPlanned : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyPlanned, WeightsTakeWhatLoadingAllocates) {
  OpenedModel opened = open_model(golden(GetParam()));
  for (LoadOptions weights : {LoadOptions{.dtype = DType::f32},
                              LoadOptions{.dtype = DType::bf16},
                              LoadOptions{.dtype = DType::bf16, .quantization = Quantization::int8}}) {
    Context context = make_cpu_context(1);
    auto model = opened.make({});
    LoadReport report = load_parameters(context, opened, *model, weights);
    MemoryPlan plan = plan_memory(opened, {}, weights, {.batch = 1, .prompt_tokens = 8, .new_tokens = 4});
    EXPECT_EQ(plan.weights, context.allocator->memory().peak(MemoryTag::weights));
    EXPECT_EQ(plan.weights, report.weight_bytes);
  }
}

/// What a model's norms take for a sequence.
std::vector<float> condition_values(const ModelInfo& info) {
  return std::vector<float>(static_cast<size_t>(info.condition.width), 0.5f);
}

/// As plan_memory's doc says.
void run_workload(Context& context, LanguageModel& model, const Workload& workload, DType dtype) {
  auto tokens = [](int64_t first) { return std::vector<int32_t>(20, static_cast<int32_t>(first)); };
  if (!writes_texts(model.info())) {
    Batch batch;
    for (int64_t i = 0; i < workload.batch; ++i) {
      batch.add(tokens(i));
      batch.add_condition({.values = condition_values(model.info())});
    }
    Tensor hidden = model.hidden(context, batch, nullptr);
    model.sequence_vectors(context, hidden, batch);
    return;
  }
  Generator generator(context, model, {.cache_dtype = dtype, .max_batch = workload.batch, .tokenizer = nullptr});
  std::vector<GenerationRequest> requests(static_cast<size_t>(workload.batch));
  for (size_t i = 0; i < requests.size(); ++i) {
    set_text(requests[i], model.info(), tokens(static_cast<int64_t>(i) + 2));
    requests[i].max_new_tokens = workload.new_tokens;
  }
  generator.run(requests);
}

TEST_P(FamilyPlanned, InferenceTakesWhatThePlanSays) {
  OpenedModel opened = open_model(golden(GetParam()));
  for (DType dtype : {DType::f32, DType::bf16}) {
    Workload workload{.batch = 3, .prompt_tokens = 20, .new_tokens = writes_texts(opened.info()) ? 15 : 0};
    Context context = make_cpu_context(1);
    auto model = opened.make({});
    load_parameters(context, opened, *model, {.dtype = dtype});
    run_workload(context, *model, workload, dtype);
    MemoryPlan plan = plan_memory(opened, {}, {.dtype = dtype}, workload);
    const MemoryTracker& memory = context.allocator->memory();
    EXPECT_EQ(plan.kv_cache, memory.peak(MemoryTag::kv_cache));
    expect_near("activations", plan.activations, memory.peak(MemoryTag::activations));
    int64_t measured = 0;
    for (size_t tag = 0; tag < kNumMemoryTags; ++tag) measured += memory.peak(static_cast<MemoryTag>(tag));
    expect_near("total", plan.total(), measured);
  }
}

/// Rows of what a family is trained for.
std::shared_ptr<const TrainingData> rows_for(const ModelInfo& info, int64_t length) {
  TrainingRow row = full_row(length);
  row.condition_values = condition_values(info);
  if (info.has_source) {
    std::fill(row.targets.begin(), row.targets.begin() + length / 2 - 1, -1);
    return make_source_data(make_memory_rows({row}, false, 0), 0);
  }
  return make_memory_rows({row}, false, 0);
}

void expect_plan(const OpenedModel& opened,
                 const TrainingSetup& setup,
                 const std::optional<LoraOptions>& lora,
                 const std::string& what,
                 const std::function<std::shared_ptr<Objective>()>& objective = nullptr) {
  SCOPED_TRACE(what);
  auto own = [&] {
    TrainingSetup one = setup;
    if (objective) one.engine.objective = objective();
    return one;
  };
  std::vector<testing::Measured> ranks =
      testing::train_all(own, lora, [&](TensorParallelPlace place) { return opened.make(place); });
  TrainingMemory plan = TrainingPlanner(opened, lora, setup.tensor).plan(own());
  BytesByTag most{};
  int64_t largest = 0;
  for (const testing::Measured& rank : ranks) {
    largest = std::max(largest, rank.peak_total);
    for (size_t tag = 0; tag < kNumMemoryTags; ++tag) most[tag] = std::max(most[tag], rank.peaks[tag]);
  }
  expect_near("peak, planned for " + std::string(plan.moment), plan.peak_total, largest);
  for (MemoryTag tag : {MemoryTag::weights, MemoryTag::grads, MemoryTag::optimizer}) {
    EXPECT_EQ(plan.peak(tag), most[static_cast<size_t>(tag)]) << memory_tag_name(tag);
  }
  expect_near("activations", plan.peak(MemoryTag::activations), most[static_cast<size_t>(MemoryTag::activations)]);
}

TrainingSetup setup_for(const OpenedModel& opened, DType dtype, Recompute recompute = Recompute::none) {
  TrainingSetup setup;
  setup.dtype = dtype;
  setup.micro_batch_rows = 3;
  setup.sequence_length = 20;
  setup.engine.recompute = recompute;
  setup.engine.overlap_gradient_reduction = false;
  setup.rows = rows_for(opened.info(), setup.sequence_length);
  if (dtype == DType::f32) setup.engine.optimizer.master_weights = MasterWeights::none;
  return setup;
}

TEST_P(FamilyPlanned, TrainingTakesWhatThePlanSays) {
  OpenedModel opened = open_model(golden(GetParam()));
  if (!opened.info().has_language_model_head) GTEST_SKIP() << "nothing to train without a task's layer";
  for (DType dtype : {DType::f32, DType::bf16}) {
    std::string name(dtype_name(dtype));
    expect_plan(opened, setup_for(opened, dtype), std::nullopt, name + " full");
    expect_plan(opened, setup_for(opened, dtype, Recompute::block), std::nullopt, name + " full, blocks recomputed");
    expect_plan(opened, setup_for(opened, dtype, Recompute::selective), std::nullopt, name + " full, selective");
    expect_plan(opened, setup_for(opened, dtype), LoraOptions{.rank = 2}, name + " LoRA");
    expect_plan(opened, setup_for(opened, dtype, Recompute::block), LoraOptions{.rank = 2}, name + " LoRA, recomputed");
  }
}

TEST_P(FamilyPlanned, TrainingOnRanksTakesWhatThePlanSays) {
  OpenedModel opened = open_model(golden(GetParam()));
  if (!opened.info().has_language_model_head) GTEST_SKIP() << "nothing to train without a task's layer";
  TrainingSetup setup = setup_for(opened, DType::bf16);
  setup.data = 2;
  for (int stage : {1, 3}) {
    setup.engine.zero_stage = stage;
    expect_plan(opened, setup, std::nullopt, "ZeRO stage " + std::to_string(stage));
  }
  setup.data = 1;
  setup.tensor = 2;
  expect_plan(opened, setup, std::nullopt, "tensor parallel");
}

INSTANTIATE_TEST_SUITE_P(Goldens, FamilyPlanned, ::testing::ValuesIn(kFamilies), [](const auto& family) {
  return family.param;
});

struct LabelledCase {
  std::string name;
  TaskHead head;
  std::function<std::shared_ptr<Objective>()> objective;
  bool has_targets = false, has_marks = false;
};

class TaskPlanned : public ::testing::TestWithParam<LabelledCase> {};

TEST_P(TaskPlanned, TrainingTakesWhatThePlanSays) {
  const LabelledCase& one = GetParam();
  ModelOptions options = golden("bert");
  TaskHead head = one.head;
  head.is_new = true;
  options.overrides = task_head_overrides(head);
  OpenedModel opened = open_model(options);
  TrainingSetup setup = setup_for(opened, DType::f32);
  TrainingRow row = full_row(setup.sequence_length);
  std::fill(row.targets.begin(), row.targets.end(), one.has_targets ? 0 : -1);
  row.segments.assign(row.ids.size(), 0);
  row.labels = {0};
  if (one.has_marks) row.marks = {{.span = 0, .label = 0, .first = 1, .last = 2}};
  setup.rows = make_memory_rows({row}, false, 0);
  expect_plan(opened, setup, std::nullopt, "full", one.objective);
  expect_plan(opened, setup, LoraOptions{.rank = 2}, "LoRA", one.objective);
  setup.engine.recompute = Recompute::block;
  expect_plan(opened, setup, std::nullopt, "recomputed", one.objective);
}

const std::vector<std::string> kTags = {"B-A", "I-A", "O"};

INSTANTIATE_TEST_SUITE_P(
    OfBert,
    TaskPlanned,
    ::testing::Values(LabelledCase{"classification",
                                   {.kind = TaskHead::Kind::sequence_classification, .labels = {"a", "b", "c"}},
                                   [] { return make_classification_objective(); }},
                      LabelledCase{"tags",
                                   {.kind = TaskHead::Kind::token_classification, .labels = kTags},
                                   [] { return make_tagging_objective(kTags); },
                                   true},
                      LabelledCase{"crf",
                                   {.kind = TaskHead::Kind::crf, .labels = kTags},
                                   [] { return make_tagging_objective(kTags); },
                                   true},
                      LabelledCase{"entities",
                                   {.kind = TaskHead::Kind::global_pointer, .labels = {"a", "b"}, .pointer_size = 8},
                                   [] { return make_entity_objective(); },
                                   false,
                                   true},
                      LabelledCase{"answers",
                                   {.kind = TaskHead::Kind::question_answering},
                                   [] { return make_answer_objective(10); },
                                   false,
                                   true}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace weft
