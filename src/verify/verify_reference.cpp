// The layout of goldens made with an original implementation such as Hugging Face transformers: inputs/input_ids with
// masks and labels, outputs/*, train/*, left_padded/*, generate/*.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "verify/verify_session.h"

namespace weft {
namespace {

struct MaskedIds {
  GoldenIds ids;
  GoldenIds mask;
  GoldenIds segments = {};
  GoldenIds source_ids = {};  // of encoder-decoders
  GoldenIds source_mask = {};

  PackedRows pack(const GoldenFile& golden) const {
    PackedRows packed = pack_rows(golden, ids, &mask);
    if (!source_ids.values.empty()) add_sources(packed, pack_rows(golden, source_ids, &source_mask));
    if (segments.values.empty()) return packed;
    for (int64_t position : packed.positions) {
      packed.batch.segment_ids.push_back(segments.values[static_cast<size_t>(position)]);
    }
    return packed;
  }
};

bool classifies_texts(const ModelInfo& info) {
  return info.task_head.kind == TaskHead::Kind::sequence_classification;
}

/// transformers' name of an output to the name that models observe.
std::string observed_name(const std::string& name, const ModelInfo& info) {
  if (name == "last_hidden_state") return "final";
  if (name == "prediction_logits") return "logits";
  if (name == "pooler_output") return "pooled";
  if (name == "seq_relationship_logits" || name == "sop_logits") return "pair_logits";
  if (name == "logits" && !info.has_language_model_head) {
    return info.task_head.kind == TaskHead::Kind::none ? "replaced_logits" : "task_logits";
  }
  return name;
}

MaskedIds read_masked(VerifySession& session, const std::string& ids_dataset, const std::string& mask_dataset) {
  GoldenFile& golden = session.golden();
  MaskedIds result{.ids = golden.ids(ids_dataset), .mask = {}, .segments = {}};
  check_ids(session, ids_dataset, result.ids);
  if (golden.has(mask_dataset)) {
    result.mask = golden.ids(mask_dataset);
  } else {
    result.mask = result.ids;
    std::fill(result.mask.values.begin(), result.mask.values.end(), 1);
  }
  return result;
}

/// Weft counts positions from a row's first real token; a file that counts otherwise would be compared with the wrong
/// thing.
void check_positions(VerifySession& session, const std::string& dataset, const MaskedIds& input) {
  if (!session.golden().has(dataset)) return;
  GoldenIds positions = session.golden().ids(dataset);
  if (positions.values.size() != input.ids.values.size()) {
    fail_input("golden file {}: {} has another shape than the ids", session.golden().path(), dataset);
  }
  for (int64_t row = 0; row < input.ids.rows; ++row) {
    int32_t next = 0;
    for (int64_t t = 0; t < input.ids.length; ++t) {
      if (input.mask.at(row, t) == 0) continue;
      if (positions.at(row, t) != next++) {
        fail_input("golden file {}: {} of row {} does not count 0, 1, 2, … from its first real token",
                   session.golden().path(),
                   dataset,
                   row);
      }
    }
  }
}

void verify_outputs(VerifySession& session, const MaskedIds& input) {
  GoldenFile& golden = session.golden();
  PackedRows packed = input.pack(golden);
  ObservedValues observed = run_forward(session.context(), session.model(), packed.batch);
  Tolerance tolerance = session.tolerances().get("outputs");
  for (const std::string& dataset : golden.datasets_under("outputs")) {
    std::string name = dataset.substr(std::string("outputs/").size());
    if (name == "logits_bf16_compute") {
      session.compare_tokens(dataset, "logits", session.tolerances().loose(), observed["logits"], packed.positions);
      continue;
    }
    auto found = observed.find(observed_name(name, session.model().info()));
    if (found == observed.end()) {
      golden.skip(dataset, "this model has no intermediate value of that name");
      continue;
    }
    bool is_of_sequence = found->first == "pooled" || found->first == "pair_logits" ||
                          (found->first == "task_logits" && classifies_texts(session.model().info()));
    std::vector<int64_t> positions = packed.positions;
    if (is_of_sequence) {
      positions.resize(packed.batch.sequences.size());
      std::iota(positions.begin(), positions.end(), 0);
    }
    bool is_hidden = found->first.ends_with("final") || found->first.find("hidden/") != std::string::npos;
    if (found->first.starts_with("encoder_")) positions = packed.source_positions;
    session.compare_tokens(dataset, is_hidden ? "hidden states" : found->first, tolerance, found->second, positions);
  }
}

void verify_left_padded(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("left_padded/logits")) return;
  MaskedIds input = read_masked(session, "left_padded/input_ids", "left_padded/attention_mask");
  check_positions(session, "left_padded/position_ids", input);
  PackedRows packed = pack_rows(golden, input.ids, &input.mask);
  ObservedValues observed = run_forward(session.context(), session.model(), packed.batch);
  session.compare_tokens(
      "left_padded/logits", "logits", session.tolerances().get("outputs"), observed["logits"], packed.positions);
}

/// Of causal models labels[t + 1] is scored by the logits at t, of others labels[t]; negative labels are not scored.
std::vector<int32_t> token_targets(const GoldenIds& labels, const PackedRows& packed, bool is_causal) {
  std::vector<int32_t> targets;
  for (int64_t position : packed.positions) {
    int64_t row = position / labels.length;
    int64_t scored = position % labels.length + (is_causal ? 1 : 0);
    targets.push_back(scored < labels.length ? std::max(labels.at(row, scored), -1) : -1);
  }
  return targets;
}

void verify_loss(VerifySession& session, const MaskedIds& input) {
  GoldenFile& golden = session.golden();
  if (!golden.has("train/loss") || !golden.has("inputs/labels")) return;
  GoldenIds labels = golden.ids("inputs/labels");
  const ModelInfo& info = session.model().info();
  bool is_of_sequences = !info.has_language_model_head && classifies_texts(info);
  size_t expected = is_of_sequences ? static_cast<size_t>(input.ids.rows) : input.ids.values.size();
  if (labels.values.size() != expected) {
    fail_input(
        "golden file {}: inputs/labels holds {} labels, expected {}", golden.path(), labels.values.size(), expected);
  }
  PackedRows packed = input.pack(golden);
  TrainingTargets targets;
  if (is_of_sequences) {
    targets.classes = labels.values;
  } else if (info.has_language_model_head) {
    // A decoder's inputs are its labels moved by the start token.
    bool are_shifted = info.attention == AttentionPattern::causal && !info.has_source;
    targets.tokens = token_targets(labels, packed, are_shifted);
    targets.weights.assign(targets.tokens.size(), 1.0f);
  } else {
    for (int64_t position : packed.positions) {
      targets.replaced.push_back(static_cast<float>(labels.values[static_cast<size_t>(position)]));
    }
  }
  for (const char* dataset : {"inputs/next_sentence_label", "inputs/sentence_order_label"}) {
    if (golden.has(dataset)) targets.pairs = golden.ids(dataset).values;
  }
  verify_training(session, packed.batch, targets, session.opened().weight_map(), "train/loss", "train/grads");
}

std::vector<std::vector<int32_t>> prompts_of(const PackedRows& packed) {
  std::vector<std::vector<int32_t>> prompts;
  for (const BatchSequence& sequence : packed.batch.sequences) {
    auto begin = packed.batch.ids.begin() + sequence.begin;
    prompts.emplace_back(begin, begin + sequence.length);
  }
  return prompts;
}

std::vector<std::vector<int32_t>> rows_of(const GoldenIds& ids) {
  std::vector<std::vector<int32_t>> rows;
  for (int64_t r = 0; r < ids.rows; ++r) rows.push_back(ids.prefix(r, ids.length));
  return rows;
}

/// Greedy continuations are taken through the cache, all rows in one ragged batch; left padding must give the same as
/// right padding.
std::vector<GreedyRow> continue_prompts(VerifySession& session,
                                        const std::string& side,
                                        int64_t steps,
                                        int32_t end_id) {
  MaskedIds input = read_masked(session, "generate/prompt_ids_" + side, "generate/prompt_mask_" + side);
  std::vector<std::vector<int32_t>> given = prompts_of(pack_rows(session.golden(), input.ids, &input.mask));
  GreedyRequest request{
      .prompts = {}, .num_new_tokens = {}, .end_id = end_id, .cache_dtype = session.dtype(), .choose = {}};
  if (session.model().info().has_source) {
    request.prompts.assign(given.size(), {session.model().info().start_id});
    request.sources = std::move(given);
  } else {
    request.prompts = std::move(given);
  }
  request.num_new_tokens.assign(request.prompts.size(), steps);
  return run_greedy(session.context(), session.model(), request);
}

void check_row_count(VerifySession& session, const char* dataset, size_t prompts, const GoldenIds& expected) {
  if (static_cast<int64_t>(prompts) != expected.rows) {
    fail_input(
        "golden file {}: {} has {} rows for {} prompts", session.golden().path(), dataset, expected.rows, prompts);
  }
}

/// Logits are compared as long as both sides chose the same ids.
void compare_step_logits(VerifySession& session, const std::vector<GreedyRow>& rows, const GoldenIds& chosen) {
  GoldenTensor reference = session.golden().tensor("generate/step_logits");
  if (reference.shape.rank() != 3 || reference.shape[0] != chosen.rows || reference.shape[1] != chosen.length ||
      reference.width() != session.model().info().vocab_size) {
    fail_input("golden file {}: generate/step_logits is {}, expected [{}, {}, {}]",
               session.golden().path(),
               to_string(reference.shape),
               chosen.rows,
               chosen.length,
               session.model().info().vocab_size);
  }
  Difference difference;
  for (int64_t r = 0; r < chosen.rows; ++r) {
    const GreedyRow& row = rows[static_cast<size_t>(r)];
    for (int64_t step = 0; step < chosen.length; ++step) {
      difference.add(row.step_logits[static_cast<size_t>(step)], reference.row(r * chosen.length + step));
      if (row.new_ids[static_cast<size_t>(step)] != chosen.at(r, step)) break;
    }
  }
  session.compare("generate/step_logits", "logits", session.tolerances().get("outputs"), difference);
}

void verify_new_tokens(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("generate/new_tokens") || golden.has("generate/prompt_0")) return;
  GoldenIds expected = golden.ids("generate/new_tokens");
  for (const char* side : {"right", "left"}) {
    if (!golden.has(fmt::format("generate/prompt_ids_{}", side))) continue;
    std::vector<GreedyRow> rows = continue_prompts(session, side, expected.length, -1);
    check_row_count(session, "generate/new_tokens", rows.size(), expected);
    session.compare_ids(
        fmt::format("generate/new_tokens ({} padded)", side), "greedy continuations", rows, rows_of(expected));
    if (std::string_view(side) == "right" && golden.has("generate/step_logits")) {
      compare_step_logits(session, rows, expected);
    }
  }
}

