#include "verify/verify_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "models/weight_layout.h"
#include "parallel/communicator.h"
#include "verify/low_rank.h"

namespace weft {
namespace {

struct DefaultTolerance {
  const char* kind;
  Tolerance in_float32;
  Tolerance in_bf16;
};

/// What a correct engine differs by, times about ten. The log likelihoods of thousands of tokens in a row, of a real
/// model, differ by more than a tiny model's outputs.
constexpr DefaultTolerance kDefaults[] = {
    {"outputs", {Measure::of_maximum, 2e-5}, {Measure::relative_rms, 0.03}},
    {"grads", {Measure::of_maximum, 1e-4}, {Measure::relative_rms, 0.2}},
    {"loss", {Measure::of_maximum, 2e-5}, {Measure::of_maximum, 0.02}},
    {"nll", {Measure::absolute, 1e-3}, {Measure::relative_rms, 0.05}},
    {"perplexity", {Measure::of_maximum, 1e-3}, {Measure::of_maximum, 0.02}},
    {"text_logits", {Measure::absolute, 2e-3}, {Measure::relative_rms, 0.03}},
};

Tolerance default_tolerance(std::string_view kind, bool is_bf16) {
  for (const DefaultTolerance& entry : kDefaults) {
    if (kind == entry.kind) return is_bf16 ? entry.in_bf16 : entry.in_float32;
  }
  return is_bf16 ? kDefaults[0].in_bf16 : kDefaults[0].in_float32;
}

std::vector<std::pair<std::string, Tolerance>> parse_tolerances(const GoldenFile& golden) {
  static constexpr std::pair<const char*, Measure> kMeasures[] = {{"atol", Measure::absolute},
                                                                  {"max_abs_diff_over_max_abs", Measure::of_maximum},
                                                                  {"relative_rms", Measure::relative_rms}};
  std::vector<std::pair<std::string, Tolerance>> result;
  std::string text = golden.text_attribute("", "tolerance");
  if (text.empty()) return result;
  nlohmann::json parsed = nlohmann::json::parse(text, nullptr, false);
  if (!parsed.is_object()) {
    fail_input("golden file {}: attribute tolerance is no JSON object: {}", golden.path(), printable(text));
  }
  for (const auto& [kind, entry] : parsed.items()) {
    if (!entry.is_object()) continue;
    for (const auto& [name, measure] : kMeasures) {
      if (entry.contains(name) && entry[name].is_number()) {
        result.emplace_back(kind, Tolerance{measure, entry[name].get<double>()});
      }
    }
  }
  return result;
}

}  // namespace

void add_sources(PackedRows& packed, const PackedRows& sources) {
  for (const BatchSequence& sequence : sources.batch.sequences) {
    auto begin = sources.batch.ids.begin() + sequence.begin;
    packed.batch.add_source({begin, begin + sequence.length}, sequence.slot);
  }
  packed.source_positions = sources.positions;
}

PackedRows pack_rows(const GoldenFile& golden, const GoldenIds& ids, const GoldenIds* mask) {
  if (mask != nullptr && (mask->rows != ids.rows || mask->length != ids.length)) {
    fail_input("golden file {}: the mask is [{}, {}], the ids are [{}, {}]",
               golden.path(),
               mask->rows,
               mask->length,
               ids.rows,
               ids.length);
  }
  PackedRows packed;
  for (int64_t row = 0; row < ids.rows; ++row) {
    std::vector<int32_t> tokens;
    int64_t first = -1;
    for (int64_t t = 0; t < ids.length; ++t) {
      if (mask != nullptr && mask->at(row, t) == 0) continue;
      if (first < 0) first = t;
      if (t != first + static_cast<int64_t>(tokens.size())) {
        fail_input("golden file {}: the mask of row {} has a hole before column {}; only padding at the ends is known",
                   golden.path(),
                   row,
                   t);
      }
      tokens.push_back(ids.at(row, t));
      packed.positions.push_back(row * ids.length + t);
    }
    if (!tokens.empty()) packed.batch.add(tokens, 0, row);
  }
  if (packed.positions.empty()) fail_input("golden file {}: a mask leaves no token", golden.path());
  return packed;
}

ToleranceTable::ToleranceTable(const GoldenFile& golden, const VerifyOptions& options)
    : of_file_(parse_tolerances(golden)), dtype_(options.dtype), override_(options.tolerance) {}

Tolerance ToleranceTable::get(std::string_view kind) const {
  Tolerance tolerance = default_tolerance(kind, dtype_ == DType::bf16);
  for (const auto& [name, of_file] : of_file_) {
    // A file's bounds on exact arithmetic do not bind a run in bf16.
    bool applies = dtype_ != DType::bf16 || of_file.measure == Measure::relative_rms;
    if (name == kind && applies) tolerance = of_file;
  }
  if (override_) tolerance.value = *override_;
  return tolerance;
}

Tolerance ToleranceTable::loose() const {
  Tolerance tolerance = kDefaults[0].in_bf16;
  if (override_) tolerance.value = *override_;
  return tolerance;
}

double ToleranceTable::near_tie(double largest_logit) const {
  constexpr double kNearTie = 1e-3;
  return dtype_ == DType::bf16 ? kNearTie + kDefaults[0].in_bf16.value * largest_logit : kNearTie;
}

VerifySession::VerifySession(const Context& context,
                             const OpenedModel& opened,
                             GoldenFile& golden,
                             const VerifyOptions& options)
    : context_(context), opened_(opened), golden_(golden), options_(options), tolerances_(golden, options) {}

LanguageModel& VerifySession::model(bool for_training) {
  bool has_low_rank = golden_.has_group("lora");
  for_training = for_training || has_low_rank;  // packed weights cannot be added to
  if (for_training && options_.quantization != Quantization::none) {
    fail(ExitCode::usage,
         "--quantize {}: this golden file has gradients or an adapter to add, which need whole weights",
         quantization_name(options_.quantization));
  }
  if (model_ == nullptr || model_for_training_ != for_training) {
    model_.reset();
    Communicator* peers = context_.tensor_parallel;
    model_ = opened_.make({.rank = peers == nullptr ? 0 : peers->rank(), .size = peers == nullptr ? 1 : peers->size()});
    load_parameters(context_,
                    opened_,
                    *model_,
                    {.dtype = options_.dtype,
                     .for_training = for_training,
                     .quantization = options_.quantization,
                     .show_progress = options_.show_progress,
                     .num_threads = options_.num_threads});
    model_for_training_ = for_training;
    if (has_low_rank) merge_low_rank_factors(*model_, read_low_rank_factors(golden_, opened_, *model_));
  }
  return *model_;
}

void VerifySession::compare(std::string_view dataset,
                            std::string_view category,
                            const Tolerance& tolerance,
                            const Difference& difference) {
  add({.name = std::string(dataset),
       .category = std::string(category),
       .tolerance = tolerance,
       .max_abs = difference.max_abs(),
       .max_rel = difference.max_rel(),
       .relative_rms = difference.relative_rms(),
       .count = difference.count(),
       .note = {}});
}

void VerifySession::compare_scalar(std::string_view dataset,
                                   std::string_view category,
                                   const Tolerance& tolerance,
                                   double value) {
  auto computed = static_cast<float>(value);
  auto reference = static_cast<float>(golden_.scalar(dataset));
  Difference difference;
  difference.add({&computed, 1}, {&reference, 1});
  compare(dataset, category, tolerance, difference);
}

void VerifySession::compare_tokens(std::string_view dataset,
                                   std::string_view category,
                                   const Tolerance& tolerance,
                                   const TokenValues& values,
                                   const std::vector<int64_t>& positions) {
  GoldenTensor reference = golden_.tensor(dataset);
  WEFT_ASSERT(values.rows() == static_cast<int64_t>(positions.size()));
  int64_t last = positions.empty() ? -1 : *std::max_element(positions.begin(), positions.end());
  // A value a token may stand without a dimension of its own.
  if (values.width == 1 && reference.width() != 1) reference.shape = {reference.shape.num_elements(), 1};
  if (reference.width() != values.width ||
      last >= reference.shape.num_elements() / std::max<int64_t>(values.width, 1)) {
    fail_input("golden file {}: {} is {}, the model gives {} values a token; is it the file of another model?",
               golden_.path(),
               dataset,
               to_string(reference.shape),
               values.width);
  }
  Difference difference;
  for (size_t i = 0; i < positions.size(); ++i) {
    difference.add(values.row(static_cast<int64_t>(i)), reference.row(positions[i]));
  }
  compare(dataset, category, tolerance, difference);
}

void VerifySession::compare_ids(std::string_view dataset,
                                std::string_view category,
                                const std::vector<GreedyRow>& rows,
                                const std::vector<std::vector<int32_t>>& expected) {
  Comparison comparison{
      .name = std::string(dataset), .category = std::string(category), .tolerance = {Measure::ids, 0}, .note = {}};
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::vector<int32_t>& made = rows[r].new_ids;
    auto length = static_cast<int64_t>(std::max(made.size(), expected[r].size()));
    auto [ours, theirs] = std::mismatch(made.begin(), made.end(), expected[r].begin(), expected[r].end());
    int64_t equal = ours - made.begin();
    comparison.count += length;
    if (equal == length) continue;
    double margin = -1;
    double largest = 0;
    if (ours != made.end() && theirs != expected[r].end() && *theirs >= 0) {
      const std::vector<float>& logits = rows[r].step_logits[static_cast<size_t>(equal)];
      if (static_cast<size_t>(*theirs) < logits.size()) {
        margin = logits[static_cast<size_t>(*ours)] - logits[static_cast<size_t>(*theirs)];
        for (float logit : logits) largest = std::max(largest, static_cast<double>(std::abs(logit)));
      }
    }
    bool is_tie = margin >= 0 && margin < tolerances_.near_tie(largest);
    if (!is_tie) comparison.differing_ids += static_cast<double>(length - equal);
    comparison.note += fmt::format("{}row {} {} at step {}",
                                   comparison.note.empty() ? "" : ", ",
                                   r,
                                   is_tie ? "left at a near tie" : "differs",
                                   equal);
  }
  add(std::move(comparison));
}

