// weft convert: a checkpoint in another format or dtype.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/gguf_writer.h"
#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "core/progress.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "launcher/new_tokens.h"
#include "launcher/output_folder.h"
#include "models/merged_weights.h"
#include "models/model_folder.h"
#include "models/model_gguf.h"
#include "models/weight_layout.h"
#include "tokenizer/wordpiece_vocabulary.h"

namespace weft {
namespace {

constexpr const char* kFooter = R"(Examples:
  weft convert --model chinese_L-12_H-768_A-12 --family bert --to safetensors --out bert-base-chinese
  weft convert --model bert-base-chinese --to keras --out bert-keras
  weft convert --model bert-keras --family bert --to tensorflow --dtype f32 --out bert-tensorflow
  weft convert --model bert-base-chinese --adapter runs/tuned/checkpoints/step-00000200 --to safetensors --out tuned
  weft convert --model runs/tuned/checkpoints/step-00000200 --to gguf --out tuned-gguf      (tuned-gguf/model.gguf, for llama.cpp)
  weft convert --model bert-base-chinese --add-tokens terms.txt --to safetensors --out bert-with-terms

Reads a tensor at a time. The folder that is written holds the weights, the config and the tokenizer's files.)";

struct ConvertCommand {
  CommonOptions common;
  std::string format, out, adapter, keep_tokens, add_tokens, dtype = "keep";
  bool simplifies = false;
};

/// A tensor of the target and the parameters that are in it, with where they come from.
struct Target {
  OutputTensor tensor;
  struct Part {
    const Parameter* parameter;
    WeightSource from, to;
    bool grows = false;  // gets rows of new tokens
  };
  std::vector<Part> parts;
  std::vector<Part> copies;  // other layers of a model whose layers are one in the target
};

ModelFormat parse_format(const std::string& name) {
  return name == "gguf"         ? ModelFormat::gguf
         : name == "keras"      ? ModelFormat::keras_hdf5
         : name == "tensorflow" ? ModelFormat::tensorflow
                                : ModelFormat::huggingface;
}

/// The vocab.txt beside the weights.
WordPieceVocabulary vocabulary_of(const std::string& model) {
  namespace fs = std::filesystem;
  fs::path folder = is_folder(model) ? fs::path(model) : fs::path(model).parent_path();
  if (!is_plain_file(folder / "vocab.txt")) {
    fail_input("{}: no vocab.txt lies beside the weights, whose tokens could be chosen from", printable(model));
  }
  return read_wordpiece_vocabulary((folder / "vocab.txt").string());
}

/// Ids of the tokens of a file, a token a line, in its order.
std::vector<int32_t> ids_of(const std::string& file, const WordPieceVocabulary& vocabulary) {
  std::map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) ids.emplace(vocabulary.tokens[id], static_cast<int32_t>(id));
  std::vector<int32_t> kept;
  for (const std::string& token : read_wordpiece_vocabulary(file).tokens) {
    auto found = ids.find(token);
    if (found == ids.end()) {
      fail_input("{}: token {} is not in {}", printable(file), printable(token), vocabulary.where);
    }
    kept.push_back(found->second);
  }
  for (const char* needed : {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}) {
    auto found = ids.find(needed);
    if (found == ids.end() || std::find(kept.begin(), kept.end(), found->second) != kept.end()) continue;
    fail_input("{}: token {} is missing, without which no text can be tokenised; add it", printable(file), needed);
  }
  return kept;
}

/// The tokens that simplified vocabularies of bert4keras begin with, those of them that there are.
std::vector<std::string> leading_tokens(const WordPieceVocabulary& vocabulary) {
  std::vector<std::string> leading;
  for (const char* token : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    const auto& all = vocabulary.tokens;
    if (std::find(all.begin(), all.end(), token) != all.end()) leading.emplace_back(token);
  }
  return leading;
}

/// With the adapter's layer and the tokens that are kept.
ModelOptions model_options(const ConvertCommand& options) {
  ModelOptions model = with_task_head_of(options.adapter, options.common.model);
  if (options.keep_tokens.empty() && !options.simplifies) return model;
  WordPieceVocabulary vocabulary = vocabulary_of(model.path);
  nlohmann::json overrides =
      model.overrides.empty() ? nlohmann::json::object() : nlohmann::json::parse(model.overrides);
  overrides["keep_tokens"] = options.simplifies
                                 ? simplify_vocabulary(vocabulary, leading_tokens(vocabulary)).keep_tokens
                                 : ids_of(options.keep_tokens, vocabulary);
  model.overrides = overrides.dump();
  return model;
}

/// "keep": as the checkpoint has it; f32 for what only an adapter brings. llama.cpp takes vectors in f32 alone.
DType target_dtype(const ConvertCommand& options, const Parameter& parameter, const TensorInfo* info) {
  if (options.format == "gguf" && parameter.full_shape.rank() == 1) return DType::f32;
  const std::string& name = options.dtype;
  if (name != "keep") return parse_dtype(name);
  return info == nullptr ? DType::f32 : info->dtype;
}

const std::vector<float>& read_whole(const Parameter& parameter, const WeightSource& from, MergedWeights& merged) {
  return merged.rows(parameter, from, 0, parameter.full_shape[0]);
}

/// Throws unless a parameter that the format has no place for is what the format takes it for.
void check_implied(const Parameter& parameter, float value, MergedWeights& merged, const std::string& path) {
  const std::vector<float>& values = read_whole(parameter, merged.source(parameter), merged);
  if (std::all_of(values.begin(), values.end(), [&](float element) { return element == value; })) return;
  fail_input("{}: {} has other elements than {}, and the format to write has no place for it; convert to keras",
             printable(path),
             parameter.name,
             value);
}

/// With rows of new tokens.
Parameter grown(const Parameter& parameter, const NewTokens& new_tokens) {
  Parameter larger = parameter;
  larger.full_shape.set(0, new_tokens.vocab_size);
  larger.local_shape = larger.full_shape;
  return larger;
}

std::vector<Target> plan_targets(const OpenedModel& opened,
                                 MergedWeights& merged,
                                 const NewTokens& new_tokens,
                                 const ConvertCommand& options) {
  WeightMap map = opened.definition.weights(parse_format(options.format));
  std::map<std::string, Target> targets;
  for (const Parameter& parameter : merged.model().parameters().all()) {
    if (std::optional<float> value = implied_value(map, parameter)) {
      check_implied(parameter, *value, merged, opened.path);
      continue;
    }
    WeightSource from = merged.source(parameter);
    WeightSource to = find_source(map, parameter, merged.model().info().num_layers);
    to.selection = nullptr;  // a vocabulary that is cut is written as it was cut
    Target& target = targets[to.theirs];
    DType dtype = target_dtype(options, parameter, opened.reader->find(from.theirs));
    bool grows = new_tokens.parameters.contains(parameter.name);
    Shape shape = grows ? format_shape(to, grown(parameter, new_tokens)) : format_shape(to, parameter);
    target.tensor = {.name = to.theirs, .shape = shape, .dtype = dtype};
    bool is_copy = to.part.total == 0 && !target.parts.empty();
    (is_copy ? target.copies : target.parts).push_back({&parameter, std::move(from), std::move(to), grows});
  }
  std::vector<Target> result;
  result.reserve(targets.size());
  for (auto& [name, target] : targets) result.push_back(std::move(target));
  return result;
}

void check_copies(const Target& target, MergedWeights& merged, const std::string& path) {
  if (target.copies.empty()) return;
  std::vector<float> values = read_whole(*target.parts[0].parameter, target.parts[0].from, merged);
  for (const Target::Part& copy : target.copies) {
    if (read_whole(*copy.parameter, copy.from, merged) == values) continue;
    fail_input("{}: {} and {} differ, and are one tensor in the format to write; convert to keras",
               path,
               target.parts[0].parameter->name,
               copy.parameter->name);
  }
}

/// The target's values, in f32.
std::vector<float> values_of(const Target& target, MergedWeights& merged, const NewTokens& new_tokens) {
  std::vector<float> whole(static_cast<size_t>(target.tensor.shape.num_elements()));
  for (const Target::Part& part : target.parts) {
    const Parameter& parameter = *part.parameter;
    const std::vector<float>& values = read_whole(parameter, part.from, merged);
    if (part.grows) {
      WEFT_ASSERT(part.to.part.total == 0, "{} is a part of {}", parameter.name, target.tensor.name);
      std::vector<float> all = new_tokens.grown(values, row_width(parameter));
      return to_format(part.to.transform, grown(parameter, new_tokens), all, false);
    }
    if (part.to.part.total == 0) return to_format(part.to.transform, parameter, values, false);
    copy_part(part.to, parameter, values.data(), whole.data());
  }
  return whole;
}

/// What is written where.
struct Output {
  const std::string& format;
  const std::vector<OutputTensor>& tensors;
  std::string folder;
};

/// The config and the tokenizer are written first, as they may not be able to say everything.
std::unique_ptr<CheckpointWriter> start_writing(const OpenedModel& opened,
                                                const ModelOptions& from,
                                                const NewTokens& new_tokens,
                                                const Output& output) {
  auto is_matrix = [](const OutputTensor& tensor) { return tensor.shape.rank() > 1; };
  auto first = std::ranges::find_if(output.tensors, is_matrix);
  DType dtype = first == output.tensors.end() ? DType::f32 : first->dtype;
  if (output.format == "gguf") {
    return make_gguf_writer(output.folder + "/model.gguf", gguf_entries(opened, dtype), output.tensors);
  }
  const bool grows = !new_tokens.empty();
  write_model_files(grows ? open_model(with_vocab_size(from, new_tokens.vocab_size)) : opened,
                    parse_format(output.format),
                    dtype,
                    "",
                    output.folder);
  if (grows) {
    write_new_tokens(new_tokens, output.folder);
  } else {
    write_compound_tokens(opened, output.folder);
  }
  return make_checkpoint_writer(output.format == "keras" ? "keras_hdf5" : output.format, output.folder, output.tensors);
}

ExitCode run_convert(const ConvertCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.size() > 1) fail(ExitCode::usage, "convert runs on one rank; start it without mpirun");
  if (options.format == "gguf" && !options.add_tokens.empty()) {
    fail(ExitCode::usage, "convert: add tokens on the way to safetensors, and make a GGUF file of that folder");
  }
  ModelOptions from = model_options(options);
  OpenedModel opened = open_model(from);
  if (opened.reader == nullptr) fail_input("{}: a shape without weights; give a checkpoint", opened.path);
  NewTokens new_tokens;
  if (!options.add_tokens.empty()) new_tokens = read_new_tokens(options.add_tokens, from, opened);
  opened.reader->verify_checksums(0, 1);
  Context context = make_cpu_context(1);
  MergedWeights merged(opened, options.adapter, context);
  std::vector<Target> targets = plan_targets(opened, merged, new_tokens, options);
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
  for (const Target& target : targets) check_copies(target, merged, opened.path);
  OutputFolder folder(options.out);
  folder.prepare();
  std::unique_ptr<CheckpointWriter> writer =
      start_writing(opened, from, new_tokens, {options.format, tensors, folder.partial()});
  std::optional<Progress> progress;  // ends before the last line
  progress.emplace("converting", total, !options.common.quiet);
  for (const Target& target : targets) {
    std::vector<float> values = values_of(target, merged, new_tokens);
    writer->write(target.tensor.name, 0, static_cast<int64_t>(values.size()), values.data(), DType::f32);
    progress->add(static_cast<int64_t>(values.size()));
  }
  for (const ConstantTensor& constant : constants) {
    writer->write(constant.name, 0, constant.shape.num_elements(), constant.values.data(), DType::f32);
  }
  writer->finish();
  progress.reset();
  folder.publish();
  log::info("{}: {} tensors of {} as {}", options.out, tensors.size(), opened.path, options.format);
  return ExitCode::ok;
}

}  // namespace

