#include "models/adapter.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <sstream>

#include "core/error.h"
#include "models/dropout_sites.h"
#include "models/model.h"
#include "ops/low_rank.h"

namespace weft {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr int64_t kMaxRank = 1 << 16;

/// * stands for anything. Goes back to the last star only: time is the product of the lengths at most.
bool matches_pattern(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, after_star = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      after_star = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++after_star;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

/// A target is the end of a layer's name, in whole parts, or a pattern of all of it.
bool is_target(const std::string& target, const std::string& name) {
  if (target.find('*') != std::string::npos) return matches_pattern(target, name);
  return name == target || name.ends_with("." + target);
}

std::string known_layers(const std::vector<NamedLinear>& linears) {
  std::set<std::string> last_parts;
  for (const NamedLinear& one : linears) last_parts.insert(one.name.substr(one.name.rfind('.') + 1));
  std::string text;
  for (const std::string& part : last_parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

/// The number in a layer's name, "encoder.block.3.layer.0.SelfAttention.q" → 3, its block's in its stack; −1 for none.
int64_t block_number(const std::string& name) {
  std::istringstream parts(name);
  for (std::string part; std::getline(parts, part, '.');) {
    int64_t number = 0;
    const char* end = part.data() + part.size();
    auto [after, error] = std::from_chars(part.data(), end, number);
    if (error == std::errc() && after == end) return number;
  }
  return -1;
}

void check_options(const LoraOptions& options, const std::vector<NamedLinear>& linears) {
  if (options.rank < 1 || options.rank > kMaxRank) fail_input("LoRA: rank {} is not in 1 … {}", options.rank, kMaxRank);
  if (!(options.dropout >= 0 && options.dropout < 1)) fail_input("LoRA: dropout {} is not in [0, 1)", options.dropout);
  if (!std::isfinite(options.alpha)) fail_input("LoRA: alpha {} is not a number to scale by", options.alpha);
  int64_t last = -1;
  for (const NamedLinear& one : linears) last = std::max(last, block_number(one.name));
  for (int64_t layer : options.layers) {
    if (layer >= 0 && layer <= last) continue;
    if (last < 0) fail_input("LoRA: layer {} was chosen, but this model's blocks have no numbers", layer);
    fail_input("LoRA: there is no layer {}; the model has layers 0 … {}", layer, last);
  }
}

std::vector<NamedLinear> choose_linears(const std::vector<NamedLinear>& all, const LoraOptions& options) {
  std::vector<NamedLinear> chosen;
  std::set<std::string> used;
  for (const NamedLinear& one : all) {
    bool matches = options.target_modules.empty();
    for (const std::string& target : options.target_modules) {
      if (!is_target(target, one.name)) continue;
      matches = true;
      used.insert(target);
    }
    bool in_layers =
        options.layers.empty() || std::count(options.layers.begin(), options.layers.end(), block_number(one.name)) > 0;
    if (matches && in_layers) chosen.push_back(one);
  }
  for (const std::string& target : options.target_modules) {
    if (used.count(target) == 0) {
      fail_input("LoRA: '{}' matches no layer of this model; its blocks have {}", printable(target), known_layers(all));
    }
  }
  if (chosen.empty()) fail_input("LoRA: no layer of this model is chosen; its blocks have {}", known_layers(all));
  return chosen;
}

bool is_split_over_inputs(ShardKind kind) {
  return kind == ShardKind::columns || kind == ShardKind::head_columns;
}

float uniform_value(const RandomKey& key, int64_t index, float bound) {
  return (2 * key.uniform(static_cast<uint64_t>(index)) - 1) * bound;
}

/// PEFT's: Kaiming uniform with a = √5, which is uniform in ±1/√in_features.
void fill_factor_a(Parameter& a, const RandomKey& key) {
  int64_t full_width = a.full_shape[1];
  int64_t columns = a.local_shape[1];
  int64_t column_begin = a.range.dim == 1 ? a.range.begin : 0;
  float bound = 1 / std::sqrt(static_cast<float>(full_width));
  std::vector<float> row(static_cast<size_t>(columns));
  for (int64_t i = 0; i < a.local_shape[0]; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      row[static_cast<size_t>(j)] = uniform_value(key, i * full_width + column_begin + j, bound);
    Tensor target = a.value.slice(i, i + 1);
    target.set_values(row.data(), DType::f32);
  }
}

}  // namespace

struct Adapter::Part {
  Linear* linear = nullptr;
  Parameter* weight = nullptr;  // of the layer
  Parameter* a = nullptr;
  Parameter* b = nullptr;
  LowRankAdapter low_rank;
};

double LoraOptions::scale() const {
  if (rank == 0) return 0;
  auto size = static_cast<double>(rank);
  return alpha / (rank_stabilised ? std::sqrt(size) : size);
}

Adapter::Adapter(LanguageModel& model, const LoraOptions& options)
    : options_(options), parameters_(model.parameters().place()) {
  if (options.rank == 0) return;
  std::vector<NamedLinear> linears = model.linears();
  check_options(options, linears);
  for (const NamedLinear& one : choose_linears(linears, options)) add_part(model, one);
}

Adapter::~Adapter() {
  detach();
}

void Adapter::add_part(LanguageModel& model, const NamedLinear& named) {
  Parameter* weight = model.parameters().find(named.linear->weight->name);
  WEFT_ASSERT(weight != nullptr, "{}", named.name);
  bool over_inputs = is_split_over_inputs(weight->shard.kind);
  bool is_split = weight->shard.kind != ShardKind::replicated;
  std::string prefix = std::string(kPrefix) + named.name;
  parameters_.set_block(weight->block);
  Part part;
  part.linear = named.linear;
  part.weight = weight;
  part.a = &parameters_.add(
      prefix + ".lora_A.weight", {options_.rank, weight->full_shape[1]}, over_inputs ? weight->shard : Shard{});
  part.b = &parameters_.add(
      prefix + ".lora_B.weight", {weight->full_shape[0], options_.rank}, over_inputs ? Shard{} : weight->shard);
  // A replicated factor stands inside the tensor-parallel region: each rank sees what its slice of the other gives. So
  // do both of a layer that every rank computes there.
  part.a->partial_gradient = weight->partial_gradient || (is_split && !over_inputs);
  part.b->partial_gradient = weight->partial_gradient || (is_split && over_inputs);
  part.low_rank = {.a = part.a,
                   .b = part.b,
                   .scale = options_.scale(),
                   .dropout = static_cast<float>(options_.dropout),
                   .dropout_site = adapter_dropout_site(parts_.size())};
  parts_.push_back(part);
}

void Adapter::replace_parameters(std::optional<int64_t> block) const {
  for (const ReplacedParameter& one : replaced_) {
    if (block && one.parameter->block != *block) continue;
    Tensor& value = one.parameter->value;
    WEFT_ASSERT(value && value.layout() == Layout::row_major, "{} was not loaded", one.parameter->name);
    value.set_values(on_host(one.value).raw(), one.value.dtype());
  }
}

void Adapter::initialise(const Context& context, DType dtype, uint64_t seed) {
  for (size_t i = 0; i < parts_.size(); ++i) {
    Part& part = parts_[i];
    for (Parameter* factor : {part.a, part.b}) {
      if (!factor->value) factor->value = context.empty(factor->local_shape, dtype, MemoryTag::weights);
    }
    fill_factor_a(*part.a, {.seed = seed, .step = 0, .site = adapter_dropout_site(i)});
    part.b->value.fill_zero();
  }
}

void Adapter::attach() {
  for (Part& part : parts_) part.linear->adapter = &part.low_rank;
}

void Adapter::detach() {
  for (Part& part : parts_) {
    if (part.linear->adapter == &part.low_rank) part.linear->adapter = nullptr;
  }
}

void Adapter::merge(const Context& context) {
  detach();
  add_to_weights(context, options_.scale());
}

void Adapter::unmerge(const Context& context) {
  add_to_weights(context, -options_.scale());
}

void Adapter::add_to_weights(const Context& context, double scale) {
  for (Part& part : parts_) {
    if (part.weight->value.layout() != Layout::row_major) {
      fail(ExitCode::failure,
           "{}: a packed weight takes no adapter in; load the model with row-major weights",
           part.weight->name);
    }
    add_low_rank_product(context, part.weight->value, part.a->value, part.b->value, scale);
  }
}

}  // namespace weft