void verify_stopped_tokens(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("generate/eos_new_tokens") || !golden.has("generate/prompt_ids_right")) return;
  int32_t end_id = golden.integer_attribute("", "generate_eos_token_id", -1);
  if (end_id < 0) {
    golden.skip("generate/eos_new_tokens", "the file's attribute generate_eos_token_id is missing");
    return;
  }
  GoldenIds expected = golden.ids("generate/eos_new_tokens");
  std::vector<std::vector<int32_t>> rows = rows_of(expected);
  for (std::vector<int32_t>& row : rows) {
    auto end = std::find(row.begin(), row.end(), end_id);
    if (end != row.end()) row.erase(end + 1, row.end());
  }
  std::vector<GreedyRow> made = continue_prompts(session, "right", expected.length, end_id);
  check_row_count(session, "generate/eos_new_tokens", made.size(), expected);
  session.compare_ids("generate/eos_new_tokens", "greedy continuations", made, rows);
}

}  // namespace

namespace {

/// What the model reads: of encoder-decoders the decoder's side, with the other as sources.
MaskedIds read_input(VerifySession& session) {
  MaskedIds input = read_masked(session, "inputs/input_ids", "inputs/attention_mask");
  if (!session.golden().has("inputs/decoder_input_ids")) return input;
  MaskedIds decoder = read_masked(session, "inputs/decoder_input_ids", "inputs/decoder_attention_mask");
  decoder.source_ids = std::move(input.ids);
  decoder.source_mask = std::move(input.mask);
  return decoder;
}

}  // namespace

void verify_reference_layout(VerifySession& session) {
  GoldenFile& golden = session.golden();
  golden.skip("generate/hf_right_padded_new_tokens",
              "what transformers' generate() makes of right padding; its own README calls it not wanted");
  if (golden.has("inputs/input_ids")) {
    MaskedIds input = read_input(session);
    if (golden.has("inputs/token_type_ids")) input.segments = golden.ids("inputs/token_type_ids");
    check_positions(session, "inputs/position_ids", input);
    verify_outputs(session, input);
    verify_left_padded(session);
    verify_new_tokens(session);
    verify_stopped_tokens(session);
    verify_loss(session, input);
  }
}

}  // namespace weft
