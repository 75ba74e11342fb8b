#include "generate/sentence_encoder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "core/error.h"
#include "generate/request_support.h"

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

constexpr std::pair<std::string_view, Pooling> kPoolings[] = {{"mean", Pooling::mean},
                                                              {"max", Pooling::max},
                                                              {"cls", Pooling::cls},
                                                              {"last", Pooling::last},
                                                              {"pooled", Pooling::pooled},
                                                              {"none", Pooling::none}};

bool is_of_head(Pooling pooling) {
  return pooling == Pooling::pooled || pooling == Pooling::classified;
}

int64_t width_of(const ModelInfo& info, Pooling pooling) {
  return pooling == Pooling::classified ? static_cast<int64_t>(info.task_head.labels.size()) : info.hidden_size;
}

using Texts = std::span<const size_t>;

/// Texts in batches of about so many tokens.
std::vector<Texts> make_batches(const std::vector<TokenisedText>& texts,
                                const std::vector<size_t>& order,
                                int64_t most) {
  std::vector<Texts> batches;
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    int64_t tokens = 0;
    while (end < order.size()) {
      auto length = static_cast<int64_t>(texts[order[end]].ids.size());
      if (length == 0) fail_input("text {} has no tokens", order[end]);
      if (end > begin && tokens + length > most) break;
      tokens += length;
      ++end;
    }
    batches.emplace_back(order.data() + begin, end - begin);
    begin = end;
  }
  return batches;
}

class SentenceEncoder {
 public:
  SentenceEncoder(const Context& context,
                  LanguageModel& model,
                  const std::vector<TokenisedText>& texts,
                  const SentenceEncoderOptions& options,
                  std::vector<float>& result)
      : context_(context),
        model_(model),
        texts_(texts),
        options_(options),
        width_(width_of(model.info(), options.pooling)),
        rows_(first_rows(texts, options.pooling)),
        result_(result) {
    result_.resize(static_cast<size_t>(rows_.back() * width_));
  }

