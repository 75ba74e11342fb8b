#include "launcher/common.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>

#include "core/log.h"
#include "core/paths.h"
#include "kernels/cuda_devices.h"
#include "kernels/guarded.h"
#include "launcher/adapter_set.h"
#include "launcher/command_line.h"
#include "launcher/mpi_session.h"
#include "models/adapter_file.h"
#include "models/model_config.h"
#include "parallel/gpu_assignment.h"
#include "parallel/nccl_communicator.h"
#include "parallel/staged_communicator.h"
#include "tokenizer/tokenizer.h"

namespace weft {

void add_output_options(Command command, CommonOptions& options) {
  Option quiet = command.add_flag("-q,--quiet", options.quiet, "Only warnings and errors on standard error");
  command.add_flag("-v,--verbose", options.verbose, "Details on standard error, from every rank").excludes(quiet);
}

void add_model_options(Command command, CommonOptions& options) {
  command
      .add_option("-m,--model",
                  options.model.path,
                  "Folder (Hugging Face, Keras .weights.h5 or TensorFlow checkpoint, with its config), or .gguf file")
      .required();
  command.add_option("--family", options.model.family, "Family, where the config doesn't say it or is to be overruled");
  command.add_option("--config", options.model.config, "The model's config, where it does not lie beside the weights");
  command
      .add_option(
          "--model-set",
          options.model.set,
          "KEY=VALUE in place of a key of the model's config, such as hidden_dropout_prob=0.2; VALUE is JSON or "
          "a bare text (repeatable)")
      .one_value_each();
  command
      .add_option("--application",
                  options.model.application,
                  "Which tokens an encoder's tokens see: all (encoder), those before (lm), or the source and those "
                  "before (unilm)")
      .check_one_of({"encoder", "lm", "unilm"});
  command
      .add_option(
          "--compat", options.model.compat, "Arithmetic of another program where it departs from the original model")
      .check_one_of({"bert4keras3"});
}

void add_threads_option(Command command, CommonOptions& options) {
  command
      .add_option("--threads", options.threads, "Threads a rank (0: the processors shared among the ranks of the host)")
      .check_range(0, 4096)
      .show_default();
}

void add_compute_options(Command command, CommonOptions& options) {
  command
      .add_option("--tensor-parallel",
                  options.tensor_parallel,
                  "Ranks that share the weights (0: all). Ranks are started by mpirun or weft launch")
      .check_range(0, 65536)
      .show_default();
  command.add_option("--dtype", options.dtype, "Type to compute in, bf16 or f32; sums are f32 in both")
      .check_one_of({"bf16", "f32"})
      .show_default();
  command
      .add_option(
          "--quantize",
          options.quantize,
          "Bits of the weights in memory: int8 or int4, rounded as the model is loaded, or none, as --dtype says")
      .check_one_of({"none", "int8", "int4"})
      .show_default();
  command
      .add_option(
          "--device", options.device, "Where to compute: cpu, cuda (a GPU a rank), or auto, a GPU where there is one")
      .show_default();
  add_threads_option(command, options);
  command.add_flag("--memory", options.show_memory, "Report each rank's memory by kind at the end");
}

LoadOptions load_options(const CommonOptions& options, int rank, int num_threads) {
  return {.dtype = parse_dtype(options.dtype),
          .quantization = parse_quantization(options.quantize),
          .show_progress = rank == 0 && !options.quiet,
          .num_threads = num_threads};
}

void refuse_quantization(const CommonOptions& options, std::string_view what) {
  if (parse_quantization(options.quantize) == Quantization::none) return;
  fail(ExitCode::usage,
       "--quantize {}: {} needs weights in {}; int8 and int4 are for inference (and in a config, lora.quantize)",
       options.quantize,
       what,
       options.dtype);
}

void configure_log(const CommonOptions& options, const MpiSession& session) {
  auto level = options.quiet ? log::Level::warning : options.verbose ? log::Level::debug : log::Level::info;
  bool is_other_rank = session.rank() != 0;
  if (is_other_rank && level == log::Level::info) level = log::Level::warning;
  log::configure(level, is_other_rank ? fmt::format("rank {}", session.rank()).c_str() : "");
}

int resolve_threads(const CommonOptions& options, const MpiSession& session) {
  auto online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  int share = std::max(1, online / session.local_size());
  const char* openmp_threads = std::getenv("OMP_NUM_THREADS");
  int wanted = options.threads > 0 ? options.threads : openmp_threads ? std::atoi(openmp_threads) : 0;
  if (std::string warning = session.binding_warning(wanted > 0 ? wanted : share); !warning.empty())
    log::warning("{}", warning);
  if (wanted > 0) return wanted;
  cpu_set_t allowed;
  int available = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return std::max(1, std::min(available, share));
}

void add_session_options(Command command, SessionFlags& flags) {
  command.add_option("--session", flags.from, "Goes on from what --save-session wrote: nothing is computed again");
  command.add_option(
      "--save-session", flags.to, "Writes what the cache holds at the end (keys and values, or states) to a file");
}

void check_session_flags(const SessionFlags& flags, const CommonOptions& options) {
  if (!flags.is_used()) return;
  if (!options.adapters.empty()) fail(ExitCode::usage, "sessions know no adapters; merge the adapter into the model");
  if (flags.to.empty()) return;
  // Said before the answer is computed, not when it is to be saved.
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(flags.to).has_parent_path() ? fs::path(flags.to).parent_path() : fs::path(".");
  if (is_folder(flags.to)) fail_input("--save-session {}: is a folder", printable(flags.to));
  if (access(folder.c_str(), W_OK | X_OK) == 0) return;
  fail_input("--save-session {}: {}: {}", printable(flags.to), printable(folder.string()), std::strerror(errno));
}

void add_adapter_options(Command command, CommonOptions& options) {
  command
      .add_option("--adapter",
                  options.adapters,
                  "Folder of a LoRA adapter, as PEFT or weft train wrote it; NAME=DIR names it (repeatable)")
      .one_value_each();
  command.add_option("--use-adapter", options.used_adapter, "Name of the adapter to use, or none (default: the first)");
}

Context make_device_context(const std::string& device, int num_threads, int local_rank) {
  if (device == "cpu") return make_cpu_context(num_threads);
  if (device == "guarded") return make_context(make_guarded_allocator(), num_threads);
  if (device != "cuda" && device != "auto") {
    fail(ExitCode::usage, "--device {}: unknown device; known are auto, cpu and cuda", printable(device));
  }
  int count = cuda_device_count();
  if (device == "auto" && count == 0) return make_cpu_context(num_threads);
  // Ranks beyond the GPUs share them.
  return make_context(make_cuda_allocator(count > 0 ? local_rank % count : 0), num_threads);
}

namespace {

/// With --device auto a rank may find no GPU where others do.
void check_same_device(const Context& context, Communicator& world) {
  auto type = static_cast<int32_t>(context.device.type);
  Tensor bounds = context.host_empty({2}, DType::i32, MemoryTag::comm);
  bounds.data<int32_t>()[0] = type;
  bounds.data<int32_t>()[1] = -type;
  world.all_reduce(bounds, ReduceOp::max);
  if (bounds.data<int32_t>()[0] == type && bounds.data<int32_t>()[1] == -type) return;
  fail(ExitCode::usage,
       "rank {} computes on {}, others elsewhere: give every host a GPU, or say --device cpu (weft doctor tells which "
       "rank lacks one)",
       world.rank(),
       device_name(context.device.type));
}

/// Why NCCL cannot carry what is between these ranks; empty if it can. The same on all ranks.
std::string no_nccl_between(const Context& context, Communicator& world) {
  if (context.device.type != DeviceType::cuda) return "the tensors are in host memory";
  if (world.backend() == "threads") return "the ranks are threads";
  bool have_own_gpus = ranks_have_own_gpus(world, cuda_device_info(context.device.index).pci_bus_id);
  // NCCL 2.30 and up allows it where this is set.
  const char* may_share = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  if (!have_own_gpus && (may_share == nullptr || std::string_view(may_share) != "1")) return "ranks share a GPU";
  std::string reason = no_nccl_reason();
  Tensor is_ready = context.host_empty({1}, DType::i32, MemoryTag::comm);
  is_ready.data<int32_t>()[0] = reason.empty() ? 1 : 0;
  world.all_reduce(is_ready, ReduceOp::min);
  if (is_ready.data<int32_t>()[0] == 1) return {};
  return reason.empty() ? "another rank cannot load it" : reason;
}

}  // namespace

std::shared_ptr<Communicator> communicator_for(const Context& context, std::shared_ptr<Communicator> world) {
  if (world->size() == 1) return world;
  check_same_device(context, *world);
  if (context.device.type == DeviceType::cpu) return world;
  std::string reason = no_nccl_between(context, *world);
  if (reason.empty()) {
    log::info("NCCL {} carries tensors between the GPUs", nccl_version());
    const char* overlap = std::getenv("WEFT_NCCL_OVERLAP");
    return make_nccl_communicator(*world,
                                  {.stream = cuda_stream(*context.allocator),
                                   .device_index = context.device.index,
                                   .overlap = overlap == nullptr || std::string_view(overlap) != "0"});
  }
  log::info("tensors go between ranks by way of the host: {}", reason);
  return make_staged_communicator(std::move(world));
}

namespace {

void check_ranks(const CommonOptions& options, int world_size) {
  int wanted = options.tensor_parallel;
  if (wanted == 0 || wanted == world_size) return;
  if (options.shares_out_inputs && world_size % wanted == 0) return;
  if (options.shares_out_inputs) {
    fail(ExitCode::usage, "--tensor-parallel {} does not divide the {} ranks that were started", wanted, world_size);
  }
  fail(ExitCode::usage,
       "--tensor-parallel {} with {} rank(s): inference shares the weights among all ranks; start as many with `weft "
       "launch -n {} -- …` or "
       "`mpirun -n {} weft …`",
       wanted,
       world_size,
       wanted,
       wanted);
}

void log_load(const InferenceModel& loaded, int num_ranks, int num_threads) {
  const ModelInfo& info = loaded.model->info();
  double seconds = std::max(loaded.report.seconds, 1e-9);
  log::info(
      "{}: {} of {} layers, {}{} on {} rank(s) x {} thread(s); {:.1f} MB of weights a rank, read in {:.2f} s ({:.2f} "
      "GB/s)",
      std::filesystem::path(loaded.opened.path).lexically_normal().filename().string(),
      info.family,
      info.num_layers,
      dtype_name(loaded.dtype),
      loaded.quantization == Quantization::none
          ? std::string()
          : fmt::format(" with {} weights", quantization_name(loaded.quantization)),
      num_ranks,
      num_threads,
      static_cast<double>(loaded.report.weight_bytes) / 1e6,
      loaded.report.seconds,
      static_cast<double>(loaded.report.bytes_read) / 1e9 / seconds);
}

}  // namespace

InferenceModel::InferenceModel() = default;
InferenceModel::~InferenceModel() = default;

namespace {

/// A tokenizer of the whole vocabulary would number the tokens of a cut one wrongly.
void check_vocabulary(const InferenceModel& loaded) {
  if (loaded.tokenizer == nullptr || loaded.opened.config->integers("keep_tokens").empty()) return;
  if (loaded.tokenizer->vocab_size() <= loaded.model->info().vocab_size) return;
  fail_input(
      "{}: 'keep_tokens' leaves {} tokens, the tokenizer has {}; cut its vocab.txt likewise, as weft convert does",
      loaded.opened.path,
      loaded.model->info().vocab_size,
      loaded.tokenizer->vocab_size());
}

}  // namespace

ModelOptions with_adapters(const CommonOptions& options) {
  ModelOptions model = options.model;
  for (const std::string& named : options.adapters) {
    size_t equals = named.find('=');
    model = with_task_head_of(equals == std::string::npos ? named : named.substr(equals + 1), model);
  }
  return model;
}

ModelOptions with_task_head_of(const std::string& adapter, const ModelOptions& options) {
  ModelOptions model = options;
  std::string overrides = adapter.empty() ? "" : adapter_overrides(adapter);
  if (!overrides.empty()) model.overrides = overrides;
  return model;
}

std::unique_ptr<InferenceModel> load_model_for_inference(const CommonOptions& options,
                                                         MpiSession& session,
                                                         TokenizerUse tokenizer) {
  check_ranks(options, session.world()->size());
  auto loaded = std::make_unique<InferenceModel>();
  loaded->context = make_device_context(options.device, resolve_threads(options, session), session.local_rank());
  loaded->mesh = std::make_unique<Mesh>(communicator_for(loaded->context, session.world()), options.tensor_parallel);
  Communicator& ranks = loaded->mesh->tensor_parallel();
  if (ranks.size() > 1) loaded->context.tensor_parallel = &ranks;
  loaded->dtype = parse_dtype(options.dtype);
  loaded->opened = open_model(with_adapters(options));
  std::future<std::shared_ptr<const Tokenizer>> pending_tokenizer;
  if (tokenizer == TokenizerUse::all_ranks || (tokenizer == TokenizerUse::rank_zero && ranks.rank() == 0)) {
    pending_tokenizer = std::async(std::launch::async, load_tokenizer, options.model.path);
  }
  loaded->model = loaded->opened.make({.rank = ranks.rank(), .size = ranks.size()});
  LoadOptions load = load_options(options, ranks.rank(), loaded->context.num_threads);
  loaded->quantization = load.quantization;
  loaded->report = load_parameters(loaded->context, loaded->opened, *loaded->model, load);
  loaded->adapters = std::make_unique<AdapterSet>(
      loaded->context, *loaded->model, options.adapters, options.used_adapter, loaded->dtype);
  if (pending_tokenizer.valid()) loaded->tokenizer = pending_tokenizer.get();
  check_vocabulary(*loaded);
  log_load(*loaded, ranks.size(), loaded->context.num_threads);
  return loaded;
}

void report_memory(const CommonOptions& options, const MpiSession& session, const Context& context) {
  if (!options.show_memory) return;
  fmt::print(stderr, "rank {} memory: {}\n", session.rank(), context.allocator->memory().report());
}

void broadcast_string(const Context& context, Communicator& communicator, std::string& bytes) {
  if (communicator.size() == 1) return;
  Tensor length = context.host_empty({1}, DType::i64, MemoryTag::comm);
  length.data<int64_t>()[0] = static_cast<int64_t>(bytes.size());
  communicator.broadcast(length, 0);
  int64_t size = length.data<int64_t>()[0];
  if (size == 0) {
    bytes.clear();
    return;
  }
  Tensor content = context.host_empty({size}, DType::u8, MemoryTag::comm);
  if (communicator.rank() == 0) std::memcpy(content.raw(), bytes.data(), bytes.size());
  communicator.broadcast(content, 0);
  bytes.assign(reinterpret_cast<const char*>(content.raw()), static_cast<size_t>(size));
}

void broadcast_ids(const Context& context, Communicator& communicator, std::vector<std::vector<int32_t>>& lists) {
  std::vector<int32_t> flat;
  for (const auto& list : lists) {
    flat.push_back(static_cast<int32_t>(list.size()));
    flat.insert(flat.end(), list.begin(), list.end());
  }
  std::string bytes(reinterpret_cast<const char*>(flat.data()), flat.size() * sizeof(int32_t));
  broadcast_string(context, communicator, bytes);
  flat.resize(bytes.size() / sizeof(int32_t));
  if (!flat.empty()) std::memcpy(flat.data(), bytes.data(), bytes.size());
  lists.clear();
  for (size_t place = 0; place < flat.size(); place += static_cast<size_t>(flat[place]) + 1) {
    auto begin = flat.begin() + static_cast<std::ptrdiff_t>(place) + 1;
    lists.emplace_back(begin, begin + flat[place]);
  }
}

std::string read_text(const std::string& path, std::string_view what) {
  bool is_stdin = path == "-";
  int file = is_stdin ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail_input("{} {}: {}", what, printable(path), std::strerror(errno));
  std::string text;
  std::string buffer(1 << 16, '\0');
  ssize_t count = 0;
  while ((count = read(file, buffer.data(), buffer.size())) > 0) text.append(buffer, 0, static_cast<size_t>(count));
  int error = errno;
  if (!is_stdin) close(file);
  if (count < 0) fail_input("{} {}: {}", what, printable(path), std::strerror(error));
  return text;
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string& line = lines.emplace_back(text.substr(begin, end - begin));
    if (!line.empty() && line.back() == '\r') line.pop_back();
    begin = end + 1;
  }
  return lines;
}

std::vector<std::string> read_lines_on_all_ranks(const std::string& path, const InferenceModel& loaded) {
  std::string text;
  Communicator& ranks = loaded.mesh->world();
  if (ranks.rank() == 0) text = read_text(path, "text");
  broadcast_string(loaded.context, ranks, text);
  return split_lines(text);
}

}  // namespace weft
