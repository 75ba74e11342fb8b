#include "verify/model_run.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string_view>
#include <utility>

#include "autograd/tape.h"
#include "core/error.h"
#include "generate/sampler.h"
#include "nn/kv_cache.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/loss.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

/// How many ranks hold each index of the dimension that a parameter is split along.
std::vector<int> count_holders(const Parameter& parameter, int num_ranks) {
  std::vector<int> holders(static_cast<size_t>(parameter.full_shape[parameter.range.dim]));
  for (int rank = 0; rank < num_ranks; ++rank) {
    ShardRange range = shard_range(parameter.shard, parameter.full_shape, {.rank = rank, .size = num_ranks});
    for (int64_t i = range.begin; i < range.end; ++i) ++holders[static_cast<size_t>(i)];
  }
  return holders;
}

/// Copies a rank's slice of a parameter into a tensor of the full shape, each element as this rank's share among its
/// holders.
void place_slice(const Parameter& parameter, std::span<const float> slice, int num_ranks, std::span<float> full) {
  std::vector<int> holders = count_holders(parameter, num_ranks);
  int dim = parameter.range.dim;
  int64_t inner = 1;
  for (int d = dim + 1; d < parameter.full_shape.rank(); ++d) inner *= parameter.full_shape[d];
  int64_t outer = 1;
  for (int d = 0; d < dim; ++d) outer *= parameter.full_shape[d];
  const float* from = slice.data();
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = parameter.range.begin; i < parameter.range.end; ++i) {
      float share = 1.0f / static_cast<float>(holders[static_cast<size_t>(i)]);
      float* to = full.data() + (o * parameter.full_shape[dim] + i) * inner;
      for (int64_t j = 0; j < inner; ++j) to[j] = *from++ * share;
    }
  }
}

std::vector<float> gather_gradient(const Context& context, const Parameter& parameter, TensorParallelPlace place) {
  const Tensor& gradient = parameter.value.grad_slot()->tensor;
  std::vector<float> local = gradient ? to_floats(gradient) : std::vector<float>();
  if (parameter.shard.kind == ShardKind::replicated || place.size == 1) return local;
  Tensor full = context.host_zeros(parameter.full_shape, DType::f32);
  if (!local.empty()) {
    place_slice(parameter, local, place.size, {full.data<float>(), static_cast<size_t>(full.num_elements())});
  }
  context.tensor_parallel->all_reduce(full, ReduceOp::sum);
  return to_floats(full);
}

struct OpenRow {
  size_t index = 0;
  std::vector<int32_t> ids;
  std::vector<int32_t> segments;  // of prompt and answer; empty: all 0
  std::vector<int32_t> source;    // empty: none
  int64_t visible_source = 0;     // tokens of it that the decoder attends to
  int64_t cached = 0;
};

/// Logits of the next token of every open row, [rows, vocabulary].
TokenValues next_logits(Context& context, LanguageModel& model, std::vector<OpenRow>& rows, KvCache* cache) {
  Batch batch;
  std::vector<int32_t> last;
  for (OpenRow& row : rows) {
    auto begin = row.ids.begin() + (cache == nullptr ? 0 : row.cached);
    std::vector<int32_t> ids(begin, row.ids.end());
    int64_t past = cache == nullptr ? 0 : row.cached;
    auto slot = static_cast<int64_t>(row.index);
    if (row.segments.empty()) {
      batch.add(ids, past, slot);
    } else {
      auto first = row.segments.begin() + past;
      batch.add(ids, {first, first + static_cast<int64_t>(ids.size())}, past, slot);
    }
    if (!row.source.empty()) {
      batch.sequences.back().source_slot = slot;
      batch.sequences.back().source_length = row.visible_source;
      // A cache keeps what it was given with the row's first tokens.
      if (past == 0) batch.add_source(row.source, slot);
    }
    last.push_back(static_cast<int32_t>(batch.num_tokens() - 1));
    row.cached = static_cast<int64_t>(row.ids.size());
  }
  Tensor hidden = model.hidden(context, batch, cache);
  return to_token_values(model.logits(context, gather_rows(context, hidden, last)));
}

}  // namespace

TokenValues to_token_values(const Tensor& tensor) {
  return {.width = tensor.size(-1), .values = to_floats(tensor)};
}

ObservedValues run_forward(const Context& context, LanguageModel& model, const Batch& batch, KvCache* cache) {
  ObservedValues observed;
  Context watched = context;
  watched.observer = [&](std::string_view name, const Tensor& value) {
    observed.insert_or_assign(std::string(name), to_token_values(value));
  };
  auto keep = [&](const char* name, const Tensor& value) { observed.insert_or_assign(name, to_token_values(value)); };
  auto keep_logits = [&](const std::string& name, const std::string& probabilities, const Tensor& value) {
    keep(name.c_str(), value);
    observed.insert_or_assign(probabilities, to_probabilities(observed.at(name)));
  };
  Tensor hidden = model.hidden(watched, batch, cache);
  keep("final", hidden);
  if (model.head().weight != nullptr || model.info().has_language_model_head) {
    keep_logits("logits", "proba", model.logits(watched, hidden, &batch));
  }
  watched.observer = nullptr;
  if (Tensor pooled = model.pooled(watched, hidden, batch)) {
    keep("pooled", pooled);
    if (Tensor pair = model.pair_logits(watched, pooled)) keep_logits("pair_logits", "pair_proba", pair);
  }
  if (Tensor replaced = model.replaced_logits(watched, hidden)) {
    keep_logits("replaced_logits", "replaced_proba", replaced);
  }
  if (Tensor task = model.task_logits(watched, hidden, batch)) keep_logits("task_logits", "task_proba", task);
  return observed;
}

