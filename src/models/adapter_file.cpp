#include "models/adapter_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "checkpoint/file.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/paths.h"
#include "models/initial_state.h"
#include "models/model_config.h"
#include "models/weight_layout.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kConfigName = "adapter_config.json";
constexpr const char* kWeightsName = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight";
constexpr std::string_view kSuffixB = ".lora_B.weight";
constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr int64_t kMaxRank = 1 << 16;
constexpr const char* kLora = "LORA";
/// Of whole parameters alone: what a recurrent model's sequences start from. Not PEFT's.
constexpr const char* kInitialState = "INITIAL_STATE";

/// Settings of PEFT that change what an adapter computes and that Weft does not do: anything but null, false, or empty.
constexpr std::array kRefused = {"use_dora",
                                 "use_qalora",
                                 "use_bdlora",
                                 "lora_bias",
                                 "rank_pattern",
                                 "alpha_pattern",
                                 "fan_in_fan_out",
                                 "layer_replication",
                                 "arrow_config",
                                 "trainable_token_indices",
                                 "target_parameters",
                                 "alora_invocation_tokens",
                                 "kasa_config",
                                 "velora_config",
                                 "monteclora_config"};

bool says_nothing(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) || (value.is_structured() && value.empty());
}

/// Asks a JSON object for fields of one type; the message says what there is instead.
class ConfigReader {
 public:
  ConfigReader(const Json& config, const std::string& path) : config_(config), path_(path) {}

  int64_t integer(const char* key, int64_t maximum) const {
    const Json* value = find(key);
    if (value == nullptr || !value->is_number_integer()) fail_field(key, "a whole number");
    auto number = value->get<int64_t>();
    if (number < 1 || number > maximum) fail_field(key, fmt::format("a number from 1 to {}", maximum));
    return number;
  }
  double number_or(const char* key, double fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number() || !std::isfinite(value->get<double>())) fail_field(key, "a number");
    return value->get<double>();
  }
  bool boolean_or(const char* key, bool fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) fail_field(key, "true or false");
    return value->get<bool>();
  }
  std::string string_or(const char* key, const char* fallback) const {
    const Json* value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail_field(key, "a string");
    return value->get<std::string>();
  }
  const Json* find(const char* key) const {
    auto found = config_.find(key);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }

  [[noreturn]] void fail_field(const char* key, const std::string& expected) const {
    const Json* value = find(key);
    fail_input("{}: '{}' is {}, expected {}",
               printable(path_),
               key,
               value == nullptr ? "absent" : printable(value->dump(-1, ' ', true, Json::error_handler_t::replace)),
               expected);
  }

 private:
  const Json& config_;
  const std::string& path_;
};

Json read_config(const std::string& path) {
  if (!path_exists(path)) {
    fail_input("{}: no such file; an adapter is a folder with {} and {}", printable(path), kConfigName, kWeightsName);
  }
  File file(path);
  if (file.size() > kMaxConfigBytes) {
    fail_input("{}: {} bytes, at most {} expected", printable(path), file.size(), kMaxConfigBytes);
  }
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), file.size());
  Json config = Json::parse(text, nullptr, false);
  if (!config.is_object()) fail_input("{}: no JSON object; damaged file", printable(path));
  return config;
}

void refuse_unsupported(const ConfigReader& reader) {
  std::string type = reader.string_or("peft_type", "");
  if (type == kInitialState) return;
  if (type != kLora) reader.fail_field("peft_type", "\"LORA\", the only kind of adapter of PEFT's that Weft runs");
  if (reader.string_or("bias", "none") != "none") reader.fail_field("bias", "\"none\": Weft trains no biases");
  const Json* initialisation = reader.find("init_lora_weights");
  // PiSSA, OLoRA, LoftQ and others: PEFT changes the base model's weights when it loads such an adapter.
  if (initialisation != nullptr && !initialisation->is_boolean() && *initialisation != "gaussian") {
    reader.fail_field("init_lora_weights",
                      "true, false or \"gaussian\": others may change the base model's weights; convert the adapter "
                      "with PEFT's save_pretrained(path_initial_model_for_weight_conversion=…)");
  }
  for (const char* key : kRefused) {
    const Json* value = reader.find(key);
    if (value != nullptr && !says_nothing(*value)) reader.fail_field(key, "none: Weft does not do this");
  }
}

LoraOptions read_options(const ConfigReader& reader) {
  LoraOptions options;
  if (reader.string_or("peft_type", "") == kInitialState) {
    options.rank = 0;
    return options;
  }
  options.rank = reader.integer("r", kMaxRank);
  options.alpha = reader.number_or("lora_alpha", 8);  // PEFT's default
  options.dropout = reader.number_or("lora_dropout", 0);
  if (options.dropout < 0 || options.dropout >= 1) reader.fail_field("lora_dropout", "a number in [0, 1)");
  options.rank_stabilised = reader.boolean_or("use_rslora", false);
  return options;
}

/// "model.layers.3.self_attn.q_proj" → 3, "self_attn.q_proj"
struct LayerModule {
  int64_t layer;
  std::string module;
};

