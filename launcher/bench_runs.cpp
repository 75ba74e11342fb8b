#include "launcher/bench_runs.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <set>
#include <thread>

#include "checkpoint/file.h"
#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/log.h"
#include "generate/generator.h"
#include "launcher/mpi_session.h"
#include "plan/speed_bounds.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kSeed = 20240;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A shape file gets random weights, so that a model that isn't on disk can be timed.
std::unique_ptr<InferenceModel> make_random_model(const BenchOptions& options,
                                                  OpenedModel opened,
                                                  MpiSession& session) {
  auto loaded = std::make_unique<InferenceModel>();
  loaded->context =
      make_device_context(options.common.device, resolve_threads(options.common, session), session.local_rank());
  loaded->mesh =
      std::make_unique<Mesh>(communicator_for(loaded->context, session.world()), options.common.tensor_parallel);
  Communicator& ranks = loaded->mesh->tensor_parallel();
  if (ranks.size() > 1) loaded->context.tensor_parallel = &ranks;
  loaded->dtype = parse_dtype(options.common.dtype);
  loaded->opened = std::move(opened);
  loaded->model = loaded->opened.make({.rank = ranks.rank(), .size = ranks.size()});
  log::info("{}: a shape without weights; they are random", loaded->opened.path);
  LoadOptions load = load_options(options.common, ranks.rank(), loaded->context.num_threads);
  loaded->quantization = load.quantization;
  initialise_parameters(loaded->context, *loaded->model, load, kSeed);
  return loaded;
}

/// Other prompts in every repetition, so that none is found in a cache.
std::vector<GenerationRequest> random_requests(const ModelInfo& info,
                                               const Workload& workload,
                                               int64_t new_tokens,
                                               int repetition) {
  std::vector<GenerationRequest> requests(static_cast<size_t>(workload.batch));
  RandomKey key{.seed = kSeed, .step = static_cast<uint32_t>(repetition)};
  uint64_t index = 0;
  for (GenerationRequest& request : requests) {
    request.max_new_tokens = new_tokens;
    request.sequence = index;
    for (int64_t i = 0; i < workload.prompt_tokens; ++i) {
      request.prompt.push_back(static_cast<int32_t>(key.bits(index++) % static_cast<uint32_t>(info.vocab_size)));
    }
  }
  return requests;
}

GenerationStats run_generation(InferenceModel& loaded,
                               const Workload& workload,
                               int64_t new_tokens,
                               int repetition,
                               const SamplerOptions& sampling = {}) {
  Generator generator(
      loaded.context,
      *loaded.model,
      {.cache_dtype = loaded.dtype, .max_batch = workload.batch, .prefill_chunk = workload.prefill_chunk});
  std::vector<GenerationRequest> requests = random_requests(loaded.model->info(), workload, new_tokens, repetition);
  for (GenerationRequest& request : requests) request.sampling = sampling;
  generator.run(requests);
  return generator.stats();
}

void check_context(const ModelInfo& info, const Workload& workload) {
  if (info.max_positions == 0 || workload.context() <= info.max_positions) return;
  fail_input("{} prompt and {} new tokens exceed the model's context of {}; use fewer",
             workload.prompt_tokens,
             workload.new_tokens,
             info.max_positions);
}

/// Reads the checkpoint's files from their beginnings as loading does, up to 1 GiB, into memory that is used again:
/// GB/s.
double file_bandwidth(const CheckpointReader& reader, int num_threads) {
  constexpr int64_t kChunk = int64_t{8} << 20;
  constexpr int64_t kLimit = int64_t{1} << 30;
  std::set<std::string> paths;
  for (const std::string& name : reader.names()) paths.insert(reader.info(name).file);
  std::vector<std::unique_ptr<File>> files;
  std::vector<std::pair<const File*, int64_t>> chunks;
  for (const std::string& path : paths) {
    files.push_back(std::make_unique<File>(path));
    for (int64_t begin = 0; begin < files.back()->size(); begin += kChunk) {
      if (static_cast<int64_t>(chunks.size()) * kChunk < kLimit) chunks.emplace_back(files.back().get(), begin);
    }
  }
  std::atomic<size_t> next{0};
  std::atomic<int64_t> bytes{0};
  auto read_chunks = [&] {
    std::vector<char> buffer(static_cast<size_t>(kChunk));
    for (size_t i = next.fetch_add(1); i < chunks.size(); i = next.fetch_add(1)) {
      int64_t count = std::min(kChunk, chunks[i].first->size() - chunks[i].second);
      chunks[i].first->read(chunks[i].second, buffer.data(), count);
      bytes += count;
    }
  };
  auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int i = 1; i < num_threads; ++i) threads.emplace_back(read_chunks);
  read_chunks();
  for (std::thread& thread : threads) thread.join();
  return static_cast<double>(bytes) / seconds_since(start) / 1e9;
}

