// The layout of goldens made with bert4keras3: inputs/token_ids without masks, outputs/*, outputs_trimmed/*, loss and
// grads/*, lora/*, generate/*, generate_penalty/*. Padded positions are run as the real tokens that bert4keras3 takes
// them for.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "core/error.h"
#include "generate/sampler.h"
#include "verify/verify_session.h"

namespace weft {
namespace {

std::string last_part(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

/// Adds "proba", what a model with a softmax head returns.
void add_probabilities(ObservedValues& observed) {
  TokenValues probabilities = observed.at("logits");
  for (int64_t r = 0; r < probabilities.rows(); ++r) {
    float* row = probabilities.values.data() + r * probabilities.width;
    float largest = *std::max_element(row, row + probabilities.width);
    double sum = 0;
    for (int64_t i = 0; i < probabilities.width; ++i) sum += std::exp(static_cast<double>(row[i]) - largest);
    for (int64_t i = 0; i < probabilities.width; ++i) {
      row[i] = static_cast<float>(std::exp(static_cast<double>(row[i]) - largest) / sum);
    }
  }
  observed.insert_or_assign("proba", std::move(probabilities));
}

/// bert4keras3's name of an output to the name that models observe: hidden_i lies after block i, Weft's hidden/i
/// before.
std::string observed_name(const std::string& name) {
  if (name == "embeddings") return "hidden/0";
  if (name == "output_norm" || name == "last_hidden") return "final";
  constexpr std::string_view kHidden = "hidden_";
  if (name.rfind(kHidden, 0) == 0) {
    int layer = 0;
    const char* end = name.data() + name.size();
    auto [parsed, error] = std::from_chars(name.data() + kHidden.size(), end, layer);
    if (error == std::errc() && parsed == end) return fmt::format("hidden/{}", static_cast<int64_t>(layer) + 1);
  }
  return name;
}

void compare_group(VerifySession& session,
                   const std::string& group,
                   const Tolerance& tolerance,
                   const PackedRows& packed) {
  GoldenFile& golden = session.golden();
  ObservedValues observed = run_forward(session.context(), session.model(), packed.batch);
  add_probabilities(observed);
  for (const std::string& dataset : golden.datasets_under(group)) {
    auto found = observed.find(observed_name(last_part(dataset)));
    if (found == observed.end()) {
      golden.skip(dataset, "this model has no intermediate value of that name");
      continue;
    }
    bool is_hidden = found->first == "final" || found->first.rfind("hidden/", 0) == 0;
    session.compare_tokens(
        dataset, is_hidden ? "hidden states" : found->first, tolerance, found->second, packed.positions);
  }
}

void verify_outputs(VerifySession& session) {
  GoldenFile& golden = session.golden();
  GoldenIds ids = golden.ids("inputs/token_ids");
  check_ids(session, "inputs/token_ids", ids);
  PackedRows whole = pack_rows(golden, ids, nullptr);
  for (const char* group : {"outputs", "outputs_float32"}) {
    if (golden.has_group(group)) compare_group(session, group, session.tolerances().get(group), whole);
  }
  for (int64_t row = 0; row < ids.rows; ++row) {
    std::string group = fmt::format("outputs_trimmed/row_{}", row);
    std::vector<std::string> datasets = golden.datasets_under(group);
    if (datasets.empty()) continue;
    int64_t length =
        golden.tensor(datasets[0]).values.size() / std::max<int64_t>(1, golden.tensor(datasets[0]).width());
    if (length > ids.length) {
      fail_input(
          "golden file {}: {} has {} positions, inputs/token_ids {}", golden.path(), datasets[0], length, ids.length);
    }
    GoldenIds trimmed{.rows = 1, .length = length, .values = ids.prefix(row, length)};
    compare_group(session, group, session.tolerances().get("outputs"), pack_rows(golden, trimmed, nullptr));
  }
}

void verify_loss(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("loss") || !golden.has("grads_inputs/token_ids")) return;
  if (golden.has("outputs/proba")) {
    golden.skip("loss", "a loss over probabilities instead of logits is not computed");
    golden.skip("grads", "gradients of a loss over probabilities instead of logits are not computed");
    return;
  }
  GoldenIds ids = golden.ids("grads_inputs/token_ids");
  check_ids(session, "grads_inputs/token_ids", ids);
  GoldenIds targets = golden.ids("grads_inputs/targets");
  check_ids(session, "grads_inputs/targets", targets);
  GoldenTensor weights = golden.tensor("grads_inputs/weights");
  if (targets.values.size() != ids.values.size() || weights.values.size() != ids.values.size()) {
    fail_input("golden file {}: grads_inputs/targets and weights must have the shape of token_ids", golden.path());
  }
  PackedRows packed = pack_rows(golden, ids, nullptr);
  verify_training(session, packed.batch, targets.values, weights.values, "loss", "grads");
}

/// How one of bert4keras3's continuations was made.
struct Continuation {
  std::string dataset;
  std::string category = "greedy continuations";
  GoldenIds prompts;
  bool one_by_one = false;  // else the batch starts behind its longest prompt, and the gaps' zeros count as tokens
  bool use_cache = true;
  int32_t end_id = -1;
  ChooseNext choose;
};

std::vector<int64_t> prompt_lengths(VerifySession& session, const GoldenIds& prompts, const std::string& dataset) {
  std::vector<int32_t> given = session.golden().integers_attribute(dataset, "prompt_lengths");
  std::vector<int64_t> lengths(given.begin(), given.end());
  if (lengths.empty()) {
    for (int64_t row = 0; row < prompts.rows; ++row) {
      int64_t length = prompts.length;
      while (length > 1 && prompts.at(row, length - 1) == 0) --length;
      lengths.push_back(length);
    }
  }
  bool fits = static_cast<int64_t>(lengths.size()) == prompts.rows;
  for (int64_t length : lengths) fits = fits && length >= 1 && length <= prompts.length;
  if (!fits)
    fail_input("golden file {}: prompt_lengths of {} do not fit the prompts", session.golden().path(), dataset);
  return lengths;
}

/// What a row of the file holds behind its prompt, up to its end id.
std::vector<int32_t> expected_ids(const GoldenIds& rows, int64_t row, int64_t start, int32_t end_id) {
  std::vector<int32_t> ids = rows.prefix(row, rows.length);
  ids.erase(ids.begin(), ids.begin() + start);
  auto end = std::find(ids.begin(), ids.end(), end_id);
  if (end != ids.end()) ids.erase(end + 1, ids.end());
  return ids;
}

void verify_continuation(VerifySession& session, const Continuation& continuation) {
  GoldenFile& golden = session.golden();
  GoldenIds rows = golden.ids(continuation.dataset);
  const GoldenIds& prompts = continuation.prompts;
  if (rows.rows != prompts.rows || rows.length != prompts.length) {
    fail_input("golden file {}: {} and its prompts differ in shape", golden.path(), continuation.dataset);
  }
  std::vector<int64_t> lengths = prompt_lengths(session, prompts, continuation.dataset);
  int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  GreedyRequest request{.prompts = {},
                        .num_new_tokens = {},
                        .end_id = continuation.end_id,
                        .use_cache = continuation.use_cache,
                        .cache_dtype = session.dtype(),
                        .choose = continuation.choose};
  std::vector<std::vector<int32_t>> expected;
  for (int64_t row = 0; row < rows.rows; ++row) {
    int64_t start = continuation.one_by_one ? lengths[static_cast<size_t>(row)] : longest;
    request.prompts.push_back(prompts.prefix(row, start));
    request.num_new_tokens.push_back(rows.length - start);
    expected.push_back(expected_ids(rows, row, start, continuation.end_id));
  }
  session.compare_ids(
      continuation.dataset, continuation.category, run_greedy(session.context(), session.model(), request), expected);
}

/// bert4keras3's cache shows a sliding window's first keys instead of its last; such a file contradicts itself, and the
/// recomputed ids are right.
bool cache_contradicts_itself(VerifySession& session) {
  GoldenFile& golden = session.golden();
  return golden.has("generate/single") && golden.has("generate/no_cache") &&
         golden.ids("generate/single").values != golden.ids("generate/no_cache").values;
}

void verify_generation(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("generate/inputs/token_ids")) return;
  GoldenIds prompts = golden.ids("generate/inputs/token_ids");
  check_ids(session, "generate/inputs/token_ids", prompts);
  bool contradicts = cache_contradicts_itself(session);
  for (const char* name : {"no_cache", "single", "batch", "batch_end"}) {
    std::string dataset = fmt::format("generate/{}", name);
    if (!golden.has(dataset)) continue;
    bool is_recomputed = std::string_view(name) == "no_cache";
    if (contradicts && !is_recomputed) {
      golden.skip(dataset,
                  "the reference's cache contradicts its own recomputed ids (generate/no_cache), which are compared");
      continue;
    }
    verify_continuation(session,
                        {.dataset = dataset,
                         .prompts = prompts,
                         .one_by_one = is_recomputed || std::string_view(name) == "single",
                         .use_cache = !is_recomputed,
                         .end_id = golden.integer_attribute(dataset, "end_token", -1),
                         .choose = {}});
  }
}

SamplerOptions sampler_options(const GoldenFile& golden, const std::string& dataset, int64_t total_length) {
  SamplerOptions options;
  options.penalty = golden.number_attribute(dataset, "penalty", 1.0);
  options.temperature = golden.number_attribute(dataset, "temperature", 1.0);
  options.penalty_window = golden.integer_attribute(dataset, "penalty_window", 0);
  options.window_mode = PenaltyWindow::block;
  std::vector<int32_t> range = golden.integers_attribute(dataset, "max_penalty_range");
  if (range.size() == 2) options.penalty_range = {range[0], range[1]};
  options.padded_length = total_length;
  return options;
}

void verify_penalties(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("generate_penalty/inputs/token_ids")) return;
  GoldenIds prompts = golden.ids("generate_penalty/inputs/token_ids");
  check_ids(session, "generate_penalty/inputs/token_ids", prompts);
  int64_t vocab_size = session.model().info().vocab_size;
  for (const std::string& dataset : golden.datasets_under("generate_penalty")) {
    if (dataset == "generate_penalty/inputs/token_ids") continue;
    SamplerOptions options = sampler_options(golden, dataset, prompts.length);
    check_sampler_options(options, vocab_size);
    Sampler sampler(vocab_size);
    verify_continuation(session,
                        {.dataset = dataset,
                         .category = "penalised continuations",
                         .prompts = prompts,
                         .choose = [&](std::span<const int32_t> ids, std::span<float> logits) {
                           return sampler.sample(logits, ids, options, 0, 0);
                         }});
  }
}

}  // namespace

void verify_keras_layout(VerifySession& session) {
  if (!session.golden().has("inputs/token_ids")) return;
  verify_outputs(session);
  verify_generation(session);
  verify_penalties(session);
  verify_loss(session);
}

}  // namespace weft
