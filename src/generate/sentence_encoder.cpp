#include "generate/sentence_encoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace weft {
namespace {

/// Texts by falling length: the longest batch, which decides the memory, comes first.
std::vector<size_t> by_length(const std::vector<TokenisedText>& texts) {
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(
      order.begin(), order.end(), [&](size_t a, size_t b) { return texts[a].ids.size() > texts[b].ids.size(); });
  return order;
}

class SentenceEncoder {
 public:
  SentenceEncoder(Context& context, LanguageModel& model, const SentenceEncoderOptions& options)
      : context_(context), model_(model), options_(options), width_(model.info().hidden_size) {}

  void run(const std::vector<TokenisedText>& texts, std::span<const size_t> some, std::vector<float>& result) {
    Batch batch;
    for (size_t text : some) {
      if (texts[text].segments.empty()) {
        batch.add(texts[text].ids);
      } else {
        batch.add(texts[text].ids, texts[text].segments);
      }
    }
    if (!batch.segment_ids.empty()) batch.segment_ids.resize(batch.ids.size());
    Tensor hidden = model_.hidden(context_, batch, nullptr);
    if (options_.pooling == Pooling::pooled) {
      Tensor pooled = model_.pooled(context_, hidden, batch);
      if (!pooled) fail_input("this checkpoint has no pooler; use another pooling, such as mean or cls");
      hidden = pooled;
    }
    std::vector<float> values = to_floats(hidden);
    for (size_t i = 0; i < some.size(); ++i) {
      float* into = result.data() + static_cast<int64_t>(some[i]) * width_;
      const BatchSequence& sequence = batch.sequences[i];
      int64_t row = options_.pooling == Pooling::pooled ? static_cast<int64_t>(i) : sequence.begin;
      pool_mean(values.data() + row * width_, options_.pooling == Pooling::mean ? sequence.length : 1, width_, into);
      if (options_.normalise) normalise(into, width_);
    }
  }

 private:
  Context& context_;
  LanguageModel& model_;
  const SentenceEncoderOptions& options_;
  int64_t width_;
};

}  // namespace

void pool_mean(const float* hidden, int64_t tokens, int64_t width, float* into) {
  std::vector<double> sum(static_cast<size_t>(width));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < width; ++i) sum[static_cast<size_t>(i)] += static_cast<double>(hidden[t * width + i]);
  }
  for (int64_t i = 0; i < width; ++i) {
    into[i] = static_cast<float>(sum[static_cast<size_t>(i)] / static_cast<double>(tokens));
  }
}

void normalise(float* vector, int64_t width) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(vector[i]) * static_cast<double>(vector[i]);
  if (squares == 0) return;
  auto factor = static_cast<float>(1 / std::sqrt(squares));
  for (int64_t i = 0; i < width; ++i) vector[i] *= factor;
}

std::vector<float> encode_sentences(Context& context,
                                    LanguageModel& model,
                                    const std::vector<TokenisedText>& texts,
                                    const SentenceEncoderOptions& options) {
  std::vector<float> result(texts.size() * static_cast<size_t>(model.info().hidden_size));
  std::vector<size_t> order = by_length(texts);
  SentenceEncoder encoder(context, model, options);
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    int64_t tokens = 0;
    while (end < order.size()) {
      auto length = static_cast<int64_t>(texts[order[end]].ids.size());
      if (length == 0) fail_input("text {} has no tokens", order[end]);
      if (end > begin && tokens + length > options.batch_tokens) break;
      tokens += length;
      ++end;
    }
    encoder.run(texts, {order.data() + begin, end - begin}, result);
    if (options.on_progress) options.on_progress(static_cast<int64_t>(end - begin));
    begin = end;
  }
  return result;
}

}  // namespace weft
