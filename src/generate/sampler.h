// From the logits of one position to the next token: additions → penalty → temperature → softmax → forbidden ids →
// greedy, top-k, top-p, min-p or plain draw.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/row_sampler.h"

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
  std::optional<std::pair<int64_t, int64_t>> penalty_range = {};
  /// Taken off the logits of the answer's tokens so far: once each, and for each time that they occur (OpenAI's API).
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::vector<std::pair<int32_t, double>> logit_bias = {};  // added to the logits of ids
  std::vector<int32_t> forbidden_ids = {};
  uint64_t seed = 0;
  /// bert4keras3 works on rows padded with id 0 to a total length and counts the unwritten zeros as past tokens. A
  /// length here does the same; 0: never.
  int64_t padded_length = 0;
};

/// Throws Error(usage) for values without a meaning.
void check_sampler_options(const SamplerOptions& options, int64_t vocab_size);

bool is_greedy(const SamplerOptions& options);

/// Whether numbers are added to logits, which is done on the host.
bool adds_to_logits(const SamplerOptions& options);

/// A token that is to be chosen.
struct TokenRequest {
  std::span<const int32_t> past;  // the prompt's and the answer's ids so far
  bool has_late_id = false;       // whether one more follows, which only the device knows yet
  const SamplerOptions* options = nullptr;
  std::span<const int32_t> impossible_ids =
      {};  // also outside of the vocabulary; unlike forbidden ones without a share
  uint64_t sequence = 0;
  /// The draw depends only on options.seed, `sequence` and `step`, how many tokens the answer has.
  uint64_t step = 0;
};

/// What the kernels are told of tokens that are to be chosen, one a row.
struct SampleBatch {
  std::vector<SampleChoice> choices;
  std::vector<LogitChange> changes;
  void clear();
};

/// Holds the scratch memory, so that sampling allocates nothing once warm. One a thread.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size);

  /// The next token. `logits` (vocab_size values) are changed in place; there is no late id. Throws Error(bad_input)
  /// when no logit is finite.
  int32_t sample(std::span<float> logits, const TokenRequest& request);

  /// The part of it before a choice: penalty and forbidden ids, for log probabilities as well.
  void adjust(std::span<float> logits, std::span<const int32_t> past, const SamplerOptions& options);

  /// Adds a row for a choice on the device. Not of options that add to logits.
  void add_choice(const TokenRequest& request, SampleBatch& batch);

 private:
  size_t place_of(int32_t id, std::vector<LogitChange>& changes);
  void add_bans(const TokenRequest& request, std::vector<LogitChange>& changes);
  void add_penalties(const TokenRequest& request, std::vector<LogitChange>& changes, size_t first);

  int64_t vocab_size_;
  std::vector<int32_t> places_;  // of ids among the changes, from 1; all zero between calls
  std::vector<int64_t> counts_;  // of the changes' ids in the penalty's window
  SampleBatch own_;
  RowSampler rows_;
};

/// Throws Error(bad_input): no token can be chosen.
[[noreturn]] void fail_without_choice();

}  // namespace weft
