// The layout of goldens of a real model over a text: text/ids, the negative log likelihood of each next id, perplexity,
// and logits at some positions.
#include <algorithm>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "verify/verify_session.h"

namespace weft {
namespace {

void compare_likelihood(VerifySession& session, const std::vector<float>& token_loss) {
  GoldenFile& golden = session.golden();
  if (golden.has("text/nll")) {
    GoldenTensor reference = golden.tensor("text/nll");
    if (reference.values.size() != token_loss.size()) {
      fail_input("golden file {}: text/nll has {} values for {} ids",
                 golden.path(),
                 reference.values.size(),
                 token_loss.size() + 1);
    }
    Difference difference;
    difference.add(token_loss, reference.values);
    session.compare("text/nll", "log likelihoods", session.tolerances().get("nll"), difference);
  }
  if (golden.has("text/perplexity")) {
    double sum = 0;
    for (float loss : token_loss) sum += loss;
    session.compare_scalar("text/perplexity",
                           "perplexity",
                           session.tolerances().get("perplexity"),
                           std::exp(sum / static_cast<double>(token_loss.size())));
  }
}

double log_sum_exp(std::span<const float> logits) {
  double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

/// Rows of the file's dataset against what `values_of` makes of our logits at the same position.
using RowValues = std::function<std::vector<float>(int64_t row, std::span<const float> logits)>;
void compare_rows(VerifySession& session,
                  const std::string& dataset,
                  const TokenValues& logits,
                  const RowValues& values_of) {
  GoldenFile& golden = session.golden();
  if (!golden.has(dataset)) return;
  GoldenTensor reference = golden.tensor(dataset);
  int64_t width = reference.shape.rank() == 2 ? reference.width() : 1;
  if (reference.shape.rank() < 1 || reference.shape[0] != logits.rows() || width > logits.width) {
    fail_input("golden file {}: {} is {}, expected a row for each of the {} positions",
               golden.path(),
               dataset,
               to_string(reference.shape),
               logits.rows());
  }
  Difference difference;
  for (int64_t r = 0; r < logits.rows(); ++r) {
    std::vector<float> values = values_of(r, logits.row(r));
    values.resize(static_cast<size_t>(width));
    difference.add(values, {reference.values.data() + r * width, static_cast<size_t>(width)});
  }
  session.compare(dataset, "logits", session.tolerances().get("text_logits"), difference);
}

/// The k-th id differs if its logit lies further from our k-th largest than a near tie.
void compare_top_ids(VerifySession& session, const GoldenIds& top, const TokenValues& logits) {
  Comparison comparison{.name = "logits/top10_ids", .category = "logits", .tolerance = {Measure::ids, 0}, .note = {}};
  for (int64_t r = 0; r < top.rows; ++r) {
    std::span<const float> row = logits.row(r);
    std::vector<float> sorted(row.begin(), row.end());
    std::partial_sort(sorted.begin(), sorted.begin() + top.length, sorted.end(), std::greater<>());
    double tie = session.tolerances().near_tie(std::abs(sorted[0]));
    for (int64_t k = 0; k < top.length; ++k) {
      double distance = std::abs(sorted[static_cast<size_t>(k)] - row[static_cast<size_t>(top.at(r, k))]);
      if (!(distance < tie)) ++comparison.differing_ids;
      ++comparison.count;
    }
  }
  session.add(std::move(comparison));
}

void compare_logits(VerifySession& session, Context& context, const Tensor& hidden) {
  GoldenFile& golden = session.golden();
  if (!golden.has("logits/positions")) return;
  GoldenIds positions = golden.ids("logits/positions");
  TokenValues logits;
  for (int32_t position : positions.values) {
    if (position < 0 || position >= hidden.size(0)) {
      fail_input("golden file {}: logits/positions holds {}, text/ids has {}", golden.path(), position, hidden.size(0));
    }
    TokenValues row = to_token_values(session.model().logits(context, hidden.slice(position, position + 1)));
    logits.width = row.width;
    logits.values.insert(logits.values.end(), row.values.begin(), row.values.end());
  }
  compare_rows(session, "logits/first256", logits, [](int64_t, std::span<const float> row) {
    return std::vector<float>(row.begin(), row.end());
  });
  compare_rows(session, "logits/logsumexp", logits, [](int64_t, std::span<const float> row) {
    return std::vector<float>{static_cast<float>(log_sum_exp(row))};
  });
  if (!golden.has("logits/top10_ids")) return;
  GoldenIds top = golden.ids("logits/top10_ids");
  check_ids(session, "logits/top10_ids", top);
  if (top.rows != logits.rows() || top.length > logits.width) {
    fail_input("golden file {}: logits/top10_ids does not fit logits/positions", golden.path());
  }
  compare_top_ids(session, top, logits);
  compare_rows(session, "logits/top10_values", logits, [&](int64_t r, std::span<const float> row) {
    std::vector<float> values;
    for (int64_t k = 0; k < top.length; ++k) values.push_back(row[static_cast<size_t>(top.at(r, k))]);
    return values;
  });
}

}  // namespace

void verify_text_layout(VerifySession& session) {
  GoldenFile& golden = session.golden();
  if (!golden.has("text/ids")) return;
  GoldenIds ids = golden.ids("text/ids");
  check_ids(session, "text/ids", ids);
  if (ids.rows != 1 || ids.length < 2)
    fail_input("golden file {}: text/ids must be one row of 2 ids or more", golden.path());
  Batch batch;
  batch.add(ids.values);
  std::vector<int32_t> targets(ids.values.begin() + 1, ids.values.end());
  targets.push_back(-1);
  Context context = session.context();
  LanguageModel& model = session.model();
  Tensor hidden = model.hidden(context, batch, nullptr);
  std::vector<float> weights(targets.size(), 1.0f);
  std::vector<float> token_loss =
      to_token_values(language_model_loss(context, model, hidden, targets, weights).token_loss).values;
  token_loss.pop_back();
  compare_likelihood(session, token_loss);
  compare_logits(session, context, hidden);
}

}  // namespace weft
