// weft merge: adds an adapter to its base model's weights, parameter by parameter.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "checkpoint/reader.h"
#include "checkpoint/safetensors_writer.h"
#include "core/log.h"
#include "core/paths.h"
#include "core/progress.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "models/adapter_file.h"
#include "models/model_folder.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

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

  int64_t width() const { return parameter.full_shape.rank() == 1 ? 1 : parameter.full_shape[1]; }
};

class Merger {
 public:
  Merger(const OpenedModel& base, const OpenedAdapter& opened, const Context& context)
      : base_(base), opened_(opened), model_(base.make({})) {
    adapter_ = read_adapter(context, *model_, opened, DType::f32);
  }

  std::shared_ptr<const SafetensorsLayout> layout(DType dtype) const {
    std::vector<OutputTensor> tensors;
    for (const Parameter& parameter : model_->parameters().all()) {
      tensors.push_back({parameter.name, parameter.full_shape, dtype});
    }
    return std::make_shared<SafetensorsLayout>("model", std::move(tensors));
  }

  std::vector<Rows> split_into_rows() const {
    std::vector<Rows> all;
    for (const Parameter& parameter : model_->parameters().all()) {
      Rows rows{
          parameter, find_source(base_.weight_map(), parameter, model_->info().num_layers), 0, parameter.full_shape[0]};
      check(rows);
      // Other layouts are read faster, or only, as a whole.
      bool any_rows =
          rows.source.transform == WeightTransform::none || rows.source.transform == WeightTransform::transpose;
      int64_t row_bytes = rows.width() * static_cast<int64_t>(sizeof(float));
      int64_t step = any_rows ? std::max<int64_t>(1, kChunkBytes / row_bytes) : rows.end;
      for (int64_t begin = 0; begin < parameter.full_shape[0]; begin += step) {
        all.push_back({parameter, rows.source, begin, std::min(parameter.full_shape[0], begin + step)});
      }
    }
    return all;
  }

  /// W + scale · B·A, summed in f32.
  const std::vector<float>& merge(const Rows& rows) {
    values_.resize(static_cast<size_t>((rows.end - rows.begin) * rows.width()));
    for (const ReplacedParameter& one : adapter_->replaced()) {
      if (one.parameter != &rows.parameter) continue;
      const float* source = one.value.data<float>() + rows.begin * rows.width();
      std::copy(source, source + values_.size(), values_.begin());
      return values_;
    }
    read_rows(*base_.reader, rows.source, rows.parameter, rows.begin, rows.end, values_.data(), DType::f32);
    add_update(rows);
    return values_;
  }

 private:
  void check(const Rows& rows) const {
    const TensorInfo& info = base_.reader->info(rows.source.theirs);
    Shape expected = format_shape(rows.source, rows.parameter);
    if (info.shape == expected) return;
    fail_input("{}: {} is {}, config says {}; wrong config for these weights?",
               info.file,
               info.name,
               to_string(info.shape),
               to_string(expected));
  }

  void add_update(const Rows& rows) {
    constexpr std::string_view kWeight = ".weight";
    const std::string& name = rows.parameter.name;
    if (!name.ends_with(kWeight)) return;
    std::string stem = adapter_tensor_name(name.substr(0, name.size() - kWeight.size()));
    const Parameter* a = adapter_->parameters().find(stem + ".lora_A.weight");
    const Parameter* b = adapter_->parameters().find(stem + ".lora_B.weight");
    if (a == nullptr || b == nullptr) return;
    int64_t rank = a->full_shape[0];
    auto scale = static_cast<float>(opened_.options.scale());
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      float* target = values_.data() + (row - rows.begin) * rows.width();
      for (int64_t k = 0; k < rank; ++k) {
        float factor = scale * b->value.data<float>()[row * rank + k];
        const float* source = a->value.data<float>() + k * rows.width();
        for (int64_t column = 0; column < rows.width(); ++column) target[column] += factor * source[column];
      }
    }
  }

  const OpenedModel& base_;
  const OpenedAdapter& opened_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Adapter> adapter_;
  std::vector<float> values_;
};

/// What is written goes into a folder beside the final one until it is complete.
std::string partial_folder(const MergeCommand& options) {
  return (fs::path(options.out) / "").parent_path().string() + ".partial";
}

void prepare_folder(const MergeCommand& options, const SafetensorsLayout& layout) {
  std::error_code error;
  if (path_exists(options.out) && !fs::is_empty(options.out, error)) {
    fail_input("--out {}: exists already; name a new folder, or delete it", printable(options.out));
  }
  std::string partial = partial_folder(options);
  fs::remove_all(partial, error);
  if (!fs::create_directories(partial, error) && error) {
    fail_input("--out {}: cannot be made: {}", printable(options.out), error.message());
  }
  create_safetensors(partial, layout);
}

void publish_folder(const MergeCommand& options, const OpenedModel& base, DType dtype) {
  std::string partial = partial_folder(options);
  write_model_files(base, dtype, "", partial);
  for (const fs::directory_entry& entry : fs::directory_iterator(partial)) sync_file(entry.path().string());
  sync_directory(partial);
  std::error_code ignored;
  fs::remove(options.out, ignored);  // an empty folder
  rename_durably(partial, options.out);
}

ExitCode run_merge(const MergeCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  std::shared_ptr<Communicator> ranks = session.world();
  Context context = make_cpu_context(1);
  DType dtype = parse_dtype(options.common.dtype);
  OpenedModel base = open_model(options.common.model);
  if (base.reader == nullptr) fail_input("{}: a shape without weights; give a checkpoint", base.path);
  OpenedAdapter opened = open_adapter(options.adapter);
  Merger merger(base, opened, context);
  auto layout = merger.layout(dtype);
  if (session.rank() == 0) prepare_folder(options, *layout);
  ranks->barrier();
  std::vector<Rows> rows = merger.split_into_rows();
  SafetensorsWriter writer(partial_folder(options), layout);
  Progress progress("merging", layout->total_bytes(), session.rank() == 0 && !options.common.quiet);
  for (size_t i = 0; i < rows.size(); ++i) {
    progress.add((rows[i].end - rows[i].begin) * rows[i].width() * static_cast<int64_t>(dtype_bytes(dtype)));
    if (i % static_cast<size_t>(session.size()) != static_cast<size_t>(session.rank())) continue;
    const std::vector<float>& values = merger.merge(rows[i]);
    writer.write_run(rows[i].parameter.name,
                     rows[i].begin * rows[i].width(),
                     static_cast<int64_t>(values.size()),
                     values.data(),
                     DType::f32);
  }
  writer.sync();
  ranks->barrier();
  if (session.rank() == 0) {
    publish_folder(options, base, dtype);
    log::info("{}: {} with {} merged, {}", options.out, base.path, options.adapter, options.common.dtype);
  }
  ranks->barrier();
  return ExitCode::ok;
}

}  // namespace

void add_merge_command(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<MergeCommand>();
  CLI::App* command = app.add_subcommand("merge", "Adds a LoRA adapter to its base model's weights");
  command->footer(kFooter);
  add_model_options(*command, options->common);
  command->add_option("--adapter", options->adapter, "Folder of the adapter, as PEFT or weft train wrote it")
      ->required();
  command->add_option("--out", options->out, "Folder to write")->required();
  command->add_option("--dtype", options->common.dtype, "Type of the weights written, bf16 or f32")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  add_output_options(*command, options->common);
  command->callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_merge(*options, session); }; });
}

}  // namespace weft
