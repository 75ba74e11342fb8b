// The most that a machine can do with a model: bytes that must pass memory and operations that must be computed.
#pragma once

#include <cstdint>
#include <string>

#include "models/registry.h"
#include "plan/memory_plan.h"

namespace weft {

/// Of one rank.
struct DecodeCost {
  int64_t weight_bytes = 0;  // read at every step, whatever the batch
  int64_t cache_bytes = 0;   // keys and values read at a step half way through the answers, all sequences together;
                             // of recurrent models the states, read and written
};
/// The cache is in the dtype of `weights`.
DecodeCost decode_cost(const OpenedModel& opened,
                       const LanguageModel& model,
                       const LoadOptions& weights,
                       const Workload& workload);

/// Sources and answers of an encoder-decoder, all of one length.
struct Seq2SeqWorkload {
  int64_t batch = 1;
  int64_t source_tokens = 64;
  int64_t new_tokens = 64;
  int64_t num_beams = 1;
};

/// Of one rank.
struct Seq2SeqCost {
  double source_flops = 0;   // encoder, and the keys and values that the decoder's blocks make of its result
  int64_t weight_bytes = 0;  // read at every step: the decoder's but those for keys and values of sources, and the head
  int64_t cache_bytes = 0;   // read at a step half way: keys and values of every beam, and of every source once
};
Seq2SeqCost seq2seq_cost(const LanguageModel& model, const LoadOptions& weights, const Seq2SeqWorkload& workload);

/// Floating-point operations of one rank for the prompts of a batch: 2 a weight and token, 4·head_dim a query head and
/// visible key (4·head_dim² a head and token of a recurrence), and the logits of each prompt's last token.
double prefill_flops(const OpenedModel& opened, const LanguageModel& model, const Workload& workload);

/// Floating-point operations of all ranks together for training on a token of rows of `sequence_length`: 6 a weight of
/// a matrix product (2 forward, 4 backward; 4 for a frozen one, whose own gradient nobody wants), and
/// 6·layers·heads·head_dim·length for causal attention. `adapter_weights` > 0: only so many are trained.
double training_flops_per_token(const LanguageModel& model, int64_t sequence_length, int64_t adapter_weights = 0);

}  // namespace weft
