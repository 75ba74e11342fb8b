// Plans against what runs then use, by the memory tags of their allocators.
#include "plan/memory_plan.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <mutex>

#include "generate/generator.h"
#include "parallel/thread_communicator.h"
#include "support/paths.h"

namespace weft {
namespace {

constexpr double kPlanTolerance = 0.05;

/// A config without weights in the folder for temporary files.
std::string write_shape(const std::string& name, const std::string& json) {
  std::string path = testing::TempDir() + "/weft_plan_" + name + ".json";
  std::ofstream(path) << json;
  return path;
}

std::string tiny_llama() {
  return write_shape("tiny", R"({"model_type": "llama", "vocab_size": 160, "hidden_size": 64, "intermediate_size": 112,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512, "tie_word_embeddings": false})");
}

std::string mid_gemma2() {
  return write_shape("mid",
                     R"({"model_type": "gemma2", "vocab_size": 5001, "hidden_size": 320, "intermediate_size": 1280,
    "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 40, "query_pre_attn_scalar": 40,
    "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "sliding_window": 64,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "tie_word_embeddings": true})");
}

/// 3 key/value heads, each read by 3 query heads: two ranks hold 1 and 2 of them.
std::string uneven_llama() {
  return write_shape("uneven",
                     R"({"model_type": "llama", "vocab_size": 301, "hidden_size": 144, "intermediate_size": 192,
    "num_hidden_layers": 4, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512, "tie_word_embeddings": true})");
}

struct RunCase {
  std::string name;
  std::string (*shape)();
  int num_ranks;
  LoadOptions weights;
  Workload workload;
};

void run_workload(Context& context, const OpenedModel& opened, LanguageModel& model, const RunCase& run_case) {
  initialise_parameters(context, model, run_case.weights, 1);
  Generator generator(context, model, {.cache_dtype = run_case.weights.dtype, .max_batch = run_case.workload.batch});
  std::vector<GenerationRequest> requests(static_cast<size_t>(run_case.workload.batch));
  RandomKey key{.seed = 7};
  uint64_t index = 0;
  for (GenerationRequest& request : requests) {
    request.max_new_tokens = run_case.workload.new_tokens;
    for (int64_t i = 0; i < run_case.workload.prompt_tokens; ++i) {
      request.prompt.push_back(
          static_cast<int32_t>(key.bits(index++) % static_cast<uint32_t>(opened.info().vocab_size)));
    }
  }
  generator.run(requests);
}

class MemoryPlanned : public testing::TestWithParam<RunCase> {};

void expect_near(const char* what, int64_t planned, int64_t measured) {
  EXPECT_NEAR(
      static_cast<double>(planned), static_cast<double>(measured), kPlanTolerance * static_cast<double>(measured))
      << what;
}

TEST_P(MemoryPlanned, AgreesWithTheRunWithinFivePercent) {
  const RunCase& run_case = GetParam();
  std::string path = run_case.shape();
  std::mutex mutex;
  run_thread_ranks(run_case.num_ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = communicator.get();
    OpenedModel opened = open_model({.path = path, .family = {}, .compat = {}});
    TensorParallelPlace place{.rank = communicator->rank(), .size = communicator->size()};
    MemoryPlan plan = plan_memory(opened, place, run_case.weights, run_case.workload);
    auto model = opened.make(place);
    run_workload(context, opened, *model, run_case);
    const MemoryTracker& memory = context.allocator->memory();
    std::lock_guard lock(mutex);
    EXPECT_EQ(plan.weights, memory.peak(MemoryTag::weights));
    EXPECT_EQ(plan.kv_cache, memory.peak(MemoryTag::kv_cache));
    EXPECT_EQ(plan.comm, memory.peak(MemoryTag::comm));
    expect_near("activations", plan.activations, memory.peak(MemoryTag::activations));
    int64_t measured = 0;
    for (size_t tag = 0; tag < kNumMemoryTags; ++tag) measured += memory.peak(static_cast<MemoryTag>(tag));
    expect_near("total", plan.total(), measured);
  });
}

const Workload kShortBatch{.batch = 3, .prompt_tokens = 20, .new_tokens = 30};
const Workload kLongPrompt{.batch = 1, .prompt_tokens = 900, .new_tokens = 100};
const Workload kLongBatch{.batch = 4, .prompt_tokens = 300, .new_tokens = 40};

