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
#include "models/model_config.h"
#include "verify/keras_rows.h"
#include "verify/recurrent_state.h"
#include "verify/verify_session.h"

namespace weft {
namespace {

std::string last_part(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

/// bert4keras3's name of an output to the name that models observe: hidden_i lies after block i, Weft's hidden/i
/// before.
std::string observed_name(const std::string& name) {
  if (name == "embeddings") return "hidden/0";
  for (std::string stack : {"encoder_", "decoder_"}) {
    if (!name.starts_with(stack)) continue;
    std::string rest = name.substr(stack.size());
    return stack + (rest == "output" ? "final" : observed_name(rest));
  }
  if (name == "output_norm" || name == "last_hidden") return "final";
  if (name == "mlm_logits") return "logits";
  if (name == "mlm_proba") return "proba";
  if (name == "nsp_proba") return "pair_proba";
  if (name == "discriminator_logits") return "replaced_logits";
  if (name == "discriminator_proba") return "replaced_proba";
  constexpr std::string_view kHidden = "hidden_";
  if (name.rfind(kHidden, 0) == 0) {
    int layer = 0;
    const char* end = name.data() + name.size();
    auto [parsed, error] = std::from_chars(name.data() + kHidden.size(), end, layer);
    if (error == std::errc() && parsed == end) return fmt::format("hidden/{}", static_cast<int64_t>(layer) + 1);
  }
  return name;
}

TokenValues select_rows(const TokenValues& all, const std::vector<int32_t>& rows) {
  TokenValues some{.width = all.width, .values = {}};
  for (int32_t row : rows) some.values.insert(some.values.end(), all.row(row).begin(), all.row(row).end());
  return some;
}

ObservedValues run_rows(VerifySession& session, const KerasRows& rows) {
  const Context& context = session.context();
  LanguageModel& model = session.model();
  Batch batch = rows.packed.batch;
  if (rows.states.empty()) return run_forward(context, model, batch);
  for (size_t s = 0; s < batch.sequences.size(); ++s) batch.sequences[s].slot = static_cast<int64_t>(s);
  auto cache = make_state_cache(context, model, static_cast<int64_t>(batch.sequences.size()), session.dtype());
  set_matrices(model, *cache, rows.states);
  ObservedValues observed = run_forward(context, model, batch, cache.get());
  observed.insert_or_assign("state", gather_matrices(context, model, *cache));
  return observed;
}

void compare_group(VerifySession& session,
                   const std::string& group,
                   const Tolerance& tolerance,
                   const KerasRows& rows) {
  GoldenFile& golden = session.golden();
  const PackedRows& packed = rows.packed;
  ObservedValues observed = run_rows(session, rows);
  for (const std::string& dataset : golden.datasets_under(group)) {
    auto found = observed.find(observed_name(last_part(dataset)));
    if (found == observed.end()) {
      golden.skip(dataset, "this model has no intermediate value of that name");
      continue;
    }
    const std::string& name = found->first;
    bool is_hidden = name.ends_with("final") || name == "mlm_hidden" || name.find("hidden/") != std::string::npos;
    bool is_output = name == "logits" || name == "proba";
    std::string category = is_hidden ? "hidden states" : name;
    if (name == "pooled" || name == "state" || name.rfind("pair_", 0) == 0) {
      std::vector<int64_t> sequences;
      for (int64_t s = 0; s < found->second.rows(); ++s) sequences.push_back(s);
      session.compare_tokens(dataset, category, tolerance, found->second, sequences);
    } else if (is_output && !rows.scored.empty()) {
      session.compare_tokens(
          dataset, category, tolerance, select_rows(found->second, rows.scored), rows.scored_positions);
    } else {
      session.compare_tokens(dataset, category, tolerance, found->second, packed.positions_of(name));
    }
  }
}

/// Where a checkpoint lacks what the model was made of, the file holds what came of loading it.
std::string outputs_group(VerifySession& session) {
  bool has_own = session.golden().has_group("outputs_ckpt");
  if (!has_own) return "outputs";
  bool is_tensorflow = session.opened().format == ModelFormat::tensorflow;
  session.golden().skip(is_tensorflow ? "outputs" : "outputs_ckpt", "of the model loaded from another format");
  return is_tensorflow ? "outputs_ckpt" : "outputs";
}

/// The length that a row was run with alone: of its outputs, or, where they have no token each, what is not padding.
int64_t trimmed_length(GoldenFile& golden_file, const std::string& group, const GoldenIds& ids, int64_t row) {
  if (!golden_file.has("inputs/mask_positions")) {
    for (const std::string& dataset : golden_file.datasets_under(group)) {
      Shape shape = golden_file.shape(dataset);
      if (shape.rank() == 3) return shape[1];
    }
  }
  return without_padding(ids, row);
}

void verify_outputs(VerifySession& session) {
  GoldenFile& golden = session.golden();
  KerasRows whole = read_keras_rows(session, "inputs");
  std::string group_of_outputs = outputs_group(session);
  compare_group(session, group_of_outputs, session.tolerances().get("outputs"), whole);
  if (golden.has_group("outputs_float32")) {
    compare_group(session, "outputs_float32", session.tolerances().get("outputs_float32"), whole);
  }
  GoldenIds ids = golden.ids(ids_dataset(golden, "inputs"));
  if (session.opened().config->has("keep_tokens")) {
    golden.skip("outputs_trimmed", "bert4keras3's model before its vocabulary was cut");
    return;
  }
  if (group_of_outputs != "outputs") {
    golden.skip("outputs_trimmed", "of the model loaded from another format");
    return;
  }
  for (int64_t row = 0; row < ids.rows; ++row) {
    std::string group = fmt::format("outputs_trimmed/row_{}", row);
    if (golden.datasets_under(group).empty()) continue;
    int64_t length = trimmed_length(golden, group, ids, row);
    if (length > ids.length) {
      fail_input("golden file {}: {} has {} positions, the inputs {}", golden.path(), group, length, ids.length);
    }
    compare_group(session, group, session.tolerances().get("outputs"), read_keras_rows(session, "inputs", row, length));
  }
}

void verify_loss(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("loss") || !has_ids(golden, "grads_inputs")) return;
  if (golden.has("outputs/proba") || golden.has("outputs/mlm_proba")) {
    golden.skip("loss", "a loss over probabilities instead of logits is not computed");
    golden.skip("grads", "gradients of a loss over probabilities instead of logits are not computed");
    return;
  }
  KerasRows rows = read_keras_rows(session, "grads_inputs");
  GoldenIds targets = golden.ids("grads_inputs/targets");
  check_ids(session, "grads_inputs/targets", targets);
  GoldenTensor weights = golden.tensor("grads_inputs/weights");
  size_t expected = rows.scored.empty() ? rows.packed.positions.size() : rows.scored.size();
  if (targets.values.size() != expected || weights.values.size() != expected) {
    fail_input("golden file {}: grads_inputs/targets and weights must have a value a scored token", golden.path());
  }
  verify_training(session,
                  rows.packed.batch,
                  {.tokens = targets.values, .weights = weights.values, .rows = rows.scored},
                  session.opened().definition.weights(ModelFormat::keras_hdf5),
                  "loss",
                  "grads");
}

/// How one of bert4keras3's continuations was made.
struct Continuation {
  std::string dataset;
  std::string category = "greedy continuations";
  GoldenIds prompts;
  GoldenIds segments = {};
  GoldenIds sources = {};   // of encoder-decoders, whose prompts are what their answers start with
  bool one_by_one = false;  // else the batch starts behind its longest prompt, and the gaps' zeros count as tokens
  bool use_cache = true;
  int32_t end_id = -1;
  ChooseNext choose;
};

std::vector<int64_t> prompt_lengths(VerifySession& session, const GoldenIds& prompts, const std::string& dataset) {
  std::vector<int32_t> given = session.golden().integers_attribute(dataset, "prompt_lengths");
  std::vector<int64_t> lengths(given.begin(), given.end());
  if (lengths.empty()) {
    for (int64_t row = 0; row < prompts.rows; ++row) lengths.push_back(without_padding(prompts, row));
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
  const GoldenIds& sources = continuation.sources;
  bool has_sources = !sources.values.empty();
  // The file counts the tokens of an encoder-decoder's sources.
  std::vector<int64_t> lengths = prompt_lengths(session, has_sources ? sources : prompts, continuation.dataset);
  std::vector<int64_t> source_lengths(lengths.size(), sources.length);
  if (has_sources) {
    if (continuation.one_by_one) source_lengths = lengths;
    lengths.assign(lengths.size(), 1);
  }
  int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  GreedyRequest request{.prompts = {},
                        .num_new_tokens = {},
                        .end_id = continuation.end_id,
                        .use_cache = continuation.use_cache,
                        .cache_dtype = session.dtype(),
                        .choose = continuation.choose};
  std::vector<std::vector<int32_t>> expected;
  for (int64_t row = 0; row < rows.rows; ++row) {
    // bert4keras3 leaves the last token of a shorter prompt out of a recurrent model's state.
    bool is_shorter = lengths[static_cast<size_t>(row)] < longest;
    if (!continuation.one_by_one && is_shorter && session.model().info().is_recurrent) continue;
    int64_t start = continuation.one_by_one ? lengths[static_cast<size_t>(row)] : longest;
    request.prompts.push_back(prompts.prefix(row, start));
    const GoldenIds& segments = continuation.segments;
    if (!segments.values.empty()) request.segments.push_back(segments.prefix(row, segments.length));
    // bert4keras3's encoder takes padding for tokens, while its cache hides them from the decoder.
    if (has_sources) request.sources.push_back(sources.prefix(row, source_lengths[static_cast<size_t>(row)]));
    if (has_sources) request.visible_sources.push_back(without_padding(sources, row));
    request.num_new_tokens.push_back(rows.length - start);
    expected.push_back(expected_ids(rows, row, start, continuation.end_id));
  }
  session.compare_ids(
      continuation.dataset, continuation.category, run_greedy(session.context(), session.model(), request), expected);
}

GoldenIds read_segments(VerifySession& session, const std::string& group) {
  std::string dataset = group + "/inputs/segment_ids";
  return session.golden().has(dataset) ? session.golden().ids(dataset) : GoldenIds{};
}

GoldenIds read_source_ids(VerifySession& session, const std::string& group) {
  std::string dataset = group + "/inputs/encoder_token_ids";
  GoldenIds sources = session.golden().has(dataset) ? session.golden().ids(dataset) : GoldenIds{};
  check_ids(session, dataset, sources);
  return sources;
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
  if (!has_ids(golden, "generate/inputs")) return;
  GoldenIds prompts = golden.ids(ids_dataset(golden, "generate/inputs"));
  check_ids(session, ids_dataset(golden, "generate/inputs"), prompts);
  GoldenIds sources = read_source_ids(session, "generate");
  GoldenIds segments = read_segments(session, "generate");
  bool contradicts = !session.model().info().imitates_seed_cache && cache_contradicts_itself(session);
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
                         .segments = segments,
                         .sources = sources,
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
  if (!has_ids(golden, "generate_penalty/inputs")) return;
  GoldenIds prompts = golden.ids(ids_dataset(golden, "generate_penalty/inputs"));
  check_ids(session, ids_dataset(golden, "generate_penalty/inputs"), prompts);
  int64_t vocab_size = session.model().info().vocab_size;
  for (const std::string& dataset : golden.datasets_under("generate_penalty")) {
    if (dataset.rfind("generate_penalty/inputs/", 0) == 0) continue;
    SamplerOptions options = sampler_options(golden, dataset, prompts.length);
    check_sampler_options(options, vocab_size);
    Sampler sampler(vocab_size);
    verify_continuation(session,
                        {.dataset = dataset,
                         .category = "penalised continuations",
                         .prompts = prompts,
                         .segments = read_segments(session, "generate_penalty"),
                         .sources = read_source_ids(session, "generate_penalty"),
                         .choose = [&](std::span<const int32_t> ids, std::span<float> logits) {
                           return sampler.sample(logits, {.past = ids, .options = &options});
                         }});
  }
}

}  // namespace

void verify_keras_layout(VerifySession& session) {
  if (!has_ids(session.golden(), "inputs")) return;
  verify_outputs(session);
  verify_generation(session);
  verify_penalties(session);
  verify_loss(session);
}

}  // namespace weft