std::optional<LayerModule> split_layer(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  LayerModule result{};
  const char* end = name.data() + name.size();
  auto [after, error] = std::from_chars(name.data() + kLayers.size(), end, result.layer);
  if (error != std::errc() || after == end || *after != '.') return std::nullopt;
  result.module.assign(after + 1, end);
  return result;
}

std::string last_part(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

/// What PEFT finds the module of a parameter by: the end of its name, as long as no other module's ends so; a
/// classifier of several layers is one module.
std::string module_to_save(const std::string& parameter) {
  constexpr std::string_view kClassifier = "classifier.";
  if (parameter.starts_with(kClassifier)) return std::string(kClassifier.substr(0, kClassifier.size() - 1));
  std::string module = parameter.substr(0, parameter.rfind('.'));
  std::string last = last_part(module);
  if (last != "dense" || module.size() == last.size()) return last;
  return last_part(module.substr(0, module.size() - last.size() - 1)) + "." + last;
}

struct Targets {
  std::vector<std::string> modules;
  std::vector<int64_t> layers;  // empty: all that there are
};

/// The shortest description of a set of layers: last parts of names and layer numbers where the set is all of their
/// combinations, else whole names.
Targets describe_targets(const std::vector<std::string>& names) {
  std::set<std::string> modules;
  std::set<int64_t> layers;
  for (const std::string& name : names) {
    std::optional<LayerModule> split = split_layer(name);
    if (!split) return {names, {}};
    modules.insert(last_part(split->module));
    layers.insert(split->layer);
  }
  if (modules.size() * layers.size() != names.size()) return {names, {}};
  return {{modules.begin(), modules.end()}, {layers.begin(), layers.end()}};
}

/// The layers that have a lora_A in the file. Other tensors are whole parameters, where the config speaks of them.
std::vector<std::string> adapted_layers(OpenedAdapter& opened, bool may_replace) {
  std::vector<std::string> layers;
  for (const std::string& name : opened.reader->names()) {
    bool is_factor = name.ends_with(kSuffixA) || name.ends_with(kSuffixB);
    if (!name.starts_with(kPrefix) || (!is_factor && (!may_replace || name.find("lora_") != std::string::npos))) {
      fail_input("{}: tensor {} is no lora_A or lora_B of a linear layer, which is all that Weft runs",
                 opened.reader->path(),
                 printable(name));
    }
    if (!is_factor) opened.replaced.push_back(name.substr(kPrefix.size()));
    if (name.ends_with(kSuffixA)) {
      layers.push_back(name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffixA.size()));
    }
  }
  bool needs_factors = opened.options.rank > 0;
  if (layers.empty() && (needs_factors || opened.replaced.empty())) {
    fail_input("{}: holds no {}", opened.reader->path(), needs_factors ? "lora_A" : "tensor");
  }
  return layers;
}

[[noreturn]] void fail_fit(const OpenedAdapter& opened, const std::string& what) {
  fail_input("{}: {}; is it the adapter of another model ({})?",
             opened.reader->path(),
             what,
             printable(opened.base_model.empty() ? "it names none" : opened.base_model));
}

void check_shape(const OpenedAdapter& opened, const std::string& name, const Shape& shape) {
  const TensorInfo* info = opened.reader->find(name);
  if (info == nullptr) fail_fit(opened, fmt::format("tensor {} is missing", name));
  if (info->shape == shape) return;
  fail_fit(opened, fmt::format("{} is {}, this model needs {}", name, to_string(info->shape), to_string(shape)));
}

void check_fits(const OpenedAdapter& opened, const Adapter& adapter) {
  const auto& parameters = adapter.parameters().all();
  std::set<std::string, std::less<>> known;
  for (const Parameter& parameter : parameters) {
    known.insert(parameter.name);
    check_shape(opened, parameter.name, parameter.full_shape);
  }
  for (const std::string& name : opened.replaced) known.insert(adapter_tensor_name(name));
  for (const std::string& name : opened.reader->names()) {
    if (known.count(name) == 0) fail_fit(opened, fmt::format("tensor {} has no place here", printable(name)));
  }
}

void read_slice(const OpenedAdapter& opened, const Parameter& parameter, Tensor& value) {
  std::vector<std::byte> rows(value.bytes());
  read_rows(*opened.reader,
            {.theirs = adapter_tensor_name(parameter.name)},
            parameter,
            0,
            parameter.local_shape[0],
            rows.data(),
            value.dtype());
  value.copy_from_host(rows.data());
}

}  // namespace

OpenedAdapter open_adapter(const std::string& folder) {
  std::string config_path = folder + "/" + kConfigName;
  std::string weights_path = folder + "/" + kWeightsName;
  Json config = read_config(config_path);
  ConfigReader reader(config, config_path);
  refuse_unsupported(reader);
  OpenedAdapter opened{.path = folder,
                       .base_model = reader.string_or("base_model_name_or_path", ""),
                       .options = read_options(reader),
                       .replaced = {},
                       .reader = nullptr};
  if (!path_exists(weights_path)) {
    fail_input("{}: no such file; an adapter saved as .bin must be saved again by a newer PEFT", weights_path);
  }
  opened.reader = open_safetensors(weights_path);
  Targets targets = describe_targets(adapted_layers(opened, reader.find("modules_to_save") != nullptr));
  opened.options.target_modules = std::move(targets.modules);
  opened.options.layers = std::move(targets.layers);
  return opened;
}

