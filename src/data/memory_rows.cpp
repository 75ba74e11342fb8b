#include "data/memory_rows.h"

#include <algorithm>

#include "core/error.h"
#include "data/permutation.h"
#include "data/token_file_format.h"

namespace weft {
namespace {

template <typename T>
uint64_t checksum_of(const std::vector<T>& values, uint64_t before) {
  return checksum_bytes({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}, before);
}

class MemoryRows final : public TrainingData {
 public:
  MemoryRows(std::vector<TrainingRow> rows, bool shuffle, uint64_t seed)
      : rows_(std::move(rows)), shuffle_(shuffle), seed_(seed) {
    WEFT_ASSERT(!rows_.empty());
    for (const TrainingRow& row : rows_) {
      num_tokens_ += static_cast<int64_t>(row.ids.size());
      largest_id_ = std::max(largest_id_, *std::max_element(row.ids.begin(), row.ids.end()));
      fingerprint_ = checksum_of(row.ids, fingerprint_);
      fingerprint_ = checksum_of(row.targets, fingerprint_);
      fingerprint_ = checksum_of(row.labels, fingerprint_);
      fingerprint_ = checksum_of(row.marks, fingerprint_);
      fingerprint_ = checksum_of(row.relations, fingerprint_);
      fingerprint_ = checksum_of(row.scores, fingerprint_);
      fingerprint_ = checksum_of(row.condition_labels, fingerprint_);
      fingerprint_ = checksum_of(row.condition_values, fingerprint_);
    }
  }

  TrainingRow row(int64_t index) const override {
    auto size = static_cast<int64_t>(rows_.size());
    auto within = static_cast<uint64_t>(index % size);
    if (shuffle_) {
      PermutationKey key{.seed = seed_, .epoch = static_cast<uint32_t>(index / size), .source = 0, .purpose = 2};
      within = Permutation(key, rows_.size())(within);
    }
    return rows_[within];
  }
  int64_t rows_per_epoch() const override { return static_cast<int64_t>(rows_.size()); }
  int64_t num_tokens() const override { return num_tokens_; }
  int64_t num_documents() const override { return static_cast<int64_t>(rows_.size()); }
  int32_t vocab_size() const override { return largest_id_ + 1; }
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  std::vector<TrainingRow> rows_;
  bool shuffle_;
  uint64_t seed_;
  int64_t num_tokens_ = 0;
  int32_t largest_id_ = 0;
  uint64_t fingerprint_ = 0;
};

}  // namespace

std::unique_ptr<TrainingData> make_memory_rows(std::vector<TrainingRow> rows, bool shuffle, uint64_t seed) {
  return std::make_unique<MemoryRows>(std::move(rows), shuffle, seed);
}

}  // namespace weft
