// Recurrent models in the layout of original implementations: state/after_chunk1/*, state/after_all/* and
// continuations of prompts of different lengths, generate/prompt_i.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <numeric>

#include "core/error.h"
#include "verify/recurrent_state.h"
#include "verify/verify_session.h"

namespace weft {
namespace {

constexpr std::array kStateNames = {"att_kv", "att_x", "ffn_x"};

void compare_states(VerifySession& session, const std::string& group, KvCache& cache) {
  auto count = static_cast<int64_t>(cache.shape().states.size());
  for (int64_t index = 0; index < count; ++index) {
    auto kind = static_cast<size_t>(index) % kStateNames.size();
    std::string dataset =
        fmt::format("{}/{}/{}", group, static_cast<size_t>(index) / kStateNames.size(), kStateNames[kind]);
    if (!session.golden().has(dataset)) continue;
    TokenValues state = gather_state(session.context(), session.model(), cache, index);
    std::vector<int64_t> rows(static_cast<size_t>(state.rows()));
    std::iota(rows.begin(), rows.end(), 0);
    session.compare_tokens(dataset, "states", session.tolerances().get("outputs"), state, rows);
  }
}

/// The file says it in words: "state after the first 10 tokens".
int64_t first_chunk(const GoldenFile& golden) {
  std::string words = golden.text_attribute("state/after_chunk1/0/att_kv", "doc");
  size_t at = words.find("first ");
  int64_t tokens = 0;
  for (at = at == std::string::npos ? words.size() : at + 6; at < words.size() && std::isdigit(words[at]) != 0; ++at) {
    tokens = tokens * 10 + (words[at] - '0');
  }
  return tokens;
}

void run_tokens(VerifySession& session, const GoldenIds& ids, int64_t begin, int64_t end, KvCache& cache) {
  Batch batch;
  for (int64_t row = 0; row < ids.rows; ++row) {
    std::vector<int32_t> whole = ids.prefix(row, end);
    batch.add({whole.begin() + begin, whole.end()}, begin, row);
  }
  Context context = session.context();
  session.model().hidden(context, batch, &cache);
}

void verify_states(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has_group("state/after_all") || !golden.has("inputs/input_ids")) return;
  GoldenIds ids = golden.ids("inputs/input_ids");
  int64_t chunk = std::min(first_chunk(golden), ids.length);
  auto cache = make_state_cache(session.context(), session.model(), ids.rows, session.dtype());
  if (chunk > 0) run_tokens(session, ids, 0, chunk, *cache);
  if (chunk > 0) compare_states(session, "state/after_chunk1", *cache);
  if (chunk < ids.length) run_tokens(session, ids, chunk, ids.length, *cache);
  compare_states(session, "state/after_all", *cache);
}

void verify_prompts(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("generate/prompt_0") || !golden.has("generate/new_tokens")) return;
  GoldenIds expected = golden.ids("generate/new_tokens");
  GreedyRequest request{.prompts = {}, .num_new_tokens = {}, .cache_dtype = session.dtype(), .choose = {}};
  std::vector<std::vector<int32_t>> rows;
  for (int64_t row = 0; row < expected.rows; ++row) {
    std::string dataset = fmt::format("generate/prompt_{}", row);
    GoldenIds prompt = golden.ids(dataset);
    check_ids(session, dataset, prompt);
    request.prompts.push_back(prompt.values);
    request.num_new_tokens.push_back(expected.length);
    rows.push_back(expected.prefix(row, expected.length));
  }
  session.compare_ids(
      "generate/new_tokens", "greedy continuations", run_greedy(session.context(), session.model(), request), rows);
}

}  // namespace

void verify_state_layout(VerifySession& session) {
  if (!session.model().info().is_recurrent) return;
  verify_states(session);
  verify_prompts(session);
}

}  // namespace weft
