// weft inspect: what a model or a bare checkpoint is and what it would need, from its metadata alone.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "core/paths.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/model_summary.h"
#include "launcher/mpi_session.h"
#include "models/weight_match.h"
#include "nn/kv_cache.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft inspect SmolLM2-135M-Instruct.Q4_1.gguf
  weft inspect gemma-2-27b --tensors
  weft inspect seed/llama-gqa --family llama --json
  weft inspect configs/models/llama3-8b.json
  weft inspect unknown.pth --tensors

Reads metadata only: a checkpoint of 54 GB takes no longer than a small one. Of a checkpoint that does not open as a
model, for want of a config or a family, it says what the files hold and what is wanting.)";

struct InspectCommand {
  CommonOptions common;
  bool lists_tensors = false;
  bool prints_json = false;
};

struct Stored {
  int64_t tensors = 0;
  int64_t bytes = 0;
};

/// By the file's own word for the type.
std::map<std::string, Stored> count_storage_types(const CheckpointReader* reader) {
  std::map<std::string, Stored> types;
  if (reader == nullptr) return types;
  for (const std::string& name : reader->names()) {
    const TensorInfo& info = reader->info(name);
    ++types[info.storage_type].tensors;
    types[info.storage_type].bytes += info.stored_bytes;
  }
  return types;
}

Json describe_weights(const CheckpointReader* reader) {
  Stored all;
  Json types = Json::object();
  for (const auto& [type, stored] : count_storage_types(reader)) {
    types[type] = {{"tensors", stored.tensors}, {"bytes", stored.bytes}};
    all.tensors += stored.tensors;
    all.bytes += stored.bytes;
  }
  return {{"tensors", all.tensors},
          {"bytes", all.bytes},
          {"file_format", reader == nullptr ? Json(nullptr) : Json(reader->format())},
          {"types", types}};
}

/// How a conversation is written: the tokenizer's template is recognised, unknown, or absent.
std::string chat_state(const Tokenizer& tokenizer) {
  try {
    ChatMessage message{.role = "user", .content = "x"};
    render_chat(tokenizer, {&message, 1}, true);
    return "known";
  } catch (const Error&) {
    return tokenizer.chat_template().empty() ? "none" : "not recognised";
  }
}

Json describe_tokenizer(const std::string& path) {
  try {
    std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(path);
    return {{"type", tokenizer->type()},
            {"vocab_size", tokenizer->vocab_size()},
            {"end_ids", tokenizer->end_ids()},
            {"chat_template", chat_state(*tokenizer)}};
  } catch (const Error& error) {
    return {{"error", error.what()}};
  }
}

/// The cache only of models that generate.
Json describe_needs(const LanguageModel& model) {
  constexpr int64_t kTokens = 4096;
  Json needs = Json::object();
  Context context = make_cpu_context(1);
  for (DType dtype : {DType::bf16, DType::f32}) {
    int64_t weights = 0;
    for (const Parameter& parameter : model.parameters().all()) {
      weights += parameter_bytes(context, parameter, {.dtype = dtype});
    }
    Json& of_type = needs[std::string(dtype_name(dtype))] = {{"weights", weights}};
    if (model.info().attention == AttentionPattern::bidirectional) continue;
    of_type["kv_cache_of_4096_tokens"] = model.kv_cache_shape(dtype).bytes(1, kTokens);
  }
  return needs;
}

Json printable_names(const std::vector<std::string>& names) {
  Json list = Json::array();
  for (const std::string& name : names) list.push_back(printable(name, 400));
  return list;
}

/// Whether the model and the checkpoint fit; null of a shape.
Json describe_match(const OpenedModel& opened, const LanguageModel& model) {
  if (opened.reader == nullptr) return nullptr;
  try {
    WeightMatch match = match_weights(opened, model);
    return {{"matched", match.num_matched},
            {"not_needed", match.ignored.size()},
            {"missing", printable_names(match.missing)},
            {"other_shapes", printable_names(match.mismatched)},
            {"unused", printable_names(match.unused)}};
  } catch (const Error& error) {
    return {{"error", error.what()}};
  }
}

