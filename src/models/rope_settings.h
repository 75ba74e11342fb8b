// The rotary frequencies that a config describes: θ^(−2m/d) (Su et al., "RoFormer", 2021), all divided by a factor
// (linear), or the low ones alone (Llama 3.1).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

namespace weft {

class ModelConfig;
struct ModelSource;

struct RopeSettings {
  enum class Scaling : uint8_t { none, linear, llama3 };
  double theta = 10000;
  Scaling scaling = Scaling::none;
  double factor = 1;                  // of linear and llama3
  double low_frequency_factor = 1;    // of llama3
  double high_frequency_factor = 4;   // of llama3
  double original_positions = 8192;   // of llama3
  std::vector<double> divisors = {};  // of each frequency, as a GGUF file has them; they replace the scaling
};

/// [head_dim / 2].
std::vector<double> rope_frequencies(const RopeSettings& settings, int64_t head_dim);

/// transformers' rope_theta with rope_scaling, or rope_parameters: "default", "linear" or "llama3". Throws
/// Error(bad_input) for another kind.
RopeSettings read_huggingface_rope(const ModelConfig& config);

/// llama.cpp's rope.freq_base, rope.scaling and the tensor rope_freqs.weight. Throws Error(bad_input).
RopeSettings read_gguf_rope(const ModelSource& source, int64_t head_dim);

/// bert4keras3's max_wavelength, with its arithmetic scaling_factor, and beside it transformers' rope_scaling, which
/// `weft convert` adds where bert4keras3 has no key.
RopeSettings read_seed_rope(const ModelSource& source);

/// Adds rope_scaling in transformers' keys where there is one. Throws Error(bad_input) for divisors that no rule gives.
void add_rope_scaling(const RopeSettings& settings, int64_t head_dim, nlohmann::ordered_json& config);

}  // namespace weft
