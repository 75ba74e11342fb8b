// weft bench seq2seq: answers of an encoder-decoder to sources of random ids, greedy or with beams.
#include <chrono>

#include "core/error.h"
#include "core/random.h"
#include "generate/beam_search.h"
#include "generate/generator.h"
#include "launcher/bench_runs.h"
#include "launcher/mpi_session.h"
#include "plan/speed_bounds.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kSeed = 20240;
constexpr int kWarmUps = 2;

/// One request a row of the batch, other sources in every repetition.
template <typename Request>
std::vector<Request> random_requests(const ModelInfo& info, const BenchOptions& options, int repetition) {
  RandomKey key{.seed = kSeed, .step = static_cast<uint32_t>(repetition)};
  std::vector<Request> requests(static_cast<size_t>(options.workload.batch));
  uint64_t index = 0;
  for (Request& request : requests) {
    std::vector<int32_t> source;
    for (int64_t i = 0; i < options.source_tokens; ++i) {
      source.push_back(static_cast<int32_t>(key.bits(index++) % static_cast<uint32_t>(info.vocab_size)));
    }
    set_text(request, info, source);
    request.max_new_tokens = options.workload.new_tokens;
  }
  return requests;
}

/// No end ids: every answer has all of its tokens.
template <typename Search, typename Request, typename SearchOptions>
GenerationStats generate_once(InferenceModel& loaded,
                              const SearchOptions& settings,
                              std::span<const Request> requests) {
  Search search(loaded.context, *loaded.model, settings);
  search.run(requests);
  return search.stats();
}

GenerationStats run_generation(InferenceModel& loaded, const BenchOptions& options, int repetition) {
  const ModelInfo& info = loaded.model->info();
  if (options.num_beams == 1) {
    auto requests = random_requests<GenerationRequest>(info, options, repetition);
    GeneratorOptions settings{.cache_dtype = loaded.dtype, .max_batch = options.workload.batch};
    return generate_once<Generator, GenerationRequest>(loaded, settings, requests);
  }
  auto requests = random_requests<BeamRequest>(info, options, repetition);
  for (BeamRequest& request : requests) request.beams.num_beams = options.num_beams;
  BeamSearchOptions settings{.cache_dtype = loaded.dtype, .max_batch = options.workload.batch * options.num_beams};
  return generate_once<BeamSearch, BeamRequest>(loaded, settings, requests);
}

/// Seconds that the machine needs at least.
struct LeastSeconds {
  double sources = 0;
  double step = 0;
};

LeastSeconds least_seconds(const Seq2SeqCost& cost, const MachinePeaks& peaks) {
  return {.sources = cost.source_flops / peaks.matmul_flops_per_second,
          .step = static_cast<double>(cost.weight_bytes + cost.cache_bytes) / peaks.memory_bytes_per_second};
}

}  // namespace

BenchResult bench_seq2seq(const BenchOptions& options, MpiSession& session) {
  if (options.workload.new_tokens < 2) fail(ExitCode::usage, "seq2seq needs --new-tokens of at least 2");
  auto loaded = make_bench_model(options, session);
  if (!loaded->model->info().has_source) fail_input("{} reads no sources; seq2seq needs a T5", loaded->opened.path);
  BenchResult result{.unit = "tokens/s",
                     .formula =
                         "new tokens / (operations on the sources / matrix peak + steps x bytes of decoder weights and "
                         "cache read a step / memory bandwidth)"};
  auto steps = static_cast<double>(options.workload.new_tokens);
  double tokens = static_cast<double>(options.workload.batch) * steps;
  BenchResult decode;
  for (int i = 0; i < kWarmUps + options.repetitions; ++i) {
    session.world()->barrier();
    auto start = Clock::now();
    GenerationStats stats = run_generation(*loaded, options, i);
    double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (i < kWarmUps) continue;
    result.values.push_back(tokens / seconds);
    decode.values.push_back(static_cast<double>(options.workload.batch) * (steps - 1) / stats.decode_seconds);
  }
  MachinePeaks peaks = measure_bench_peaks(*loaded);
  Seq2SeqCost cost = seq2seq_cost(*loaded->model,
                                  weights_of(*loaded),
                                  {.batch = options.workload.batch,
                                   .source_tokens = options.source_tokens,
                                   .new_tokens = options.workload.new_tokens,
                                   .num_beams = options.num_beams});
  LeastSeconds least = least_seconds(cost, peaks);
  result.bound = smallest_of_ranks(*loaded, tokens / (least.sources + steps * least.step));
  decode.bound = smallest_of_ranks(*loaded, static_cast<double>(options.workload.batch) / least.step);
  result.details = {{"decode_tokens_per_second", decode.median()},
                    {"decode_bound", decode.bound},
                    {"decode_bound_fraction", decode.median() / decode.bound},
                    {"weight_bytes", static_cast<double>(cost.weight_bytes)},
                    {"cache_bytes", static_cast<double>(cost.cache_bytes)},
                    {"source_operations", cost.source_flops},
                    {"memory_bytes_per_second", peaks.memory_bytes_per_second},
                    {"matrix_peak_flops_per_second", peaks.matmul_flops_per_second}};
  report_memory(options.common, session, loaded->context);
  return result;
}

}  // namespace weft