Json describe_tensors(const CheckpointReader* reader) {
  Json tensors = Json::array();
  if (reader == nullptr) return tensors;
  for (const std::string& name : reader->names()) {
    const TensorInfo& info = reader->info(name);
    tensors.push_back({{"name", printable(name, 400)},
                       {"shape", std::vector<int64_t>(info.shape.begin(), info.shape.end())},
                       {"type", info.storage_type},
                       {"bytes", info.stored_bytes},
                       {"file", std::filesystem::path(info.file).filename().string()}});
  }
  return tensors;
}

Json describe(const InspectCommand& options, const OpenedModel& opened) {
  auto model = opened.make({});
  const ModelInfo& info = model->info();
  Json result = {{"model", opened.path},
                 {"format", opened.reader == nullptr ? "shape" : std::string(model_format_name(opened.format))},
                 {"family", info.family},
                 {"parameters", count_parameters(*model)},
                 {"layers", info.num_layers},
                 {"hidden_size", info.hidden_size},
                 {"intermediate_size", info.intermediate_size},
                 {"heads", info.num_heads},
                 {"kv_heads", info.num_kv_heads},
                 {"head_dim", info.head_dim},
                 {"vocab_size", info.vocab_size},
                 {"context", info.max_positions},
                 {"tied_embedding", info.tied_embedding},
                 {"weights", describe_weights(opened.reader.get())},
                 {"match", describe_match(opened, *model)},
                 {"tokenizer", opened.reader == nullptr ? Json(nullptr) : describe_tokenizer(opened.path)},
                 {"needs_bytes", describe_needs(*model)}};
  if (options.lists_tensors) result["tensor_list"] = describe_tensors(opened.reader.get());
  return result;
}

/// Of a checkpoint that does not open as a model, for the reason that `problem` says.
Json describe_checkpoint(const InspectCommand& options, const CheckpointReader& reader, const std::string& problem) {
  int64_t elements = 0;
  for (const std::string& name : reader.names()) elements += reader.info(name).shape.num_elements();
  Json result = {{"model", options.common.model.path},
                 {"format", reader.format()},
                 {"family", nullptr},
                 {"problem", problem},
                 {"parameters", elements},
                 {"weights", describe_weights(&reader)},
                 {"tokenizer", describe_tokenizer(options.common.model.path)}};
  if (options.lists_tensors) result["tensor_list"] = describe_tensors(&reader);
  return result;
}

std::string tokenizer_text(const Json& tokenizer) {
  if (tokenizer.is_null()) return "none";
  if (tokenizer.contains("error")) return "none that can be used: " + tokenizer["error"].get<std::string>();
  return fmt::format("{}, {} ids, chat template {}",
                     tokenizer["type"].get<std::string>(),
                     tokenizer["vocab_size"].get<int64_t>(),
                     tokenizer["chat_template"].get<std::string>());
}

void print_weights(const Json& weights) {
  fmt::print(
      "weights     {} tensors, {}", weights["tensors"].get<int64_t>(), format_bytes(weights["bytes"].get<int64_t>()));
  if (!weights["file_format"].is_null()) fmt::print(" ({})", weights["file_format"].get<std::string>());
  const char* separator = ": ";
  for (const auto& [type, stored] : weights["types"].items()) {
    fmt::print("{}{} {}", separator, stored["tensors"].get<int64_t>(), type);
    separator = ", ";
  }
  fmt::print("\n");
}

void print_names(const char* label, const Json& names) {
  constexpr size_t kMostShown = 10;
  if (names.empty()) return;
  fmt::print("{:<11} {}: ", label, names.size());
  for (size_t i = 0; i < std::min(names.size(), kMostShown); ++i) {
    fmt::print("{}{}", i == 0 ? "" : ", ", names[i].get<std::string>());
  }
  fmt::print("{}\n", names.size() > kMostShown ? ", … (--json lists all)" : "");
}

void print_match(const Json& match, int64_t num_tensors) {
  if (match.is_null()) return;
  if (match.contains("error")) {
    fmt::print("unreadable  {}\n", match["error"].get<std::string>());
    return;
  }
  fmt::print("matched     {} of the file's {} tensors", match["matched"].get<int64_t>(), num_tensors);
  if (match["not_needed"].get<int64_t>() > 0) fmt::print(", {} not needed", match["not_needed"].get<int64_t>());
  fmt::print("\n");
  print_names("missing", match["missing"]);
  print_names("other shape", match["other_shapes"]);
  print_names("unused", match["unused"]);
}

