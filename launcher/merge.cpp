// weft merge: adds an adapter to its base model's weights, parameter by parameter.
#include <algorithm>
#include <memory>
#include <optional>

#include "checkpoint/reader.h"
#include "checkpoint/safetensors_writer.h"
#include "core/log.h"
#include "core/progress.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "launcher/output_folder.h"
#include "models/merged_weights.h"
#include "models/model_folder.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft merge --model SmolLM2-135M --adapter runs/bible/checkpoints/step-00000200 --out SmolLM2-bible
  weft launch -n 4 -- merge --model Meta-Llama-3-8B --adapter my-lora --out merged --dtype bf16

The result is a Hugging Face folder, whatever format the base model has. Memory: the adapter and a few megabytes.)";

constexpr int64_t kChunkBytes = 4 << 20;

struct MergeCommand {
  CommonOptions common;
  std::string adapter;
  std::string out;
};

/// Rows [begin, end) of one parameter.
struct Rows {
  const Parameter& parameter;
  WeightSource source;
  int64_t begin, end;

  int64_t num_elements() const { return (end - begin) * row_width(parameter); }
};

std::shared_ptr<const SafetensorsLayout> make_layout(const LanguageModel& model,
                                                     const std::vector<ConstantTensor>& constants,
                                                     DType dtype) {
  std::vector<OutputTensor> tensors;
  for (const Parameter& parameter : model.parameters().all()) {
    tensors.push_back({parameter.name, parameter.full_shape, dtype});
  }
  for (const ConstantTensor& constant : constants) tensors.push_back({constant.name, constant.shape, DType::f32});
  return std::make_shared<SafetensorsLayout>("model", std::move(tensors));
}

/// All parameters, in pieces of a few megabytes where the layout lets any rows be read.
std::vector<Rows> split_into_rows(const MergedWeights& merged) {
  std::vector<Rows> all;
  for (const Parameter& parameter : merged.model().parameters().all()) {
    WeightSource source = merged.source(parameter);
    int64_t num_rows = parameter.full_shape[0];
    // Other layouts are read faster, or only, as a whole.
    bool any_rows = source.transform == WeightTransform::none || source.transform == WeightTransform::transpose;
    int64_t row_bytes = row_width(parameter) * static_cast<int64_t>(sizeof(float));
    int64_t step = any_rows ? std::max<int64_t>(1, kChunkBytes / row_bytes) : num_rows;
    for (int64_t begin = 0; begin < num_rows; begin += step) {
      all.push_back({parameter, source, begin, std::min(num_rows, begin + step)});
    }
  }
  return all;
}

ExitCode run_merge(const MergeCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  std::shared_ptr<Communicator> ranks = session.world();
  Context context = make_cpu_context(1);
  DType dtype = parse_dtype(options.common.dtype);
  OpenedModel base = open_model(with_task_head_of(options.adapter, options.common.model));
  if (base.reader == nullptr) fail_input("{}: a shape without weights; give a checkpoint", base.path);
  base.reader->verify_checksums(session.rank(), session.size());
  ranks->barrier();
  MergedWeights merged(base, options.adapter, context);
  std::vector<Rows> rows = split_into_rows(merged);
  std::vector<ConstantTensor> constants =
      base.definition.constants ? base.definition.constants(ModelFormat::huggingface) : std::vector<ConstantTensor>{};
  auto layout = make_layout(merged.model(), constants, dtype);
  OutputFolder folder(options.out);
  if (session.rank() == 0) {
    folder.prepare();
    // First, as a config may not be able to say everything.
    write_model_files(base, ModelFormat::huggingface, dtype, "", folder.partial());
    create_safetensors(folder.partial(), *layout);
  }
  ranks->barrier();
  SafetensorsWriter writer(folder.partial(), layout);
  std::optional<Progress> progress;  // ends before the last line
  progress.emplace("merging", layout->total_bytes(), session.rank() == 0 && !options.common.quiet);
  for (size_t i = 0; i < rows.size(); ++i) {
    progress->add(rows[i].num_elements() * static_cast<int64_t>(dtype_bytes(dtype)));
    if (i % static_cast<size_t>(session.size()) != static_cast<size_t>(session.rank())) continue;
    const std::vector<float>& values = merged.rows(rows[i].parameter, rows[i].source, rows[i].begin, rows[i].end);
    writer.write_run(rows[i].parameter.name,
                     rows[i].begin * row_width(rows[i].parameter),
                     static_cast<int64_t>(values.size()),
                     values.data(),
                     DType::f32);
  }
  for (const ConstantTensor& constant : constants) {
    if (session.rank() != 0) break;
    writer.write_run(constant.name, 0, constant.shape.num_elements(), constant.values.data(), DType::f32);
  }
  writer.sync();
  progress.reset();
  ranks->barrier();
  if (session.rank() == 0) {
    folder.publish();
    log::info("{}: {} with {} merged, {}", options.out, base.path, options.adapter, options.common.dtype);
  }
  ranks->barrier();
  return ExitCode::ok;
}

}  // namespace

void add_merge_command(Command program, CommandContext& context) {
  auto options = std::make_shared<MergeCommand>();
  Command command = program.add_subcommand("merge", "Adds a LoRA adapter to its base model's weights");
  command.footer(kFooter);
  add_model_options(command, options->common);
  command.add_option("--adapter", options->adapter, "Folder of the adapter, as PEFT or weft train wrote it").required();
  command.add_option("--out", options->out, "Folder to write").required();
  command.add_option("--dtype", options->common.dtype, "Type of the weights written, bf16 or f32")
      .check_one_of({"bf16", "f32"})
      .show_default();
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_merge(*options, session); }; });
}

}  // namespace weft
