#include "data/task_rows.h"

#include <algorithm>
#include <cmath>
#include <span>

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
  int64_t num_cut_documents() const override { return data_->num_cut_documents(); }
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

/// Appends a source and the answer to it, of which `targets` are scored.
void add_pair(TrainingRow& row,
              std::span<const int32_t> source,
              std::span<const int32_t> answer,
              std::span<const int32_t> targets,
              int32_t start_id) {
  row.sources.push_back(
      {.begin = static_cast<int32_t>(row.source_ids.size()), .length = static_cast<int32_t>(source.size())});
  row.source_ids.insert(row.source_ids.end(), source.begin(), source.end());
  row.spans.push_back({.begin = static_cast<int32_t>(row.ids.size()), .length = static_cast<int32_t>(answer.size())});
  row.ids.push_back(start_id);
  row.ids.insert(row.ids.end(), answer.begin(), answer.end() - 1);
  row.targets.insert(row.targets.end(), targets.begin(), targets.end());
}

class SourceData final : public ChangedRows {
 public:
  SourceData(std::unique_ptr<TrainingData> data, int32_t start_id)
      : ChangedRows(std::move(data)), start_id_(start_id) {}

  TrainingRow row(int64_t index) const override {
    TrainingRow whole = data_->row(index);
    TrainingRow pairs;
    for (const RowSpan& span : whole.spans) {
      auto begin = static_cast<size_t>(span.begin), length = static_cast<size_t>(span.length);
      std::span<const int32_t> ids = std::span(whole.ids).subspan(begin, length);
      std::span<const int32_t> targets = std::span(whole.targets).subspan(begin, length);
      size_t split = 1;
      while (split < length && targets[split - 1] < 0) ++split;
      if (split == length) {
        // A prompt that leaves no room for its completion: what of it there is, unscored.
        constexpr int32_t kUnscored = -1;
        add_pair(pairs, ids, ids.last(1), {&kUnscored, 1}, start_id_);
        continue;
      }
      // A later prompt, of a conversation, stands between what is scored.
      add_pair(pairs, ids.first(split), ids.subspan(split), targets.subspan(split - 1, length - split), start_id_);
    }
    return pairs;
  }

 private:
  int32_t start_id_;
};

class CorruptedData final : public ChangedRows {
 public:
  CorruptedData(std::unique_ptr<TrainingData> data, CorruptionVocabulary vocabulary, const CorruptionOptions& options)
      : ChangedRows(std::move(data)), vocabulary_(std::move(vocabulary)), options_(options) {}

  TrainingRow row(int64_t index) const override {
    TrainingRow whole = data_->row(index);
    TrainingRow pairs;
    for (size_t s = 0; s < whole.spans.size(); ++s) {
      const RowSpan& span = whole.spans[s];
      std::span<const int32_t> ids =
          std::span(whole.ids).subspan(static_cast<size_t>(span.begin), static_cast<size_t>(span.length));
      if (ids.size() > 1 && ids.back() == vocabulary_.end_id) ids = ids.first(ids.size() - 1);
      corrupt(ids, index, static_cast<uint32_t>(s), pairs);
    }
    return pairs;
  }

 private:
  /// Cuts `total` into `count` parts of at least one, at random places.
  static std::vector<size_t> cut(size_t total, size_t count, const RandomKey& key, uint64_t first_draw) {
    // The places where a new part begins: count − 1 of total − 1, drawn one after the other.
    std::vector<bool> begins(total, false);
    size_t wanted = count - 1;
    for (size_t place = 1; place < total && wanted > 0; ++place) {
      size_t left = total - place;
      auto draw = static_cast<double>(key.uniform(first_draw + place)) * static_cast<double>(left);
      if (draw < static_cast<double>(wanted)) {
        begins[place] = true;
        --wanted;
      }
    }
    std::vector<size_t> parts = {1};
    for (size_t place = 1; place < total; ++place) {
      if (begins[place]) {
        parts.push_back(1);
      } else {
        ++parts.back();
      }
    }
    return parts;
  }

  void corrupt(std::span<const int32_t> ids, int64_t index, uint32_t span, TrainingRow& row) const {
    constexpr uint32_t kCorruptionSite = 0x7370616e;
    RandomKey key{.seed = options_.seed, .step = static_cast<uint32_t>(index), .site = kCorruptionSite + span};
    auto length = static_cast<double>(ids.size());
    auto noise = static_cast<size_t>(std::clamp(std::round(length * options_.density), 1.0, std::max(length - 1, 1.0)));
    size_t rest = ids.size() > noise ? ids.size() - noise : 0;
    auto runs = static_cast<size_t>(std::max(std::round(static_cast<double>(noise) / options_.mean_length), 1.0));
    runs = std::min({runs, noise, std::max<size_t>(rest, 1), vocabulary_.sentinels.size()});
    std::vector<int32_t> source, target;
    std::vector<size_t> kept = rest == 0 ? std::vector<size_t>{0} : cut(rest, runs, key, 0);
    std::vector<size_t> taken = cut(noise, runs, key, ids.size());
    size_t at = 0;
    for (size_t run = 0; run < runs; ++run) {
      auto keep = ids.subspan(at, kept[run]);
      auto take = ids.subspan(at + kept[run], taken[run]);
      source.insert(source.end(), keep.begin(), keep.end());
      source.push_back(vocabulary_.sentinels[run]);
      target.push_back(vocabulary_.sentinels[run]);
      target.insert(target.end(), take.begin(), take.end());
      at += kept[run] + taken[run];
    }
    if (vocabulary_.end_id >= 0) {
      source.push_back(vocabulary_.end_id);
      target.push_back(vocabulary_.end_id);
    }
    add_pair(row, source, target, target, vocabulary_.start_id);
  }

  CorruptionVocabulary vocabulary_;
  CorruptionOptions options_;
};

}  // namespace

std::unique_ptr<TrainingData> make_source_data(std::unique_ptr<TrainingData> data, int32_t start_id) {
  return std::make_unique<SourceData>(std::move(data), start_id);
}

std::unique_ptr<TrainingData> make_corrupted_data(std::unique_ptr<TrainingData> data,
                                                  CorruptionVocabulary vocabulary,
                                                  const CorruptionOptions& options) {
  return std::make_unique<CorruptedData>(std::move(data), std::move(vocabulary), options);
}

std::unique_ptr<TrainingData> make_masked_data(std::unique_ptr<TrainingData> data,
                                               MaskingVocabulary vocabulary,
                                               const MaskingOptions& options) {
  return std::make_unique<MaskedData>(std::move(data), std::move(vocabulary), options);
}

std::unique_ptr<TrainingData> make_prefix_data(std::unique_ptr<TrainingData> data) {
  return std::make_unique<PrefixData>(std::move(data));
}

}  // namespace weft
