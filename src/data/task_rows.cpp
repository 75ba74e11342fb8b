#include "data/task_rows.h"

#include <algorithm>

#include "core/random.h"

namespace weft {
namespace {

/// All of another's but the rows.
class ChangedRows : public TrainingData {
 public:
  explicit ChangedRows(std::unique_ptr<TrainingData> data) : data_(std::move(data)) {}
  int64_t rows_per_epoch() const override { return data_->rows_per_epoch(); }
  int64_t num_tokens() const override { return data_->num_tokens(); }
  int64_t num_documents() const override { return data_->num_documents(); }
  int32_t vocab_size() const override { return data_->vocab_size(); }
  uint64_t fingerprint() const override { return data_->fingerprint(); }

 protected:
  std::unique_ptr<TrainingData> data_;
};

class MaskedData final : public ChangedRows {
 public:
  MaskedData(std::unique_ptr<TrainingData> data, MaskingVocabulary vocabulary, const MaskingOptions& options)
      : ChangedRows(std::move(data)), vocabulary_(std::move(vocabulary)), options_(options) {
    double weights = 0;
    for (int64_t n = 1; n <= options.max_ngram; ++n) weights += 1 / static_cast<double>(n);
    for (int64_t n = 1; n <= options.max_ngram; ++n) {
      double share = 1 / (static_cast<double>(n) * weights);
      up_to_.push_back((up_to_.empty() ? 0 : up_to_.back()) + share);
    }
    // A run of E words on average that begins at a free word with this probability masks the wanted part of all.
    double mean_words = static_cast<double>(options.max_ngram) / weights;
    begin_probability_ = options.probability / (mean_words * (1 - options.probability) + options.probability);
  }

  TrainingRow row(int64_t index) const override {
    constexpr uint32_t kMaskingSite = 0x6d61736b;
    TrainingRow row = data_->row(index);
    RandomKey key{.seed = options_.seed, .step = static_cast<uint32_t>(index), .site = kMaskingSite};
    row.targets.assign(row.ids.size(), -1);
    std::vector<int32_t> original = row.ids;
    int64_t words_left = 0;
    bool is_chosen = false;
    for (size_t i = 0; i < original.size(); ++i) {
      auto id = static_cast<size_t>(original[i]);
      bool goes_on =
          options_.whole_words && i > 0 && id < vocabulary_.is_continued.size() && vocabulary_.is_continued[id];
      if (!goes_on && words_left == 0) words_left = begin_run(key.uniform(3 * i));
      if (!goes_on) is_chosen = words_left > 0;
      if (!goes_on && is_chosen) --words_left;
      bool is_special = id < vocabulary_.is_special.size() && vocabulary_.is_special[id];
      if (!is_chosen || is_special) continue;
      row.targets[i] = original[i];
      float fate = key.uniform(3 * i + 1);
      if (fate < 0.8f) {
        row.ids[i] = vocabulary_.mask_id;
      } else if (fate < 0.9f) {
        auto random = static_cast<int32_t>(key.uniform(3 * i + 2) * static_cast<float>(vocabulary_.vocab_size));
        row.ids[i] = std::min(random, vocabulary_.vocab_size - 1);
      }
    }
    return row;
  }

 private:
  /// Words of a run that begins here; most often none.
  int64_t begin_run(float uniform) const {
    double place = static_cast<double>(uniform) / begin_probability_;
    if (place >= 1) return 0;
    auto found = std::upper_bound(up_to_.begin(), up_to_.end() - 1, place);
    return found - up_to_.begin() + 1;
  }

  MaskingVocabulary vocabulary_;
  MaskingOptions options_;
  std::vector<double> up_to_;  // probability of a run of up to n words, n from 1
  double begin_probability_ = 0;
};

class PrefixData final : public ChangedRows {
 public:
  using ChangedRows::ChangedRows;

  TrainingRow row(int64_t index) const override {
    TrainingRow row = data_->row(index);
    row.segments.assign(row.ids.size(), 0);
    for (const RowSpan& span : row.spans) {
      // A token belongs to the completion when the one before it is scored by it.
      for (int32_t i = 1; i < span.length; ++i) {
        auto at = static_cast<size_t>(span.begin) + static_cast<size_t>(i);
        row.segments[at] = row.targets[at - 1] >= 0 ? 1 : 0;
      }
    }
    return row;
  }
};

}  // namespace

std::unique_ptr<TrainingData> make_masked_data(std::unique_ptr<TrainingData> data,
                                               MaskingVocabulary vocabulary,
                                               const MaskingOptions& options) {
  return std::make_unique<MaskedData>(std::move(data), std::move(vocabulary), options);
}

std::unique_ptr<TrainingData> make_prefix_data(std::unique_ptr<TrainingData> data) {
  return std::make_unique<PrefixData>(std::move(data));
}

}  // namespace weft
