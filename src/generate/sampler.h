// From the logits of one position to the next token: penalty → temperature → softmax → forbidden ids → greedy, top-k,
// top-p, min-p or plain draw.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace weft {

/// Which tokens a penalty_window of W covers: `sliding` the last W; `block` bert4keras3's, which jumps: the current
/// block of W positions and the one before it.
enum class PenaltyWindow : uint8_t { sliding, block };

struct SamplerOptions {
  bool greedy = true;        // the most likely token; lowest id on ties
  double temperature = 1.0;  // 0 is greedy
  int64_t top_k = 0;         // 0: no cut
  double top_p = 1.0;        // keeps tokens until their probabilities sum to more than this
  double min_p = 0.0;        // keeps tokens at least this likely, relative to the likeliest
  /// Logits of past tokens are divided (if > 0) or multiplied (otherwise) by penalty^n, n = 1 or, with a range, how
  /// often the token occurred: 0 below the first number, at most the second.
  double penalty = 1.0;
  int64_t penalty_window = 0;  // 0: all past tokens
  PenaltyWindow window_mode = PenaltyWindow::sliding;
  std::optional<std::pair<int64_t, int64_t>> penalty_range;
  std::vector<int32_t> forbidden_ids;
  uint64_t seed = 0;
  /// bert4keras3 works on rows padded with id 0 to a total length and counts the unwritten zeros as past tokens. A
  /// length here does the same; 0: never.
  int64_t padded_length = 0;
};

/// Throws Error(usage) for values without a meaning.
void check_sampler_options(const SamplerOptions& options, int64_t vocab_size);

/// Holds the scratch memory, so that sampling allocates nothing once warm. One a thread.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size) : vocab_size_(vocab_size) {}

  /// The next token. `logits` (vocab_size values) are changed in place; `past` are the prompt's and the answer's ids so
  /// far. The draw depends only on options.seed, `sequence` and `step`. Throws Error(bad_input) when no logit is
  /// finite.
  int32_t sample(std::span<float> logits,
                 std::span<const int32_t> past,
                 const SamplerOptions& options,
                 uint64_t sequence,
                 uint64_t step);

  /// The part of it before a choice: penalty and forbidden ids, for log probabilities as well.
  void adjust(std::span<float> logits, std::span<const int32_t> past, const SamplerOptions& options);

 private:
  struct Candidate {
    float weight;
    int32_t id;
  };
  static bool is_better(const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  }

  void apply_penalty(std::span<float> logits, std::span<const int32_t> past, const SamplerOptions& options);
  double weigh(std::span<float> logits, const SamplerOptions& options);
  Candidate find_cut(double total, const SamplerOptions& options);
  Candidate top_k_cut(int64_t k);
  Candidate top_p_cut(double mass, double total, const Candidate& cut);
  int32_t draw(const Candidate& cut, double uniform);

  int64_t vocab_size_;
  std::vector<int32_t> counts_;  // of ids in the penalty's window; all zero between calls
  std::vector<float> forbidden_logits_;
  std::vector<float> weights_;  // probabilities times a common factor
  std::vector<double> block_sums_;
  std::vector<Candidate> candidates_;
};

/// Position of the largest value, the first one on ties. Not-a-numbers lose.
int64_t argmax(std::span<const float> values);

}  // namespace weft
