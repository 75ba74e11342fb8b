#include "models/rope_settings.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/decoder_config.h"
#include "models/model_config.h"

namespace weft {
namespace {

constexpr double kMaxTheta = 1e12;

/// transformers 5 writes rope_parameters, 4 writes rope_theta beside rope_scaling.
std::string rope_key(const ModelConfig& config, std::string_view name) {
  return (config.has("rope_parameters") ? "rope_parameters." : "rope_scaling.") + std::string(name);
}

void read_scaling(const ModelConfig& config, RopeSettings& settings) {
  std::string type =
      config.string_or(rope_key(config, "rope_type"), config.string_or(rope_key(config, "type"), "default"));
  if (type == "default") return;
  if (type != "llama3" && type != "linear") {
    fail_input(
        "{}: rope scaling '{}' is not supported; known are default, linear and llama3", config.path(), printable(type));
  }
  if (type == "linear") {
    settings.scaling = RopeSettings::Scaling::linear;
    settings.factor = config.number_or(rope_key(config, "factor"), 1, 1e-3, 1e6);
    return;
  }
  settings.scaling = RopeSettings::Scaling::llama3;
  settings.factor = config.number_or(rope_key(config, "factor"), 8, 1, 1e6);
  settings.low_frequency_factor = config.number_or(rope_key(config, "low_freq_factor"), 1, 1e-6, 1e6);
  settings.high_frequency_factor = config.number_or(rope_key(config, "high_freq_factor"), 4, 1e-6, 1e6);
  settings.original_positions = config.number_or(rope_key(config, "original_max_position_embeddings"), 8192, 1, 1e9);
  if (settings.high_frequency_factor <= settings.low_frequency_factor) {
    fail_input("{}: rope scaling needs high_freq_factor > low_freq_factor", config.path());
  }
}

/// What Llama 3.1's rule divides a frequency by: those of long wavelengths by the factor, those of short ones by 1.
double llama3_frequency(const RopeSettings& settings, double frequency) {
  double wavelength = 2 * std::numbers::pi / frequency;
  double original = settings.original_positions;
  double low = settings.low_frequency_factor, high = settings.high_frequency_factor;
  if (wavelength < original / high) return frequency;
  if (wavelength > original / low) return frequency / settings.factor;
  double smooth = (original / wavelength - low) / (high - low);
  return (1 - smooth) * frequency / settings.factor + smooth * frequency;
}

/// The rule behind a GGUF file's divisors, which llama.cpp wrote from the released models' settings: all of Llama 3.1
/// and 3.2 differ in the factor only.
RopeSettings llama3_rule_of(const RopeSettings& settings) {
  RopeSettings rule{.theta = settings.theta, .scaling = RopeSettings::Scaling::llama3};
  rule.factor = *std::max_element(settings.divisors.begin(), settings.divisors.end());
  return rule;
}

bool agree(const std::vector<double>& a, const std::vector<double>& b) {
  constexpr double kTolerance = 1e-5;  // the divisors are stored in f32
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::abs(a[i] - b[i]) > kTolerance * b[i]) return false;
  }
  return true;
}

/// Llama 3.1 files hold the scaling of its frequencies as a tensor of divisors.
std::vector<double> read_divisors(const CheckpointReader& reader, int64_t head_dim) {
  const TensorInfo* info = reader.find("rope_freqs.weight");
  if (info == nullptr) return {};
  if (info->shape != Shape{head_dim / 2}) {
    fail_input("{}: rope_freqs.weight is {}, expected [{}]", info->file, to_string(info->shape), head_dim / 2);
  }
  std::vector<double> divisors(static_cast<size_t>(head_dim / 2));
  reader.read("rope_freqs.weight", divisors.data(), DType::f64);
  return divisors;
}

}  // namespace

std::vector<double> rope_frequencies(const RopeSettings& settings, int64_t head_dim) {
  std::vector<double> frequencies;
  for (int64_t m = 0; m < head_dim / 2; ++m) {
    double frequency = std::pow(settings.theta, -2.0 * static_cast<double>(m) / static_cast<double>(head_dim));
    if (!settings.divisors.empty()) {
      frequency /= settings.divisors[static_cast<size_t>(m)];
    } else if (settings.scaling == RopeSettings::Scaling::linear) {
      frequency /= settings.factor;
    } else if (settings.scaling == RopeSettings::Scaling::llama3) {
      frequency = llama3_frequency(settings, frequency);
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

RopeSettings read_huggingface_rope(const ModelConfig& config) {
  const char* theta_key = config.has("rope_parameters") ? "rope_parameters.rope_theta" : "rope_theta";
  RopeSettings settings{.theta = config.number_or(theta_key, 10000, 1, kMaxTheta)};
  read_scaling(config, settings);
  return settings;
}

RopeSettings read_gguf_rope(const ModelSource& source, int64_t head_dim) {
  const ModelConfig& config = source.config;
  if (config.size_or(gguf_key(source, "rope.dimension_count"), head_dim) != head_dim) {
    fail_input("{}: rotary positions on only part of a head are not supported for this family", config.path());
  }
  RopeSettings settings{.theta = config.number_or(gguf_key(source, "rope.freq_base"), 10000, 1, kMaxTheta)};
  std::string scaling = config.string_or(gguf_key(source, "rope.scaling.type"), "none");
  if (scaling == "linear") {
    settings.scaling = RopeSettings::Scaling::linear;
    settings.factor = config.number_or(gguf_key(source, "rope.scaling.factor"), 1, 1e-3, 1e6);
  } else if (scaling != "none") {
    fail_input("{}: rope scaling '{}' is not supported; known are none and linear", config.path(), printable(scaling));
  }
  if (source.reader != nullptr) settings.divisors = read_divisors(*source.reader, head_dim);
  return settings;
}

RopeSettings read_seed_rope(const ModelSource& source) {
  RopeSettings settings{.theta = source.config.number_or("max_wavelength", 10000, 1, kMaxTheta)};
  if (!source.compat) {
    read_scaling(source.config, settings);
    return settings;
  }
  // It divides the exponent, not the frequency.
  settings.theta = std::pow(settings.theta, 1 / source.config.number_or("scaling_factor", 1, 1e-3, 1e6));
  return settings;
}

void add_rope_scaling(const RopeSettings& settings, int64_t head_dim, nlohmann::ordered_json& config) {
  RopeSettings written = settings;
  if (!settings.divisors.empty()) {
    written = llama3_rule_of(settings);
    if (!agree(rope_frequencies(settings, head_dim), rope_frequencies(written, head_dim))) {
      fail_input(
          "the file divides its rotary frequencies by numbers that no config.json can say; start from the Hugging Face "
          "folder of this model");
    }
  }
  if (written.scaling == RopeSettings::Scaling::none) return;
  bool is_llama3 = written.scaling == RopeSettings::Scaling::llama3;
  nlohmann::ordered_json scaling = {{"rope_type", is_llama3 ? "llama3" : "linear"}, {"factor", written.factor}};
  if (is_llama3) {
    scaling["low_freq_factor"] = written.low_frequency_factor;
    scaling["high_freq_factor"] = written.high_frequency_factor;
    scaling["original_max_position_embeddings"] = static_cast<int64_t>(written.original_positions);
  }
  config["rope_scaling"] = std::move(scaling);
}

}  // namespace weft