  /// A batch a thread where there are enough: threads that share a batch wait for each other in every product, and a
  /// batch of one thread stays in its cache. Ranks that share the weights have to meet in the same order.
  void run(const std::vector<Texts>& batches) {
    auto threads = static_cast<size_t>(context_.num_threads);
    if (threads == 1 || batches.size() < threads || context_.tensor_parallel != nullptr) {
      for (const Texts& batch : batches) run(context_, batch);
      return;
    }
    std::vector<std::thread> workers;
    for (size_t i = 0; i < threads; ++i) workers.emplace_back([&] { work(batches); });
    for (std::thread& worker : workers) worker.join();
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

 private:
  void work(const std::vector<Texts>& batches) {
    Context context = context_;
    context.num_threads = 1;
    try {
      for (size_t i = next_++; i < batches.size(); i = next_++) run(context, batches[i]);
    } catch (...) {
      std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
      next_ = batches.size();
    }
  }

  Batch make_batch(Texts some) const {
    Batch batch;
    for (size_t text : some) {
      const TokenisedText& from = texts_[text];
      check_condition(model_.info(), from.condition);
      add_text(from, batch);
      batch.add_condition(from.condition);
    }
    return batch;
  }

  /// Hidden states of all tokens, or what a head makes of each text, row by row.
  std::vector<float> states_of(Context& context, const Batch& batch) {
    std::vector<float> of_layer;
    if (options_.layer >= 0) {
      context.observer = [&](std::string_view name, const Tensor& value) {
        if (name == "hidden/" + std::to_string(options_.layer)) of_layer = to_floats(value);
      };
    }
    Tensor hidden = model_.hidden(context, batch, nullptr);
    if (options_.layer >= 0) return of_layer;
    if (!is_of_head(options_.pooling)) return to_floats(hidden);
    if (options_.pooling == Pooling::classified) return to_floats(model_.task_logits(context, hidden, batch));
    Tensor pooled = model_.pooled(context, hidden, batch);
    if (!pooled) fail_input("this checkpoint has no pooler; use another pooling, such as mean or cls");
    return to_floats(pooled);
  }

  void pool(const float* states, int64_t tokens, float* into) const {
    switch (options_.pooling) {
      case Pooling::mean:
        return pool_mean(states, tokens, width_, into);
      case Pooling::max:
        return pool_max(states, tokens, width_, into);
      case Pooling::last:
        std::copy_n(states + (tokens - 1) * width_, width_, into);
        return;
      case Pooling::cls:
      case Pooling::pooled:
      case Pooling::classified:
        std::copy_n(states, width_, into);
        return;
      case Pooling::none:
        std::copy_n(states, tokens * width_, into);
    }
  }

  void run(Context context, Texts some) {
    Batch batch = make_batch(some);
    std::vector<float> values = states_of(context, batch);
    for (size_t i = 0; i < some.size(); ++i) {
      float* into = result_.data() + rows_[some[i]] * width_;
      const BatchSequence& sequence = batch.sequences[i];
      int64_t row = is_of_head(options_.pooling) ? static_cast<int64_t>(i) : sequence.begin;
      pool(values.data() + row * width_, sequence.length, into);
      int64_t num_rows = rows_[some[i] + 1] - rows_[some[i]];
      for (int64_t r = 0; options_.normalise && r < num_rows; ++r) normalise(into + r * width_, width_);
    }
    if (!options_.on_progress) return;
    std::lock_guard lock(mutex_);
    options_.on_progress(static_cast<int64_t>(some.size()));
  }

  const Context& context_;
  LanguageModel& model_;
  const std::vector<TokenisedText>& texts_;
  const SentenceEncoderOptions& options_;
  int64_t width_;
  std::vector<int64_t> rows_;
  std::vector<float>& result_;
  std::atomic<size_t> next_ = 0;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

Pooling parse_pooling(std::string_view name) {
  for (const auto& [known, pooling] : kPoolings) {
    if (known == name) return pooling;
  }
  fail(ExitCode::usage, "unknown pooling '{}'; known are mean, max, cls, last, pooled and none", printable(name));
}

TokenisedText tokenise_text(const Tokenizer& tokenizer,
                            std::string_view first,
                            std::optional<std::string_view> second,
                            int64_t limit) {
  PairEncoding encoding = tokenizer.encode_pair(first, second, {.max_length = static_cast<size_t>(limit)});
  TokenisedText text{.ids = std::move(encoding.ids)};
  const std::vector<int32_t>& own = encoding.segment_ids;
  if (std::ranges::any_of(own, [](int32_t segment) { return segment != 0; })) text.segments = own;
  return text;
}

void add_text(const TokenisedText& text, Batch& batch) {
  if (text.segments.empty() && batch.segment_ids.empty()) return batch.add(text.ids);
  std::vector<int32_t> segments = text.segments;
  segments.resize(text.ids.size());
  batch.add(text.ids, segments);
}

void pool_mean(const float* hidden, int64_t tokens, int64_t width, float* into) {
  std::vector<double> sum(static_cast<size_t>(width));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < width; ++i) sum[static_cast<size_t>(i)] += static_cast<double>(hidden[t * width + i]);
  }
  for (int64_t i = 0; i < width; ++i) {
    into[i] = static_cast<float>(sum[static_cast<size_t>(i)] / static_cast<double>(tokens));
  }
}

void pool_max(const float* hidden, int64_t tokens, int64_t width, float* into) {
  std::copy_n(hidden, width, into);
  for (int64_t t = 1; t < tokens; ++t) {
    for (int64_t i = 0; i < width; ++i) into[i] = std::max(into[i], hidden[t * width + i]);
  }
}

std::vector<int64_t> first_rows(const std::vector<TokenisedText>& texts, Pooling pooling) {
  std::vector<int64_t> rows = {0};
  for (const TokenisedText& text : texts) {
    rows.push_back(rows.back() + (pooling == Pooling::none ? static_cast<int64_t>(text.ids.size()) : 1));
  }
  return rows;
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
  const ModelInfo& info = model.info();
  if (options.layer > info.num_layers) fail_input("layer {} of a model of {} layers", options.layer, info.num_layers);
  if (options.pooling == Pooling::classified && info.task_head.kind != TaskHead::Kind::sequence_classification) {
    fail_input("this checkpoint has no classifier of texts");
  }
  if (options.layer >= 0 && is_of_head(options.pooling)) {
    fail_input("the pooler takes the last layer's output; use another pooling, such as mean or cls");
  }
  std::vector<float> result;
  std::vector<size_t> order = by_length(texts);
  SentenceEncoder(context, model, texts, options, result).run(make_batches(texts, order, options.batch_tokens));
  return result;
}

}  // namespace weft