INSTANTIATE_TEST_SUITE_P(
    Runs,
    MemoryPlanned,
    testing::Values(
        RunCase{"tiny_f32", tiny_llama, 1, {.dtype = DType::f32}, kShortBatch},
        RunCase{"tiny_bf16", tiny_llama, 1, {.dtype = DType::bf16}, kShortBatch},
        RunCase{"tiny_bf16_2_ranks", tiny_llama, 2, {.dtype = DType::bf16}, kShortBatch},
        RunCase{"uneven_bf16_2_ranks", uneven_llama, 2, {.dtype = DType::bf16}, kShortBatch},
        RunCase{"tiny_int8", tiny_llama, 1, {.dtype = DType::bf16, .quantization = Quantization::int8}, kShortBatch},
        RunCase{"mid_int4", mid_gemma2, 1, {.dtype = DType::bf16, .quantization = Quantization::int4}, kLongPrompt},
        RunCase{
            "mid_int4_2_ranks", mid_gemma2, 2, {.dtype = DType::f32, .quantization = Quantization::int4}, kLongBatch},
        RunCase{"mid_f32", mid_gemma2, 1, {.dtype = DType::f32}, kShortBatch},
        RunCase{"mid_bf16", mid_gemma2, 1, {.dtype = DType::bf16}, kLongPrompt},
        RunCase{"mid_bf16_2_ranks", mid_gemma2, 2, {.dtype = DType::bf16}, kLongPrompt},
        RunCase{"mid_bf16_4_ranks", mid_gemma2, 4, {.dtype = DType::bf16}, kLongBatch},
        RunCase{"mid_bf16_batch", mid_gemma2, 1, {.dtype = DType::bf16}, kLongBatch}),
    [](const testing::TestParamInfo<RunCase>& run) { return run.param.name; });

TEST(MemoryPlan, Gemma2With27BillionParametersNeedsWhatItsShapeSays) {
  OpenedModel opened = open_model({.path = source_path("configs/models/gemma2-27b.json"), .family = {}, .compat = {}});
  MemoryPlan plan = plan_memory(opened, {.rank = 0, .size = 1}, {.dtype = DType::bf16}, {});
  EXPECT_NEAR(static_cast<double>(plan.weights), 54.45e9, 0.1e9);
  MemoryPlan eighth = plan_memory(opened, {.rank = 0, .size = 8}, {.dtype = DType::bf16}, {});
  EXPECT_NEAR(static_cast<double>(eighth.weights), 54.45e9 / 8, 0.05e9);
}

TEST(MemoryPlan, SmallestDegreeIsTheFirstThatFitsAndThatTheHeadsAllow) {
  OpenedModel opened = open_model({.path = tiny_llama(), .family = {}, .compat = {}});  // 4 heads: degree 3 cannot be
  int64_t at_two = plan_largest_rank(opened, 2, {.dtype = DType::f32}, kShortBatch).plan.total();
  EXPECT_EQ(smallest_fitting_degree(opened, {.dtype = DType::f32}, kShortBatch, at_two), 2);
  EXPECT_EQ(smallest_fitting_degree(opened, {.dtype = DType::f32}, kShortBatch, at_two - 1), 4);
  EXPECT_EQ(smallest_fitting_degree(opened, {.dtype = DType::f32}, kShortBatch, 1000), 0);
}

TEST(MemoryPlan, OfUnevenSharesTheLargestCounts) {
  OpenedModel opened = open_model({.path = uneven_llama(), .family = {}, .compat = {}});
  LargestRank largest = plan_largest_rank(opened, 2, {.dtype = DType::f32}, kShortBatch);
  EXPECT_EQ(largest.rank, 1);
  EXPECT_GT(largest.plan.total(),
            plan_memory(opened, {.rank = 0, .size = 2}, {.dtype = DType::f32}, kShortBatch).total());
}

TEST(MemoryPlan, EveryDecoderOfConfigsModelsCanBePlanned) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source_path("configs/models"))) {
    OpenedModel opened = open_model({.path = entry.path().string(), .family = {}, .compat = {}});
    if (!opened.definition.decoder) continue;
    EXPECT_GT(plan_memory(opened, {.rank = 0, .size = 1}, {.dtype = DType::bf16}, {}).total(), 0) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 14);
}

}  // namespace
}  // namespace weft