void VerifySession::compare_gradient(std::string_view dataset, const std::vector<float>& gradient) {
  GoldenTensor reference = golden_.tensor(dataset);
  if (reference.values.size() != gradient.size()) {
    fail_input("golden file {}: {} is {}, the model's gradient has {} elements; is it the file of another model?",
               golden_.path(),
               dataset,
               to_string(reference.shape),
               gradient.size());
  }
  Difference difference;
  difference.add(gradient, reference.values);
  // What is 0 in exact arithmetic (a key's bias under a softmax) is rounding noise on both sides.
  constexpr float kNoise = 1e-6f;
  bool is_noise = std::all_of(
      reference.values.begin(), reference.values.end(), [](float value) { return std::abs(value) < kNoise; });
  compare(dataset, "gradients", is_noise ? Tolerance{Measure::absolute, kNoise} : tolerances_.get("grads"), difference);
}

void VerifySession::compare_gradient_part(std::string_view dataset,
                                          const Parameter& parameter,
                                          const WeightSource& source,
                                          const std::vector<float>& gradient) {
  GoldenTensor reference = golden_.tensor(dataset);
  Shape expected = format_shape(source, parameter);
  if (reference.shape != expected) {
    fail_input("golden file {}: {} is {}, expected {}; is it the file of another model?",
               golden_.path(),
               dataset,
               to_string(reference.shape),
               to_string(expected));
  }
  std::vector<float> part(gradient.size());
  copy_part_back(source, parameter, reference.values.data(), part.data());
  Difference difference;
  difference.add(gradient, part);
  std::string name = fmt::format("{} ({})", dataset, parameter.name);
  compare(name, "gradients", tolerances_.get("grads"), difference);
}

