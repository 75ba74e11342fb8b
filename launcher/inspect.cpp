// weft inspect: what a model is and what it would need, from its metadata alone.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/reader.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/model_summary.h"
#include "launcher/mpi_session.h"
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

Reads metadata only: a checkpoint of 54 GB takes no longer than a small one.)";

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
std::map<std::string, Stored> count_storage_types(const OpenedModel& opened) {
  std::map<std::string, Stored> types;
  if (opened.reader == nullptr) return types;
  for (const std::string& name : opened.reader->names()) {
    const TensorInfo& info = opened.reader->info(name);
    ++types[info.storage_type].tensors;
    types[info.storage_type].bytes += info.stored_bytes;
  }
  return types;
}

Json describe_weights(const OpenedModel& opened) {
  Stored all;
  Json types = Json::object();
  for (const auto& [type, stored] : count_storage_types(opened)) {
    types[type] = {{"tensors", stored.tensors}, {"bytes", stored.bytes}};
    all.tensors += stored.tensors;
    all.bytes += stored.bytes;
  }
  return {{"tensors", all.tensors}, {"bytes", all.bytes}, {"types", types}};
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

Json describe_tokenizer(const OpenedModel& opened) {
  if (opened.reader == nullptr) return nullptr;
  try {
    std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(opened.path);
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

Json describe_tensors(const OpenedModel& opened) {
  Json tensors = Json::array();
  if (opened.reader == nullptr) return tensors;
  for (const std::string& name : opened.reader->names()) {
    const TensorInfo& info = opened.reader->info(name);
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
                 {"weights", describe_weights(opened)},
                 {"tokenizer", describe_tokenizer(opened)},
                 {"needs_bytes", describe_needs(*model)}};
  if (options.lists_tensors) result["tensor_list"] = describe_tensors(opened);
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
  const char* separator = ": ";
  for (const auto& [type, stored] : weights["types"].items()) {
    fmt::print("{}{} {}", separator, stored["tensors"].get<int64_t>(), type);
    separator = ", ";
  }
  fmt::print("\n");
}

void print_text(const Json& d) {
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
  fmt::print("tokenizer   {}\n", tokenizer_text(d["tokenizer"]));
  for (const auto& [dtype, needs] : d["needs_bytes"].items()) {
    fmt::print("in {:<8} {} of weights", dtype, format_bytes(needs["weights"].get<int64_t>()));
    auto cache = needs.find("kv_cache_of_4096_tokens");
    if (cache != needs.end()) fmt::print(", {} of cache for 4096 tokens", format_bytes(cache->get<int64_t>()));
    fmt::print("\n");
  }
  if (!d.contains("tensor_list")) return;
  for (const Json& tensor : d["tensor_list"]) {
    fmt::print("{:<60} {:<8} {:<20} {:>12} {}\n",
               tensor["name"].get<std::string>(),
               tensor["type"].get<std::string>(),
               tensor["shape"].dump(),
               tensor["bytes"].get<int64_t>(),
               tensor["file"].get<std::string>());
  }
}

ExitCode run_inspect(const InspectCommand& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.rank() != 0) return ExitCode::ok;
  OpenedModel opened = open_model(options.common.model);
  Json description = describe(options, opened);
  if (options.prints_json) {
    fmt::print("{}\n", description.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    print_text(description);
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