/// What a rank's slices take in the files.
int64_t stored_shard_bytes(const OpenedModel& opened, const LanguageModel& model) {
  double bytes = 0;
  for (const Parameter& parameter : model.parameters().all()) {
    WeightSource source = find_source(opened.weight_map(), parameter, model.info().num_layers);
    double share = static_cast<double>(parameter.local_shape.num_elements()) /
                   static_cast<double>(parameter.full_shape.num_elements());
    bytes += share * static_cast<double>(opened.reader->info(source.theirs).stored_bytes);
  }
  return static_cast<int64_t>(bytes);
}

/// Loads once into a model that is dropped again.
LoadReport load_once(const BenchOptions& options,
                     const OpenedModel& opened,
                     TensorParallelPlace place,
                     int num_threads) {
  Context context = make_cpu_context(num_threads);
  auto model = opened.make(place);
  return load_parameters(context, opened, *model, load_options(options.common, place.rank, num_threads));
}

/// The promise of sharded loading: resident memory at most the shard + 10 % + 300 MB, bytes read at most the shard + 2
/// %.
void add_load_promise(BenchResult& result, const LoadReport& report, int64_t stored_bytes, int64_t peak_bytes) {
  double peak_limit = 1.1 * static_cast<double>(report.weight_bytes) + 300e6;
  double read_limit = 1.02 * static_cast<double>(stored_bytes);
  result.details.emplace_back("shard_bytes", report.weight_bytes);
  result.details.emplace_back("peak_resident_bytes", peak_bytes);
  result.details.emplace_back("peak_limit_bytes", peak_limit);
  result.details.emplace_back("peak_of_limit", static_cast<double>(peak_bytes) / peak_limit);
  result.details.emplace_back("shard_bytes_in_files", stored_bytes);
  result.details.emplace_back("bytes_read", report.bytes_read);
  result.details.emplace_back("bytes_read_of_limit", static_cast<double>(report.bytes_read) / read_limit);
  result.details.emplace_back("seconds", report.seconds);
}

/// About a megabyte of text made of random tokens: it uses the whole vocabulary, which real text does not.
std::string random_text(const Tokenizer& tokenizer) {
  constexpr size_t kBytes = 1 << 20;
  RandomKey key{.seed = kSeed};
  std::string text;
  std::vector<int32_t> ids;
  for (uint64_t index = 0; text.size() < kBytes; ++index) {
    auto id = static_cast<int32_t>(key.bits(index) % static_cast<uint32_t>(tokenizer.vocab_size()));
    if (!tokenizer.is_special(id)) ids.push_back(id);
    if (index % 4096 != 4095) continue;
    text += tokenizer.decode(ids, true) + "\n";
    ids.clear();
  }
  return text;
}

}  // namespace

std::unique_ptr<InferenceModel> make_bench_model(const BenchOptions& options, MpiSession& session) {
  OpenedModel opened = open_model(options.common.model);
  if (opened.reader == nullptr) return make_random_model(options, std::move(opened), session);
  return load_model_for_inference(options.common, session, TokenizerUse::nowhere);
}

MachinePeaks measure_bench_peaks(const InferenceModel& loaded) {
  loaded.mesh->world().barrier();
  return measure_machine_peaks(loaded.dtype, loaded.context.stream());
}

double smallest_of_ranks(const InferenceModel& loaded, double value) {
  if (loaded.context.tensor_parallel == nullptr) return value;
  Tensor number = loaded.context.host_zeros({1}, DType::f64);
  number.data<double>()[0] = value;
  loaded.context.tensor_parallel->all_reduce(number, ReduceOp::min);
  return number.data<double>()[0];
}