void print_tensors(const Json& tensors) {
  for (const Json& tensor : tensors) {
    fmt::print("{:<60} {:<8} {:<20} {:>12} {}\n",
               tensor["name"].get<std::string>(),
               tensor["type"].get<std::string>(),
               tensor["shape"].dump(),
               tensor["bytes"].get<int64_t>(),
               tensor["file"].get<std::string>());
  }
}

void print_checkpoint(const Json& d) {
  fmt::print("checkpoint  {} ({})\n", d["model"].get<std::string>(), d["format"].get<std::string>());
  fmt::print("no model    {}\n", d["problem"].get<std::string>());
  if (d["format"] != "gguf") {
    fmt::print("needed      a config.json beside it or --config FILE; --family NAME where the config names none\n");
  }
  fmt::print("parameters  {}\n", format_count(d["parameters"].get<int64_t>()));
  print_weights(d["weights"]);
  fmt::print("tokenizer   {}\n", tokenizer_text(d["tokenizer"]));
}

void print_model(const Json& d) {
  auto number = [&](const char* key) { return d[key].get<int64_t>(); };
  fmt::print("model       {} ({})\n", d["model"].get<std::string>(), d["format"].get<std::string>());
  fmt::print("family      {}\n", d["family"].get<std::string>());
  fmt::print("parameters  {}{}\n",
             format_count(number("parameters")),
             d["tied_embedding"].get<bool>() ? ", output head tied to the token table" : "");
  fmt::print("shape       {} layers, hidden {}, feed-forward {}, {} heads of {} ({} key/value), vocabulary {}\n",
             number("layers"),
             number("hidden_size"),
             number("intermediate_size"),
             number("heads"),
             number("head_dim"),
             number("kv_heads"),
             number("vocab_size"));
  fmt::print("context     {} tokens\n", number("context") == 0 ? "any number of" : std::to_string(number("context")));
  print_weights(d["weights"]);
  print_match(d["match"], d["weights"]["tensors"].get<int64_t>());
  fmt::print("tokenizer   {}\n", tokenizer_text(d["tokenizer"]));
  for (const auto& [dtype, needs] : d["needs_bytes"].items()) {
    fmt::print("in {:<8} {} of weights", dtype, format_bytes(needs["weights"].get<int64_t>()));
    auto cache = needs.find("kv_cache_of_4096_tokens");
    if (cache != needs.end()) fmt::print(", {} of cache for 4096 tokens", format_bytes(cache->get<int64_t>()));
    fmt::print("\n");
  }
}

Json describe_path(const InspectCommand& options) {
  const std::string& path = options.common.model.path;
  try {
    return describe(options, open_model(options.common.model));
  } catch (const Error& error) {
    bool is_shape = is_plain_file(path) && path.ends_with(".json") && !path.ends_with(".index.json");
    if (error.code() != ExitCode::bad_input || is_shape) throw;
    return describe_checkpoint(options, *open_checkpoint(path), error.what());
  }
}

ExitCode run_inspect(const InspectCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.rank() != 0) return ExitCode::ok;
  Json description = describe_path(options);
  if (options.prints_json) {
    fmt::print("{}\n", description.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    description.contains("problem") ? print_checkpoint(description) : print_model(description);
    if (description.contains("tensor_list")) print_tensors(description["tensor_list"]);
  }
  return ExitCode::ok;
}

}  // namespace

void add_inspect_command(Command program, CommandContext& context) {
  auto options = std::make_shared<InspectCommand>();
  Command command = program.add_subcommand("inspect", "Says what a model is and what it would need");
  command.footer(kFooter);
  add_model_options(command, options->common);
  command.get_option("--model").required(false);
  command.add_option("MODEL", options->common.model.path, "The same as --model");
  command.add_flag("--tensors", options->lists_tensors, "Lists every tensor");
  command.add_flag("--json", options->prints_json, "Prints a JSON object");
  add_output_options(command, options->common);
  command.callback([options, &context] {
    if (options->common.model.path.empty()) fail_missing("MODEL");
    context.run = [options](MpiSession& session) { return run_inspect(*options, session); };
  });
}

}  // namespace weft
