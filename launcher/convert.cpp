// weft convert: a checkpoint in another format or dtype.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <set>

#include "checkpoint/output_file.h"
#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "core/progress.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "models/model_folder.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFooter = R"(Examples:
  weft convert --model chinese_L-12_H-768_A-12 --family bert --to safetensors --out bert-base-chinese
  weft convert --model bert-base-chinese --to keras --out bert-keras
  weft convert --model bert-keras --family bert --to tensorflow --dtype f32 --out bert-tensorflow

Reads a tensor at a time. The folder that is written holds the weights, the config and the tokenizer's files.)";

struct ConvertCommand {
  CommonOptions common;
  std::string format, out, dtype = "keep";
};

/// A tensor of the target and the parameters that are in it, with where they come from.
struct Target {
  OutputTensor tensor;
  struct Part {
    const Parameter* parameter;
    WeightSource from, to;
  };
  std::vector<Part> parts;
  std::vector<Part> copies;  // other layers of a model whose layers are one in the target
};

ModelFormat parse_format(const std::string& name) {
  return name == "keras"        ? ModelFormat::keras_hdf5
         : name == "tensorflow" ? ModelFormat::tensorflow
                                : ModelFormat::huggingface;
}

std::vector<Target> plan_targets(const OpenedModel& opened, const LanguageModel& model, const ConvertCommand& options) {
  WeightMap map = opened.definition.weights(parse_format(options.format));
  std::map<std::string, Target> targets;
  for (const Parameter& parameter : model.parameters().all()) {
    WeightSource from = find_source(opened.weight_map(), parameter, model.info().num_layers);
    WeightSource to = find_source(map, parameter, model.info().num_layers);
    to.selection = nullptr;  // a vocabulary that is cut is written as it was cut
    const TensorInfo& info = opened.reader->info(from.theirs);
    Shape expected = format_shape(from, parameter);
    if (info.shape != expected) {
      fail_input("{}: {} is {}, config says {}; wrong config for these weights?",
                 info.file,
                 info.name,
                 to_string(info.shape),
                 to_string(expected));
    }
    Target& target = targets[to.theirs];
    DType dtype = options.dtype == "keep" ? info.dtype : options.dtype == "f32" ? DType::f32 : DType::bf16;
    target.tensor = {.name = to.theirs, .shape = format_shape(to, parameter), .dtype = dtype};
    bool is_copy = to.part.total == 0 && !target.parts.empty();
    (is_copy ? target.copies : target.parts).push_back({&parameter, std::move(from), std::move(to)});
  }
  std::vector<Target> result;
  result.reserve(targets.size());
  for (auto& [name, target] : targets) result.push_back(std::move(target));
  return result;
}

std::vector<float> read_whole(const Target::Part& part, const CheckpointReader& reader) {
  const Parameter& parameter = *part.parameter;
  std::vector<float> values(static_cast<size_t>(parameter.full_shape.num_elements()));
  read_rows(reader, part.from, parameter, 0, parameter.full_shape[0], values.data(), DType::f32);
  return values;
}

void check_copies(const Target& target, const CheckpointReader& reader) {
  if (target.copies.empty()) return;
  std::vector<float> values = read_whole(target.parts[0], reader);
  for (const Target::Part& copy : target.copies) {
    if (read_whole(copy, reader) == values) continue;
    fail_input("{}: {} and {} differ, and are one tensor in the format to write; convert to keras",
               reader.path(),
               target.parts[0].parameter->name,
               copy.parameter->name);
  }
}

/// The target's values, in f32.
std::vector<float> values_of(const Target& target, const CheckpointReader& reader) {
  std::vector<float> whole(static_cast<size_t>(target.tensor.shape.num_elements()));
  for (const Target::Part& part : target.parts) {
    const Parameter& parameter = *part.parameter;
    std::vector<float> values = read_whole(part, reader);
    if (part.to.part.total == 0) return to_format(part.to.transform, parameter, values, false);
    bool is_transposed = part.to.transform == WeightTransform::transpose;
    int64_t width = parameter.full_shape.rank() == 2 ? parameter.full_shape[1] : 1;
    for (int64_t i = 0; i < parameter.full_shape[0]; ++i) {
      for (int64_t j = 0; j < width; ++j) {
        int64_t row = part.to.part.begin + i;
        int64_t at = is_transposed ? j * part.to.part.total + row : row * width + j;
        whole[static_cast<size_t>(at)] = values[static_cast<size_t>(i * width + j)];
      }
    }
  }
  return whole;
}

