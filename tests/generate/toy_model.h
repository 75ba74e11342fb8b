// A language model whose next token depends on every token before it and on nothing else, exactly: a rolling hash of
// the history, which it can only know from what the cache holds. A mistake with positions, slots or copies changes all
// tokens after it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "core/random.h"
#include "models/model.h"

namespace weft {

class ToyModel : public LanguageModel {
 public:
  explicit ToyModel(int64_t max_positions = 4096, int64_t vocab_size = 64) : LanguageModel({}) {
    info_.family = "toy";
    info_.vocab_size = vocab_size;
    info_.hidden_size = 1;
    info_.num_layers = 2;
    info_.num_heads = info_.num_kv_heads = 2;
    info_.head_dim = 3;
    info_.max_positions = max_positions;
  }

  const ModelInfo& info() const override { return info_; }

  Tensor hidden(Context& context, const Batch& batch, KvCache* cache) override {
    Tensor out = context.empty({batch.num_tokens(), 1}, DType::f32);
    largest_batch = std::max(largest_batch, batch.num_tokens());
    num_computed += batch.num_tokens();
    for (const BatchSequence& sequence : batch.sequences) {
      largest_width = std::max(largest_width, static_cast<int64_t>(batch.sequences.size()));
      for (int64_t i = 0; i < sequence.length; ++i) {
        int64_t position = sequence.past + i;
        write(*cache, sequence.slot, position, batch.ids[static_cast<size_t>(sequence.begin + i)]);
        out.data<float>()[sequence.begin + i] = static_cast<float>(hash_history(*cache, sequence.slot, position));
      }
    }
    return out;
  }

  Tensor local_logits(Context& context, const Tensor& hidden, const Batch* /*batch*/) override {
    Tensor out = context.empty({hidden.size(0), info_.vocab_size}, DType::f32);
    for (int64_t row = 0; row < hidden.size(0); ++row) {
      fill_logits(static_cast<uint32_t>(hidden.data<float>()[row]), out.data<float>() + row * info_.vocab_size);
    }
    return out;
  }

  /// The greedy answer computed from the history alone.
  std::vector<int32_t> expected_answer(const std::vector<int32_t>& prompt, size_t length) const {
    std::vector<int32_t> answer;
    std::vector<int32_t> history = prompt;
    while (answer.size() < length) {
      std::vector<float> logits = expected_logits(history);
      answer.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      history.push_back(answer.back());
    }
    return answer;
  }

  /// What follows a history.
  std::vector<float> expected_logits(const std::vector<int32_t>& history) const {
    uint32_t hash = 0;
    for (int32_t id : history) hash = extend(hash, id);
    std::vector<float> logits(static_cast<size_t>(info_.vocab_size));
    fill_logits(hash, logits.data());
    return logits;
  }

  int64_t num_computed = 0;   // tokens, over all calls
  int64_t largest_batch = 0;  // tokens in one call
  int64_t largest_width = 0;  // sequences in one call

 private:
  static uint32_t extend(uint32_t hash, int32_t id) { return (hash * 31 + static_cast<uint32_t>(id) + 7) & 0xffffff; }

  void fill_logits(uint32_t hash, float* logits) const {
    RandomKey key{hash, 0, 0};
    for (int64_t id = 0; id < info_.vocab_size; ++id) logits[id] = 4 * key.uniform(static_cast<uint64_t>(id));
  }

  /// Head 1 of the last layer's values holds the ids; the other places a copy, so that they can be compared.
  void write(KvCache& cache, int64_t slot, int64_t position, int32_t id) const {
    for (int64_t layer = 0; layer < info_.num_layers; ++layer) {
      for (Tensor* side : {&cache.keys(layer), &cache.values(layer)}) {
        for (int64_t head = 0; head < info_.num_kv_heads; ++head) {
          place(cache, *side, slot, head, position) = static_cast<float>(id);
        }
      }
    }
  }

  uint32_t hash_history(KvCache& cache, int64_t slot, int64_t position) const {
    uint32_t hash = 0;
    for (int64_t i = 0; i <= position; ++i) {
      float id = place(cache, cache.values(info_.num_layers - 1), slot, 1, i);
      if (place(cache, cache.keys(0), slot, 0, i) != id) throw std::runtime_error("cache: layers or heads disagree");
      hash = extend(hash, static_cast<int32_t>(id));
    }
    return hash;
  }

  float& place(const KvCache& cache, Tensor& side, int64_t slot, int64_t head, int64_t position) const {
    if (slot >= cache.num_slots() || position >= cache.max_tokens()) throw std::runtime_error("cache: out of range");
    return side.data<float>()[((slot * info_.num_kv_heads + head) * cache.max_tokens() + position) * info_.head_dim];
  }

  ModelInfo info_;
};

}  // namespace weft
