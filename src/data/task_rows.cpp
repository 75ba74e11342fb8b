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
  MaskedData(std::unique_ptr<TrainingData> data,
             MaskingVocabulary vocabulary,
             double probability,
             bool whole_words,
             uint64_t seed)
      : ChangedRows(std::move(data)),
        vocabulary_(std::move(vocabulary)),
        probability_(static_cast<float>(probability)),
        whole_words_(whole_words),
        seed_(seed) {}

  TrainingRow row(int64_t index) const override {
    constexpr uint32_t kMaskingSite = 0x6d61736b;
    TrainingRow row = data_->row(index);
    RandomKey key{.seed = seed_, .step = static_cast<uint32_t>(index), .site = kMaskingSite};
    row.targets.assign(row.ids.size(), -1);
    std::vector<int32_t> original = row.ids;
    bool is_chosen = false;
    for (size_t i = 0; i < original.size(); ++i) {
      auto id = static_cast<size_t>(original[i]);
      bool goes_on = whole_words_ && i > 0 && id < vocabulary_.is_continued.size() && vocabulary_.is_continued[id];
      if (!goes_on) is_chosen = key.uniform(3 * i) < probability_;
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
  MaskingVocabulary vocabulary_;
  float probability_;
  bool whole_words_;
  uint64_t seed_;
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
                                               double probability,
                                               bool whole_words,
                                               uint64_t seed) {
  return std::make_unique<MaskedData>(std::move(data), std::move(vocabulary), probability, whole_words, seed);
}

std::unique_ptr<TrainingData> make_prefix_data(std::unique_ptr<TrainingData> data) {
  return std::make_unique<PrefixData>(std::move(data));
}

}  // namespace weft
