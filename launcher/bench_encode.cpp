// weft bench encode: sentence vectors of random ids, tokenisation left out.
#include <chrono>

#include "core/error.h"
#include "core/random.h"
#include "generate/sentence_encoder.h"
#include "launcher/bench_runs.h"
#include "launcher/mpi_session.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kSeed = 20240;
constexpr int kWarmUps = 2;

void check_workload(const ModelInfo& info, const BenchOptions& options) {
  int64_t length = options.training.sequence_length;
  if (info.max_positions == 0 || length <= info.max_positions) return;
  fail_input("--sequence is {}, the model was made for {} positions; use fewer", length, info.max_positions);
}

/// Other ids in every repetition.
std::vector<TokenisedText> random_texts(const ModelInfo& info, const BenchOptions& options, int repetition) {
  RandomKey key{.seed = kSeed, .step = static_cast<uint32_t>(repetition)};
  std::vector<TokenisedText> texts(static_cast<size_t>(options.workload.batch));
  uint64_t index = 0;
  for (TokenisedText& text : texts) {
    for (int64_t i = 0; i < options.training.sequence_length; ++i) {
      text.ids.push_back(static_cast<int32_t>(key.bits(index++) % static_cast<uint32_t>(info.vocab_size)));
    }
  }
  return texts;
}

/// Of this rank: 2 a weight of the blocks and token, 4 × head_dim a query head and key.
double encode_flops(LanguageModel& model, const BenchOptions& options, int num_ranks) {
  const ModelInfo& info = model.info();
  auto length = static_cast<double>(options.training.sequence_length);
  double weights = 0;
  for (const NamedLinear& layer : model.linears()) {
    const Parameter& weight = *layer.linear->weight;
    int64_t uses = weight.block == kOuterBlock ? info.num_layers : 1;  // ALBERT's only block is used in every layer
    weights += static_cast<double>(weight.local_shape.num_elements() * uses);
  }
  auto heads = static_cast<double>(info.num_layers * info.num_heads * info.head_dim) / num_ranks;
  return static_cast<double>(options.workload.batch) * length * (2 * weights + 4 * heads * length);
}

}  // namespace

BenchResult bench_encode(const BenchOptions& options, MpiSession& session) {
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::nowhere);
  const ModelInfo& info = loaded->model->info();
  check_workload(info, options);
  BenchResult result{.unit = "tokens/s",
                     .formula =
                         "ranks' tokens x matrix peak / operations (2 a weight of the blocks and token, 4 x head_dim a "
                         "query head and key)"};
  auto rank_groups = static_cast<double>(loaded->mesh->data_parallel().size());
  double tokens = static_cast<double>(options.workload.batch * options.training.sequence_length) * rank_groups;
  for (int i = 0; i < kWarmUps + options.repetitions; ++i) {
    std::vector<TokenisedText> texts = random_texts(info, options, i);
    session.world()->barrier();
    auto start = Clock::now();
    encode_sentences(loaded->context, *loaded->model, texts, {});
    session.world()->barrier();
    double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (i >= kWarmUps) result.values.push_back(tokens / seconds);
  }
  MachinePeaks peaks = measure_machine_peaks(loaded->dtype, loaded->context.stream());
  double flops = encode_flops(*loaded->model, options, loaded->mesh->tensor_parallel().size());
  result.bound = tokens * peaks.matmul_flops_per_second / flops;
  result.details = {{"texts_per_second", result.median() / static_cast<double>(options.training.sequence_length)},
                    {"operations", flops},
                    {"matrix_peak_flops_per_second", peaks.matmul_flops_per_second}};
  report_memory(options.common, session, loaded->context);
  return result;
}

}  // namespace weft