TokenValues to_probabilities(TokenValues logits) {
  for (int64_t r = 0; r < logits.rows(); ++r) {
    float* row = logits.values.data() + r * logits.width;
    if (logits.width == 1) {
      *row = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(*row))));
      continue;
    }
    float largest = *std::max_element(row, row + logits.width);
    double sum = 0;
    for (int64_t i = 0; i < logits.width; ++i) sum += std::exp(static_cast<double>(row[i]) - largest);
    for (int64_t i = 0; i < logits.width; ++i) {
      row[i] = static_cast<float>(std::exp(static_cast<double>(row[i]) - largest) / sum);
    }
  }
  return logits;
}

namespace {

/// The sum of all losses that the targets ask for.
Tensor total_loss(
    Context& context, LanguageModel& model, const Batch& batch, const Tensor& hidden, const TrainingTargets& targets) {
  Tensor loss;
  auto include = [&](const Tensor& part) { loss = loss ? add(context, loss, part) : part; };
  if (!targets.tokens.empty()) {
    Tensor scored = targets.rows.empty() ? hidden : gather_rows(context, hidden, targets.rows);
    include(
        language_model_loss(context, model, scored, targets.tokens, targets.weights, LossReduction::mean, &batch).loss);
  }
  if (!targets.pairs.empty()) {
    Tensor logits = model.pair_logits(context, model.pooled(context, hidden, batch));
    include(softmax_cross_entropy(context, share_gradient_over_tp(context, logits), targets.pairs));
  }
  if (!targets.replaced.empty()) {
    Tensor logits = model.replaced_logits(context, hidden);
    include(binary_cross_entropy(context, share_gradient_over_tp(context, logits), targets.replaced));
  }
  if (!targets.classes.empty()) {
    Tensor logits = model.task_logits(context, hidden, batch);
    include(softmax_cross_entropy(context, share_gradient_over_tp(context, logits), targets.classes));
  }
  return loss;
}

}  // namespace

double run_training_pass(const Context& context,
                         LanguageModel& model,
                         const Batch& batch,
                         const TrainingTargets& targets,
                         const GradientSink& sink) {
  set_trainable(model, true);
  Context recording = context;
  Tape tape;
  recording.tape = &tape;
  Tensor hidden = model.hidden(recording, batch, nullptr);
  Tensor loss = total_loss(recording, model, batch, hidden, targets);
  tape.backward(recording, loss);
  finish_gradients(recording, model);
  for (Parameter& parameter : model.parameters().all()) {
    sink(parameter, gather_gradient(context, parameter, model.parameters().place()));
  }
  set_trainable(model, false);
  return to_floats(loss)[0];
}

std::vector<GreedyRow> run_greedy(const Context& context, LanguageModel& model, const GreedyRequest& request) {
  Context running = context;
  std::vector<GreedyRow> results(request.prompts.size());
  std::vector<OpenRow> open;
  int64_t longest = 1;
  int64_t longest_source = 1;
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    open.push_back({.index = i,
                    .ids = request.prompts[i],
                    .segments = request.segments.empty() ? std::vector<int32_t>{} : request.segments[i],
                    .source = request.sources.empty() ? std::vector<int32_t>{} : request.sources[i]});
    open.back().visible_source =
        request.visible_sources.empty() ? static_cast<int64_t>(open.back().source.size()) : request.visible_sources[i];
    longest_source = std::max(longest_source, static_cast<int64_t>(open.back().source.size()));
    longest = std::max(longest, static_cast<int64_t>(request.prompts[i].size()) + request.num_new_tokens[i]);
  }
  std::unique_ptr<KvCache> cache;
  if (request.use_cache) {
    auto slots = static_cast<int64_t>(open.size());
    cache = std::make_unique<KvCache>(
        running, model.kv_cache_shape(request.cache_dtype), slots, longest, slots, longest_source);
  }
  auto is_done = [&](const OpenRow& row) {
    const std::vector<int32_t>& made = results[row.index].new_ids;
    return static_cast<int64_t>(made.size()) >= request.num_new_tokens[row.index] ||
           (!made.empty() && made.back() == request.end_id);
  };
  std::erase_if(open, is_done);
  while (!open.empty()) {
    TokenValues logits = next_logits(running, model, open, cache.get());
    for (size_t i = 0; i < open.size(); ++i) {
      std::span<const float> row = logits.row(static_cast<int64_t>(i));
      std::vector<float> values(row.begin(), row.end());
      auto next = request.choose ? request.choose(open[i].ids, values) : static_cast<int32_t>(argmax(values));
      open[i].ids.push_back(next);
      results[open[i].index].new_ids.push_back(next);
      results[open[i].index].step_logits.push_back(std::move(values));
    }
    std::erase_if(open, is_done);
  }
  return results;
}

}  // namespace weft