int64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kilobytes = 0;
  while (status >> word) {
    if (word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

double BenchResult::median() const {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

BenchResult bench_load(const BenchOptions& options, MpiSession& session) {
  OpenedModel opened = open_model(options.common.model);
  if (opened.reader == nullptr)
    fail_input("{}: a shape without weights cannot be loaded; give a checkpoint", opened.path);
  TensorParallelPlace place = options.as_rank;
  if (place.size == 0) place = {.rank = session.rank(), .size = session.size()};
  int num_threads = resolve_threads(options.common, session);
  BenchResult result{.unit = "GB/s", .formula = "the same files read from their beginnings with as many threads, GB/s"};
  LoadReport report;
  for (int i = 0; i < options.repetitions; ++i) {
    session.world()->barrier();
    report = load_once(options, opened, place, num_threads);
    result.values.push_back(static_cast<double>(report.bytes_read) / std::max(report.seconds, 1e-9) / 1e9);
  }
  int64_t peak_bytes = peak_resident_bytes();
  add_load_promise(result, report, stored_shard_bytes(opened, *opened.make(place)), peak_bytes);
  session.world()->barrier();
  result.bound = file_bandwidth(*opened.reader, num_threads);
  return result;
}

BenchResult bench_prefill(const BenchOptions& options, MpiSession& session) {
  Workload workload = options.workload;
  workload.new_tokens = 1;
  auto loaded = make_bench_model(options, session);
  check_context(loaded->model->info(), workload);
  double tokens = static_cast<double>(workload.batch * workload.prompt_tokens);
  BenchResult result{.unit = "tokens/s",
                     .formula =
                         "prompt tokens x matrix peak / operations (2 a weight and token, 4 x head_dim a query "
                         "head and visible key, logits of the last token)"};
  run_generation(*loaded, workload, 1, 0);
  for (int i = 1; i <= options.repetitions; ++i) {
    result.values.push_back(tokens / run_generation(*loaded, workload, 1, i).prefill_seconds);
  }
  MachinePeaks peaks = measure_bench_peaks(*loaded);
  double flops = prefill_flops(loaded->opened, *loaded->model, workload);
  result.bound = smallest_of_ranks(*loaded, tokens * peaks.matmul_flops_per_second / flops);
  result.details = {{"operations", flops}, {"matrix_peak_flops_per_second", peaks.matmul_flops_per_second}};
  report_memory(options.common, session, loaded->context);
  return result;
}

BenchResult bench_decode(const BenchOptions& options, MpiSession& session) {
  Workload workload = options.workload;
  if (workload.new_tokens < 2) fail(ExitCode::usage, "decode needs --new-tokens of at least 2");
  workload.prefill_chunk = workload.batch * workload.prompt_tokens;  // all rows start to answer together
  auto loaded = make_bench_model(options, session);
  check_context(loaded->model->info(), workload);
  auto steps = static_cast<double>(workload.new_tokens - 1);
  auto batch = static_cast<double>(workload.batch);
  BenchResult result{.unit = "tokens/s",
                     .formula = "batch x memory bandwidth / (bytes of weights + bytes of cache read a step)"};
  run_generation(*loaded, workload, 2, 0, options.sampling);
  for (int i = 1; i <= options.repetitions; ++i) {
    double seconds = run_generation(*loaded, workload, workload.new_tokens, i, options.sampling).decode_seconds;
    result.values.push_back(batch * steps / seconds);
  }
  MachinePeaks peaks = measure_bench_peaks(*loaded);
  DecodeCost cost = decode_cost(loaded->opened, *loaded->model, weights_of(*loaded), workload);
  auto step_bytes = static_cast<double>(cost.weight_bytes + cost.cache_bytes);
  result.bound = smallest_of_ranks(*loaded, batch * peaks.memory_bytes_per_second / step_bytes);
  result.details = {{"weight_bytes", static_cast<double>(cost.weight_bytes)},
                    {"cache_bytes", static_cast<double>(cost.cache_bytes)},
                    {"memory_bytes_per_second", peaks.memory_bytes_per_second}};
  report_memory(options.common, session, loaded->context);
  return result;
}

BenchResult bench_tokenize(const BenchOptions& options, MpiSession& session) {
  std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(options.common.model.path);
  std::string text = options.text_file.empty() ? random_text(*tokenizer) : read_text(options.text_file, "text");
  BenchResult result{.unit = "MB/s", .formula = "memory bandwidth of one thread: every byte read once"};
  size_t tokens = tokenizer->encode(text, false).size();
  for (int i = 0; i < options.repetitions; ++i) {
    auto start = Clock::now();
    tokenizer->encode(text, false);
    result.values.push_back(static_cast<double>(text.size()) / seconds_since(start) / 1e6);
  }
  session.world()->barrier();
  Context context = make_cpu_context(1);
  result.bound = measure_machine_peaks(DType::f32, context.stream()).memory_bytes_per_second / 1e6;
  result.details = {{"text_bytes", static_cast<double>(text.size())}, {"tokens", static_cast<double>(tokens)}};
  return result;
}

}  // namespace weft
