#include "verify/training_golden.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::json;

Json parse_attribute(const GoldenFile& golden, const char* name) {
  std::string text = golden.text_attribute("", name);
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) {
    fail_input("golden file {}: attribute {} is missing or no JSON object; is this a golden file of training?",
               golden.path(),
               name);
  }
  return json;
}

double number(const GoldenFile& golden, const Json& object, const char* key) {
  auto found = object.find(key);
  if (found == object.end() || !found->is_number()) {
    fail_input("golden file {}: attribute hyper has no number {}", golden.path(), key);
  }
  return found->get<double>();
}

int64_t count_targets(const GoldenRow& row) {
  int64_t count = 0;
  for (int32_t target : row.targets) count += target >= 0 ? 1 : 0;
  return count;
}

/// Each token's successor in its row.
GoldenRow causal_row(std::vector<int32_t> ids, const std::vector<int32_t>& labels) {
  GoldenRow row{.ids = std::move(ids), .targets = {}};
  for (size_t t = 0; t < row.ids.size(); ++t) {
    row.targets.push_back(t + 1 < row.ids.size() && labels[t + 1] >= 0 ? labels[t + 1] : -1);
  }
  return row;
}

void add_row(MicroBatch& micro_batch, const GoldenRow& row, float weight) {
  if (row.segments.empty()) {
    micro_batch.batch.add(row.ids);
  } else {
    micro_batch.batch.add(row.ids, row.segments);
  }
  micro_batch.targets.insert(micro_batch.targets.end(), row.targets.begin(), row.targets.end());
  micro_batch.weights.insert(micro_batch.weights.end(), row.ids.size(), weight);
}

}  // namespace

TrainingGolden::TrainingGolden(GoldenFile& golden, bool is_causal) {
  read_recipe(golden);
  if (golden.has("data/offsets")) {
    read_text(golden);
  } else {
    read_rows(golden, is_causal);
  }
  num_steps_ = static_cast<int64_t>(rows_.size()) / rows_per_step_;
}

void TrainingGolden::read_recipe(const GoldenFile& golden) {
  Json hyper = parse_attribute(golden, "hyper");
  recipe_.learning_rate = number(golden, hyper, "lr");
  Json betas = hyper.value("betas", Json());
  if (!betas.is_array() || betas.size() != 2 || !betas[0].is_number() || !betas[1].is_number()) {
    fail_input("golden file {}: attribute hyper has no pair betas", golden.path());
  }
  recipe_.beta1 = betas[0].get<double>();
  recipe_.beta2 = betas[1].get<double>();
  recipe_.epsilon = number(golden, hyper, "eps");
  recipe_.weight_decay = number(golden, hyper, "weight_decay");
  recipe_.clip_norm = number(golden, hyper, "clip");
  recipe_.ema_momentum = number(golden, hyper, "ema_momentum");
  recipe_.warmup_steps = static_cast<int64_t>(number(golden, hyper, "warmup"));
  recipe_.total_steps = static_cast<int64_t>(number(golden, hyper, "total"));
  recipe_.lora_learning_rate = golden.number_attribute("", "lora_lr", recipe_.learning_rate);
}

void TrainingGolden::read_rows(GoldenFile& golden, bool is_causal) {
  GoldenIds ids = golden.ids("data/input_ids");
  bool has_labels = golden.has("data/labels");
  bool has_mask = golden.has("data/attention_mask");
  GoldenIds labels = has_labels ? golden.ids("data/labels") : ids;
  GoldenIds mask = has_mask ? golden.ids("data/attention_mask") : ids;
  bool has_segments = golden.has("data/token_type_ids");
  GoldenIds segments = has_segments ? golden.ids("data/token_type_ids") : ids;
  if (segments.rows != ids.rows || segments.length != ids.length) {
    fail_input("golden file {}: data/token_type_ids differs in shape from data/input_ids", golden.path());
  }
  if (labels.rows != ids.rows || labels.length != ids.length || mask.rows != ids.rows || mask.length != ids.length) {
    fail_input("golden file {}: data/labels or data/attention_mask differs in shape from data/input_ids",
               golden.path());
  }
  rows_per_step_ = golden.shape("data/input_ids")[-2];
  for (int64_t r = 0; r < ids.rows; ++r) {
    int64_t length = 0;
    while (length < ids.length && (!has_mask || mask.at(r, length) != 0)) ++length;
    if (is_causal) {
      rows_.push_back(causal_row(ids.prefix(r, length), labels.prefix(r, length)));
      continue;
    }
    GoldenRow row{.ids = ids.prefix(r, length), .targets = labels.prefix(r, length)};
    for (int32_t& target : row.targets) target = std::max(target, -1);
    if (has_segments) row.segments = segments.prefix(r, length);
    rows_.push_back(std::move(row));
  }
}

