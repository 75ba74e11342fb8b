// weft verify: holds a model against the outputs of a reference implementation.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>

#include "core/log.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "parallel/thread_communicator.h"
#include "verify/verifier.h"
#include "verify/verify_training_run.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft verify --model llama --golden llama/golden.h5
  weft verify --model seed/gemma-gqa --golden seed/gemma-gqa/golden.h5 --family gemma --compat bert4keras3
  weft verify --model gemma2 --golden gemma2/golden.h5 --tensor-parallel 2      (ranks as threads of one process)
  mpirun -n 2 weft verify --model gemma2 --golden gemma2/golden.h5 --json
  weft verify --model train/llama --golden train/llama/golden.h5 --run full --data-parallel 2 --tensor-parallel 2 --zero 3

Prints a line a tensor: the largest absolute and relative difference, the tolerance, ok or FAIL. Exit code 0 only if something
was compared and all of it passed, else 6. docs/golden-files.md describes the file and how to make one.)";

struct VerifyCommand {
  CommonOptions common;
  std::string golden;
  std::optional<double> tolerance;
  std::string run;  // of training; empty: the model's outputs
  int data_parallel = 1;
  int zero_stage = 0;
  std::string recompute = "none";
  bool prints_json = false;

  /// Ranks that share the weights, of so many.
  int tensor_parallel(int num_ranks) const {
    if (common.tensor_parallel > 0) return common.tensor_parallel;
    return run.empty() ? num_ranks : std::max(1, num_ranks / data_parallel);
  }
};

Recompute parse_recompute(const std::string& name) {
  return name == "block" ? Recompute::block : name == "selective" ? Recompute::selective : Recompute::none;
}

VerifyReport verify_on_rank(const VerifyCommand& options, const std::shared_ptr<Communicator>& ranks, int num_threads) {
  Context context = make_device_context(options.common.device, num_threads, ranks->rank());
  Mesh mesh(communicator_for(context, ranks), options.tensor_parallel(ranks->size()));
  if (mesh.tensor_parallel().size() > 1) context.tensor_parallel = &mesh.tensor_parallel();
  GoldenFile golden(options.golden);
  OpenedModel opened = open_model(with_golden_options(options.common.model, golden));
  if (!options.run.empty()) {
    refuse_quantization(options.common, "a training run");
    return verify_training_run(context,
                               mesh,
                               opened,
                               golden,
                               {.run = options.run,
                                .zero_stage = options.zero_stage,
                                .recompute = parse_recompute(options.recompute),
                                .tolerance = options.tolerance,
                                .num_threads = num_threads});
  }
  return verify_model(context,
                      opened,
                      golden,
                      {.dtype = parse_dtype(options.common.dtype),
                       .quantization = parse_quantization(options.common.quantize),
                       .tolerance = options.tolerance,
                       .num_threads = num_threads,
                       .show_progress = ranks->rank() == 0 && !options.common.quiet});
}

VerifyReport verify_on_thread_ranks(const VerifyCommand& options, int num_ranks, int num_threads) {
  log::info("{} ranks as threads of one process; under mpirun they are processes", num_ranks);
  VerifyReport report;
  std::mutex mutex;
  run_thread_ranks(num_ranks, [&](const std::shared_ptr<Communicator>& ranks) {
    VerifyReport mine = verify_on_rank(options, ranks, std::max(1, num_threads / num_ranks));
    std::lock_guard lock(mutex);
    if (ranks->rank() == 0) report = std::move(mine);
  });
  return report;
}

ExitCode run_verify(const VerifyCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  int num_threads = resolve_threads(options.common, session);
  int num_ranks =
      session.size() > 1 ? session.size() : options.data_parallel * std::max(1, options.common.tensor_parallel);
  if (!options.run.empty() && options.data_parallel * options.tensor_parallel(num_ranks) != num_ranks) {
    fail(ExitCode::usage,
         "--data-parallel {} × --tensor-parallel {} do not make the {} ranks that were started",
         options.data_parallel,
         options.tensor_parallel(num_ranks),
         num_ranks);
  }
  // Without mpirun the ranks are threads of this process.
  VerifyReport report = session.size() == 1 && num_ranks > 1 ? verify_on_thread_ranks(options, num_ranks, num_threads)
                                                             : verify_on_rank(options, session.world(), num_threads);
  if (session.rank() == 0) {
    fmt::print("{}", options.prints_json ? to_json(report) + "\n" : to_text(report));
    if (report.compared.empty()) {
      log::error("golden file {}: holds nothing that can be compared; docs/golden-files.md describes what can",
                 options.golden);
    }
  }
  return report.passed() ? ExitCode::ok : ExitCode::verification_failed;
}

}  // namespace

void add_verify_command(Command program, CommandContext& context) {
  auto options = std::make_shared<VerifyCommand>();
  options->common.dtype = "f32";
  Command command = program.add_subcommand("verify", "Compares a model with the outputs of a reference implementation");
  command.footer(kFooter);
  add_model_options(command, options->common);
  command.add_option("--golden", options->golden, "HDF5 file of inputs and reference outputs").required();
  command
      .add_option("--tolerance", options->tolerance, "In place of every tolerance of the file (of the same measures)")
      .check_not_negative();
  Option run = command.add_option("--run", options->run, "Repeat a training run of the file: full, lora, …");
  command.add_option("--data-parallel", options->data_parallel, "With --run: ranks with rows of their own")
      .needs(run)
      .check_positive();
  command
      .add_option(
          "--zero", options->zero_stage, "With --run: what data-parallel ranks share out, as parallel.zero_stage")
      .needs(run)
      .check_range(0, 3);
  command.add_option("--recompute", options->recompute, "With --run: none, selective or block")
      .needs(run)
      .check_one_of({"none", "selective", "block"});
  command.add_flag("--json", options->prints_json, "Prints a JSON object");
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_verify(*options, session); }; });
}

}  // namespace weft