void read_adapter_weights(const Context& context, const OpenedAdapter& opened, Adapter& adapter, DType dtype) {
  check_fits(opened, adapter);
  for (Parameter& parameter : adapter.parameters().all()) {
    if (!parameter.value) parameter.value = context.empty(parameter.local_shape, dtype, MemoryTag::weights);
    read_slice(opened, parameter, parameter.value);
  }
}

std::vector<ReplacedParameter> read_replaced(const Context& context,
                                             const OpenedAdapter& opened,
                                             LanguageModel& model,
                                             DType dtype) {
  std::vector<ReplacedParameter> replaced;
  for (const std::string& name : opened.replaced) {
    Parameter* parameter = model.parameters().find(name);
    if (parameter == nullptr) fail_fit(opened, fmt::format("tensor {} has no place here", printable(name)));
    check_shape(opened, adapter_tensor_name(name), parameter->full_shape);
    replaced.push_back({parameter, context.empty(parameter->local_shape, dtype, MemoryTag::weights)});
    read_slice(opened, *parameter, replaced.back().value);
  }
  return replaced;
}

std::unique_ptr<Adapter> read_adapter(const Context& context,
                                      LanguageModel& model,
                                      const OpenedAdapter& opened,
                                      DType dtype) {
  auto adapter = std::make_unique<Adapter>(model, opened.options);
  read_adapter_weights(context, opened, *adapter, dtype);
  adapter->set_replaced(read_replaced(context, opened, model, dtype));
  return adapter;
}

std::unique_ptr<Adapter> load_adapter(const Context& context,
                                      LanguageModel& model,
                                      const OpenedAdapter& opened,
                                      DType dtype) {
  auto adapter = read_adapter(context, model, opened, dtype);
  adapter->replace_parameters();
  return adapter;
}

std::string adapter_tensor_name(const std::string& parameter_name) {
  return parameter_name.starts_with(kPrefix) ? parameter_name : std::string(kPrefix) + parameter_name;
}

/// PEFT's task_type, which decides what it wraps the model in.
static const char* peft_task(const ModelInfo& model) {
  switch (model.task_head.kind) {
    case TaskHead::Kind::none:
      return model.has_source ? "SEQ_2_SEQ_LM" : model.is_encoder ? "FEATURE_EXTRACTION" : "CAUSAL_LM";
    case TaskHead::Kind::sequence_classification:
      return "SEQ_CLS";
    case TaskHead::Kind::question_answering:
      return "QUESTION_ANS";
    default:
      return "TOKEN_CLS";
  }
}

std::string adapter_config_json(const LoraOptions& options,
                                const ParameterStore& parameters,
                                const std::vector<std::string>& whole_parameters,
                                const std::string& base_model,
                                const ModelInfo& model) {
  std::vector<std::string> names;
  for (const Parameter& parameter : parameters.all()) {
    const std::string& name = parameter.name;
    if (!name.ends_with(kSuffixA)) continue;
    names.push_back(name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffixA.size()));
  }
  Targets targets = describe_targets(names);
  std::set<std::string> whole_modules;
  for (const std::string& name : whole_parameters) {
    if (!name.starts_with(kPrefix)) whole_modules.insert(module_to_save(name));
  }
  Json config = {{"peft_type", "LORA"},
                 {"task_type", peft_task(model)},
                 {"base_model_name_or_path", base_model},
                 {"inference_mode", true},
                 {"r", options.rank},
                 {"lora_alpha", options.alpha},
                 {"lora_dropout", options.dropout},
                 {"use_rslora", options.rank_stabilised},
                 {"use_dora", false},
                 {"bias", "none"},
                 {"fan_in_fan_out", false},
                 {"init_lora_weights", true},
                 {"rank_pattern", Json::object()},
                 {"alpha_pattern", Json::object()},
                 {"target_modules", targets.modules},
                 {"layers_to_transform", targets.layers.empty() ? Json() : Json(targets.layers)},
                 {"modules_to_save", whole_modules.empty() ? Json() : Json(whole_modules)}};
  if (model.task_head.kind != TaskHead::Kind::none) config.update(Json::parse(task_head_overrides(model.task_head)));
  if (options.rank == 0) {
    config = {{"peft_type", kInitialState},
              {"base_model_name_or_path", base_model},
              {"modules_to_save", config["modules_to_save"]}};
  }
  std::string initial_state = initial_state_overrides(model.initial_state);
  if (!initial_state.empty()) config.update(Json::parse(initial_state));
  if (model.condition.is_new) config.update(Json::parse(condition_overrides(model.condition)));
  return config.dump(2) + "\n";
}

}  // namespace weft
