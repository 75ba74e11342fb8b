// What all commands share: the flags that mean the same everywhere, and a model loaded for inference.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/context.h"
#include "models/registry.h"
#include "parallel/mesh.h"

namespace weft {

class AdapterSet;
class Command;
class MpiSession;
class Tokenizer;

/// The flags with the same name and meaning in every command.
struct CommonOptions {
  ModelOptions model;
  std::vector<std::string> adapters;  // [NAME=]DIR
  std::string used_adapter;           // empty: the first
  int tensor_parallel = 0;            // 0: all ranks
  bool shares_out_inputs = false;     // the command knows what to do with more ranks than those
  std::string dtype = "bf16";
  std::string quantize = "none";
  std::string device = "auto";
  int threads = 0;  // a rank; 0: the host's processors shared among its ranks
  bool quiet = false;
  bool verbose = false;
  bool show_memory = false;
};

/// --quiet and --verbose.
void add_output_options(Command command, CommonOptions& options);
/// --model (required), --family, --compat.
void add_model_options(Command command, CommonOptions& options);
/// --tensor-parallel, --dtype, --quantize, --device, --threads, --memory.
void add_compute_options(Command command, CommonOptions& options);
/// --adapter, --use-adapter.
void add_adapter_options(Command command, CommonOptions& options);
/// What --dtype, --quantize and --quiet say of loading a model's weights; `rank` 0 shows how far it is.
LoadOptions load_options(const CommonOptions& options, int rank, int num_threads);
/// Throws Error(usage) for a --quantize where `what` trains.
void refuse_quantization(const CommonOptions& options, std::string_view what);

/// --threads alone, for commands without a model.
void add_threads_option(Command command, CommonOptions& options);

/// Sets the log level (warnings only on ranks other than 0). To be called first in a command's run.
void configure_log(const CommonOptions& options, const MpiSession& session);

/// Threads for this rank: --threads, else OMP_NUM_THREADS, else the processors that it may use, of which each rank of
/// the host gets its share. Logs a warning when mpirun bound the ranks to fewer.
int resolve_threads(const CommonOptions& options, const MpiSession& session);

/// A model in memory, ready to run. Declared so that members are destroyed in a working order; stays where it was made
/// (the context points to the mesh).
struct InferenceModel {
  InferenceModel();
  ~InferenceModel();

  std::unique_ptr<Mesh> mesh;
  Context context;
  OpenedModel opened;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<AdapterSet> adapters;
  std::shared_ptr<const Tokenizer> tokenizer;  // null where not asked for
  DType dtype = DType::f32;
  Quantization quantization = Quantization::none;
  LoadReport report;
};

/// What its weights were loaded as.
inline LoadOptions weights_of(const InferenceModel& loaded) {
  return {.dtype = loaded.dtype, .quantization = loaded.quantization};
}

/// Who needs the model's tokenizer.
enum class TokenizerUse { nowhere, rank_zero, all_ranks };

/// Opens and loads a model on all ranks, the tokenizer beside it at the same time, and logs one line on rank 0. Throws
/// Error(usage) when the ranks don't fit --tensor-parallel and Error(bad_input) for the model.
std::unique_ptr<InferenceModel> load_model_for_inference(const CommonOptions& options,
                                                         MpiSession& session,
                                                         TokenizerUse tokenizer = TokenizerUse::all_ranks);

/// Where a sequence's cache is kept from one call of the program to the next; empty: nowhere.
struct SessionFlags {
  std::string from, to;

  bool is_used() const { return !from.empty() || !to.empty(); }
};
/// --session, --save-session.
void add_session_options(Command command, SessionFlags& flags);
/// Throws Error(usage) where sessions do not go, with adapters, and Error(bad_input) where none can be saved.
void check_session_flags(const SessionFlags& flags, const CommonOptions& options);

/// --model with the task's layer that one of the adapters brings.
ModelOptions with_adapters(const CommonOptions& options);

/// A model's options with the task's layer that an adapter brings; as they are where it brings none.
ModelOptions with_task_head_of(const std::string& adapter, const ModelOptions& options);

/// A context on --device: "cpu", "cuda" (this rank's GPU, by its number on the host), "auto" (a GPU where there is
/// one), or "guarded" (kernels/guarded.h). Throws Error(usage).
Context make_device_context(const std::string& device, int num_threads, int local_rank);

/// `world` for tensors on the context's device: as it is on the CPU; on GPUs, what carries device memory between them.
std::shared_ptr<Communicator> communicator_for(const Context& context, std::shared_ptr<Communicator> world);

/// --memory: this rank's memory by kind, to standard error.
void report_memory(const CommonOptions& options, const MpiSession& session, const Context& context);

/// Gives rank 0's bytes to all ranks of a communicator.
void broadcast_string(const Context& context, Communicator& communicator, std::string& bytes);

/// The same for lists of token ids.
void broadcast_ids(const Context& context, Communicator& communicator, std::vector<std::vector<int32_t>>& lists);

/// The lines of a text, without their ends ("\\n" or "\\r\\n").
std::vector<std::string> split_lines(const std::string& text);

/// The lines of a file (or standard input, "-"), which rank 0 reads.
std::vector<std::string> read_lines_on_all_ranks(const std::string& path, const InferenceModel& loaded);

/// A whole file, or standard input for "-". Throws Error(bad_input) when it can't be read; `what` names it in the
/// message ("prompt file").
std::string read_text(const std::string& path, std::string_view what);

}  // namespace weft