void TrainingGolden::read_text(GoldenFile& golden) {
  std::string named = golden.text_attribute("", "text");
  std::string path = std::filesystem::path(golden.path()).parent_path() / named.substr(0, named.find(' '));
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  GoldenIds offsets = golden.ids("data/offsets");
  auto length = static_cast<int64_t>(golden.integer_attribute("", "seq", 0));
  auto tail = static_cast<int64_t>(golden.integer_attribute("", "tail_bytes", 0));
  auto train_bytes = static_cast<int64_t>(text.size()) - tail;
  if (length < 2 || tail < 0 || train_bytes < length) {
    fail_input("{}: cannot be cut into rows as {} says (seq {}, tail_bytes {}, {} bytes)",
               path,
               golden.path(),
               length,
               tail,
               text.size());
  }
  auto window = [&](int64_t begin) {
    std::vector<int32_t> ids;
    for (int64_t i = begin; i < begin + length; ++i) {
      ids.push_back(static_cast<unsigned char>(text[static_cast<size_t>(i)]));
    }
    return causal_row(ids, ids);
  };
  rows_per_step_ = offsets.length;
  for (int32_t offset : offsets.values) {
    if (offset < 0 || offset + length > train_bytes) {
      fail_input("golden file {}: data/offsets holds {}, outside of {}", golden.path(), offset, path);
    }
    rows_.push_back(window(offset));
  }
  for (int64_t r = 0; r < tail / length; ++r) held_out_.push_back(window(train_bytes + r * length));
}

const GoldenRow& TrainingGolden::row(int64_t step, int64_t index) const {
  return rows_[static_cast<size_t>(step * rows_per_step_ + index)];
}

std::vector<MicroBatch> TrainingGolden::micro_batches(int64_t step,
                                                      Accumulation accumulation,
                                                      int rank,
                                                      int num_ranks) const {
  // The first half of the rows and the rest.
  std::vector<int64_t> bounds = {0, rows_per_step_};
  if (accumulation != Accumulation::none) bounds = {0, rows_per_step_ / 2, rows_per_step_};
  if (bounds[1] < num_ranks) {
    fail(ExitCode::usage, "{} rows cannot be shared by {} data-parallel ranks; use fewer", bounds[1], num_ranks);
  }
  auto targets_in = [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t r = begin; r < end; ++r) count += count_targets(row(step, r));
    return static_cast<double>(count);
  };
  std::vector<MicroBatch> result(bounds.size() - 1);
  for (size_t m = 0; m < result.size(); ++m) {
    int64_t begin = bounds[m], rows = bounds[m + 1] - bounds[m];
    double weight =
        accumulation == Accumulation::mean ? 0.5 / targets_in(begin, begin + rows) : 1 / targets_in(0, rows_per_step_);
    for (int64_t r = rows * rank / num_ranks; r < rows * (rank + 1) / num_ranks; ++r) {
      add_row(result[m], row(step, begin + r), static_cast<float>(weight));
    }
  }
  return result;
}

std::vector<MicroBatch> TrainingGolden::held_out(int rank, int num_ranks) const {
  auto rows = static_cast<int64_t>(held_out_.size());
  int64_t targets = 0;
  for (const GoldenRow& row : held_out_) targets += count_targets(row);
  if (rows == 0) return {};
  MicroBatch micro_batch;
  for (int64_t r = rows * rank / num_ranks; r < rows * (rank + 1) / num_ranks; ++r) {
    add_row(micro_batch, held_out_[static_cast<size_t>(r)], 1.0f / static_cast<float>(targets));
  }
  // The ranks gather blocks together: one without rows of its own computes one that counts for nothing.
  if (micro_batch.targets.empty()) add_row(micro_batch, held_out_.front(), 0);
  return {std::move(micro_batch)};
}

}  // namespace weft