std::string partial_folder(const std::string& out) {
  return (fs::path(out) / "").parent_path().string() + ".partial";
}

void prepare_folder(const std::string& out) {
  std::error_code error;
  if (path_exists(out) && !fs::is_empty(out, error)) {
    fail_input("--out {}: exists already; name a new folder, or delete it", printable(out));
  }
  fs::remove_all(partial_folder(out), error);
  if (!fs::create_directories(partial_folder(out), error) && error) {
    fail_input("--out {}: cannot be made: {}", printable(out), error.message());
  }
}

ExitCode run_convert(const ConvertCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.size() > 1) fail(ExitCode::usage, "convert runs on one rank; start it without mpirun");
  OpenedModel opened = open_model(options.common.model);
  if (opened.reader == nullptr) fail_input("{}: a shape without weights; give a checkpoint", opened.path);
  if (opened.definition.decoder && options.format != "safetensors") {
    fail_input("{}: only safetensors are written of {} models", printable(opened.path), opened.info().family);
  }
  opened.reader->verify_checksums(0, 1);
  std::unique_ptr<LanguageModel> model = opened.make({});
  std::vector<Target> targets = plan_targets(opened, *model, options);
  std::vector<ConstantTensor> constants = opened.definition.constants
                                              ? opened.definition.constants(parse_format(options.format))
                                              : std::vector<ConstantTensor>{};
  std::vector<OutputTensor> tensors;
  tensors.reserve(targets.size() + constants.size());
  int64_t total = 0;
  for (const Target& target : targets) tensors.push_back(target.tensor);
  for (const ConstantTensor& constant : constants) {
    tensors.push_back({.name = constant.name, .shape = constant.shape, .dtype = DType::f32});
  }
  for (const OutputTensor& tensor : tensors) total += tensor.shape.num_elements();
  for (const Target& target : targets) check_copies(target, *opened.reader);
  prepare_folder(options.out);
  std::string partial = partial_folder(options.out);
  std::unique_ptr<CheckpointWriter> writer =
      make_checkpoint_writer(options.format == "keras" ? "keras_hdf5" : options.format, partial, tensors);
  Progress progress("converting", total, !options.common.quiet);
  for (const Target& target : targets) {
    std::vector<float> values = values_of(target, *opened.reader);
    writer->write(target.tensor.name, 0, static_cast<int64_t>(values.size()), values.data(), DType::f32);
    progress.add(static_cast<int64_t>(values.size()));
  }
  for (const ConstantTensor& constant : constants) {
    writer->write(constant.name, 0, constant.shape.num_elements(), constant.values.data(), DType::f32);
  }
  writer->finish();
  write_converted_files(opened, parse_format(options.format), tensors.empty() ? DType::f32 : tensors[0].dtype, partial);
  for (const fs::directory_entry& entry : fs::directory_iterator(partial)) sync_file(entry.path().string());
  sync_directory(partial);
  std::error_code ignored;
  fs::remove(options.out, ignored);  // an empty folder
  rename_durably(partial, options.out);
  log::info("{}: {} tensors of {} as {}", options.out, tensors.size(), opened.path, options.format);
  return ExitCode::ok;
}

}  // namespace

void add_convert_command(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<ConvertCommand>();
  CLI::App* command = app.add_subcommand("convert", "Writes a checkpoint in another format or dtype");
  command->footer(kFooter);
  add_model_options(*command, options->common);
  command->add_option("--to", options->format, "Format to write")
      ->check(CLI::IsMember({"safetensors", "keras", "tensorflow"}))
      ->required();
  command->add_option("--out", options->out, "Folder to write")->required();
  command->add_option("--dtype", options->dtype, "Type of the weights written; keep: as they are")
      ->check(CLI::IsMember({"keep", "bf16", "f32"}))
      ->capture_default_str();
  add_output_options(*command, options->common);
  command->callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_convert(*options, session); }; });
}

}  // namespace weft