void add_convert_command(Command program, CommandContext& context) {
  auto options = std::make_shared<ConvertCommand>();
  Command command = program.add_subcommand("convert", "Writes a checkpoint in another format or dtype");
  command.footer(kFooter);
  add_model_options(command, options->common);
  command.add_option("--to", options->format, "Format to write")
      .check_one_of({"safetensors", "gguf", "keras", "tensorflow"})
      .required();
  command.add_option("--out", options->out, "Folder to write").required();
  command.add_option("--adapter", options->adapter, "Folder of a LoRA adapter to add to the weights");
  Option kept = command.add_option("--keep-tokens",
                                   options->keep_tokens,
                                   "File with the tokens to keep, one a line: cuts vocab.txt and the embedding");
  Option simplified = command.add_flag("--simplify-vocabulary",
                                       options->simplifies,
                                       "Drops tokens that no text needs (words of Chinese characters, [unused1], …)");
  simplified.excludes(kept);
  Option added = command.add_option("--add-tokens",
                                    options->add_tokens,
                                    "File with tokens to add to the vocabulary, one a line; each begins as the mean of "
                                    "the pieces that it was split into");
  added.excludes(kept);
  added.excludes(simplified);
  command.add_option("--dtype", options->dtype, "Type of the weights written; keep: as they are")
      .check_one_of({"keep", "bf16", "f32"})
      .show_default();
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_convert(*options, session); }; });
}

}  // namespace weft
