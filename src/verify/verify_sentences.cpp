// The layout of goldens of sentence encoders: input_ids, attention_mask, and embeddings, mean_pooled, pooler_output,
// hidden/sentence_<i>/<layer>.
#include <fmt/format.h>

#include "core/error.h"
#include "generate/sentence_encoder.h"
#include "verify/verify_session.h"

namespace weft {
namespace {

void compare_rows(VerifySession& session, const char* dataset, std::vector<float> values, int64_t width) {
  if (!session.golden().has(dataset)) return;
  std::vector<int64_t> rows;
  for (int64_t r = 0; r < static_cast<int64_t>(values.size()) / width; ++r) rows.push_back(r);
  Tolerance tolerance = session.computes_in_bf16() ? session.tolerances().loose() : Tolerance{Measure::absolute, 1e-5};
  session.compare_tokens(dataset, "sentence vectors", tolerance, {.width = width, .values = std::move(values)}, rows);
}

void compare_hidden(VerifySession& session, const std::vector<TokenisedText>& texts) {
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string group = fmt::format("hidden/sentence_{}", i);
    if (!session.golden().has_group(group)) continue;
    Batch batch;
    batch.add(texts[i].ids);
    ObservedValues observed = run_forward(session.context(), session.model(), batch);
    for (const std::string& dataset : session.golden().datasets_under(group)) {
      auto found = observed.find("hidden/" + dataset.substr(group.size() + 1));
      if (found == observed.end()) continue;
      std::vector<int64_t> positions;
      for (int64_t t = 0; t < found->second.rows(); ++t) positions.push_back(t);
      session.compare_tokens(dataset, "hidden states", session.tolerances().get("outputs"), found->second, positions);
    }
  }
}

}  // namespace

void verify_sentence_layout(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("input_ids") || !golden.has("embeddings")) return;
  golden.skip("cosine", "products of embeddings, which are compared");
  GoldenIds ids = golden.ids("input_ids");
  check_ids(session, "input_ids", ids);
  GoldenIds mask = golden.ids("attention_mask");
  PackedRows packed = pack_rows(golden, ids, &mask);
  std::vector<TokenisedText> texts;
  for (const BatchSequence& sequence : packed.batch.sequences) {
    auto begin = packed.batch.ids.begin() + sequence.begin;
    texts.push_back({.ids = {begin, begin + sequence.length}});
  }
  compare_hidden(session, texts);
  Context context = session.context();
  LanguageModel& model = session.model();
  auto encode = [&](Pooling pooling, bool normalises) {
    return encode_sentences(context, model, texts, {.pooling = pooling, .normalise = normalises});
  };
  int64_t width = model.info().hidden_size;
  compare_rows(session, "embeddings", encode(Pooling::mean, true), width);
  compare_rows(session, "mean_pooled", encode(Pooling::mean, false), width);
  if (golden.has("pooler_output")) compare_rows(session, "pooler_output", encode(Pooling::pooled, false), width);
}

}  // namespace weft
