// What a generator knows of one request while it is answered, for the files that the generator is made of.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "generate/generator.h"
#include "generate/request_support.h"
#include "generate/stop_filter.h"

namespace weft {

using GenerationClock = std::chrono::steady_clock;

inline double seconds_since(GenerationClock::time_point start) {
  return std::chrono::duration<double>(GenerationClock::now() - start).count();
}

/// A prompt and its answer while they hold a slot. The tokens not yet in the cache are its work: many for a prompt, one
/// while it answers.
struct Generator::Sequence {
  Sequence(GenerationRequest request_in, size_t index_in, const Tokenizer* tokenizer, const ModelInfo& info)
      : request(std::move(request_in)),
        index(index_in),
        limit(answer_limit(info, request.prompt, request.max_new_tokens)),
        tokens(request.prompt),
        filter(request.stop_strings) {
    if (tokenizer) decoder.emplace(*tokenizer, true);
  }

  /// With the answer at its longest.
  int64_t max_tokens() const { return std::ssize(request.prompt) + limit; }

  int64_t pending() const { return static_cast<int64_t>(tokens.size()) - cached; }
  int64_t num_new() const { return static_cast<int64_t>(tokens.size() - request.prompt.size()); }

  GenerationRequest request;
  size_t index;
  int64_t limit;  // new tokens at most
  int64_t slot = 0;
  std::vector<int32_t> tokens;
  int64_t cached = 0;
  /// A sequence whose prompt begins alike and is being computed: its keys and values are copied once `shared` tokens
  /// are there.
  const Sequence* donor = nullptr;
  int64_t shared = 0;
  std::optional<StreamingDecoder> decoder;
  StopFilter filter;
  GenerationClock::time_point start = GenerationClock::now();
  GenerationClock::time_point first_token;
  GenerationResult result;
  bool is_finished = false;
};

}  // namespace weft