VerifyReport VerifySession::finish() {
  report_.not_compared = golden_.not_compared();
  merge_ranks();
  return report_;
}

void VerifySession::merge_ranks() {
  if (context_.tensor_parallel == nullptr || context_.tensor_parallel->size() == 1 || report_.compared.empty()) return;
  auto rows = static_cast<int64_t>(report_.compared.size());
  Tensor numbers = context_.host_zeros({rows, 4}, DType::f64);
  double* values = numbers.data<double>();
  for (int64_t i = 0; i < rows; ++i) {
    const Comparison& row = report_.compared[static_cast<size_t>(i)];
    std::copy_n(std::initializer_list<double>{row.max_abs, row.max_rel, row.relative_rms, row.differing_ids}.begin(),
                4,
                values + 4 * i);
  }
  context_.tensor_parallel->all_reduce(numbers, ReduceOp::max);
  for (int64_t i = 0; i < rows; ++i) {
    Comparison& row = report_.compared[static_cast<size_t>(i)];
    row.max_abs = values[4 * i];
    row.max_rel = values[4 * i + 1];
    row.relative_rms = values[4 * i + 2];
    row.differing_ids = values[4 * i + 3];
  }
}

void check_ids(VerifySession& session, std::string_view dataset, const GoldenIds& ids) {
  int64_t vocab_size = session.model().info().vocab_size;
  for (int32_t id : ids.values) {
    if (id < 0 || id >= vocab_size) {
      fail_input("golden file {}: {} holds id {}, the model has {} ids; is it the file of another model?",
                 session.golden().path(),
                 dataset,
                 id,
                 vocab_size);
    }
  }
}

}  // namespace weft
