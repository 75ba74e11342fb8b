#include "data/training_data.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "data/mixture.h"
#include "data/source_rows.h"
#include "data/token_file.h"
#include "data/token_file_format.h"

namespace weft {
namespace {

// Rows are indexed with 32 bits, and nobody trains on longer ones.
constexpr int64_t kMaxSequenceLength = int64_t{1} << 24;
// A smaller share would never be seen, and an epoch would never end.
constexpr double kMinShare = 1e-6;

void check_options(const TrainingDataOptions& options) {
  if (options.sources.empty()) fail_input("data.sources: none given; name at least one token file");
  if (options.sequence_length < 1 || options.sequence_length > kMaxSequenceLength) {
    fail_input("data.sequence_length: {} is not between 1 and {}", options.sequence_length, kMaxSequenceLength);
  }
  if (!(options.held_out_fraction >= 0 && options.held_out_fraction < 1)) {
    fail_input("evaluation.held_out_fraction: {} is not at least 0 and less than 1", options.held_out_fraction);
  }
  if (options.part == DataPart::held_out && options.held_out_fraction == 0) {
    fail_input("evaluation.held_out_fraction: 0 holds nothing out");
  }
  double sum = 0;
  for (const DataSourceOptions& source : options.sources) {
    if (!(std::isfinite(source.weight) && source.weight > 0)) {
      fail_input("data.sources: {} has weight {}, expected a positive number", printable(source.path), source.weight);
    }
    sum += source.weight;
  }
  for (const DataSourceOptions& source : options.sources) {
    if (source.weight < kMinShare * sum) {
      fail_input("data.sources: {} has weight {}, less than a millionth of all; leave it out or give it more",
                 printable(source.path),
                 source.weight);
    }
  }
}

std::vector<double> weights_of(const TrainingDataOptions& options) {
  std::vector<double> weights;
  for (const DataSourceOptions& source : options.sources) weights.push_back(source.weight);
  return weights;
}

template <typename Value>
void add_to_hash(uint64_t& hash, Value value) {
  hash = checksum_bytes({reinterpret_cast<const char*>(&value), sizeof(value)}, hash);
}

class MixedData : public TrainingData {
 public:
  explicit MixedData(const TrainingDataOptions& options) : mixture_(weights_of(options)) {
    hash_options(options);
    for (const DataSourceOptions& source : options.sources) add_source(source, options);
    rows_per_epoch_ = find_rows_per_epoch();
  }

  TrainingRow row(int64_t index) const override {
    WEFT_ASSERT(index >= 0);
    const Mixture::Place place = mixture_.place(index);
    const SourceRows& rows = *sources_[static_cast<size_t>(place.source)];
    return rows.row(place.index / rows.rows_per_epoch(), place.index % rows.rows_per_epoch());
  }

  int64_t rows_per_epoch() const override { return rows_per_epoch_; }
  int64_t num_tokens() const override { return num_tokens_; }
  int64_t num_documents() const override { return num_documents_; }
  int64_t num_cut_documents() const override { return num_cut_documents_; }
  int32_t vocab_size() const override { return vocab_size_; }
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  void hash_options(const TrainingDataOptions& options) {
    add_to_hash(fingerprint_, options.sequence_length);
    add_to_hash(fingerprint_, options.seed);
    add_to_hash(fingerprint_, static_cast<int>(options.packing) * 2 + (options.shuffle ? 1 : 0));
    add_to_hash(fingerprint_, static_cast<int>(options.part));
    add_to_hash(fingerprint_, options.held_out_fraction);
  }

  void add_source(const DataSourceOptions& source, const TrainingDataOptions& options) {
    auto file = std::make_shared<const TokenFile>(source.path);
    check_tokenizer(*file, options);
    add_to_hash(fingerprint_, file->checksum());
    add_to_hash(fingerprint_, source.weight);
    const std::string path = file->path();
    DocumentView view(std::move(file), options.part, options.held_out_fraction);
    num_tokens_ += view.num_tokens();
    num_documents_ += view.num_documents();
    auto rows = make_source_rows(std::move(view),
                                 options.packing,
                                 {.sequence_length = options.sequence_length,
                                  .shuffle = options.shuffle,
                                  .seed = options.seed,
                                  .source = static_cast<uint32_t>(sources_.size())});
    if (rows->rows_per_epoch() == 0) {
      fail_input("{}: nothing to {}: no document has a token to predict within {} tokens",
                 path,
                 options.part == DataPart::held_out ? "evaluate on" : "train on",
                 options.sequence_length);
    }
    num_cut_documents_ += rows->num_cut_documents();
    sources_.push_back(std::move(rows));
  }

  void check_tokenizer(const TokenFile& file, const TrainingDataOptions& options) {
    if (options.tokenizer_fingerprint != 0 && file.tokenizer_fingerprint() != options.tokenizer_fingerprint) {
      fail_input("{}: prepared with another tokenizer than the model's; prepare it anew with the model's", file.path());
    }
    if (sources_.empty()) {
      tokenizer_fingerprint_ = file.tokenizer_fingerprint();
      vocab_size_ = file.vocab_size();
    } else if (file.tokenizer_fingerprint() != tokenizer_fingerprint_) {
      fail_input("{}: prepared with another tokenizer than {}; prepare all sources with the model's",
                 file.path(),
                 printable(options.sources[0].path));
    }
  }

  int64_t find_rows_per_epoch() const {
    int64_t most = 0;
    for (size_t i = 0; i < sources_.size(); ++i) {
      int64_t low = 0;
      int64_t high = 1;
      const auto has_seen_all = [&](int64_t rows) {
        return mixture_.count(static_cast<int64_t>(i), rows) >= sources_[i]->rows_per_epoch();
      };
      while (!has_seen_all(high) && high < INT64_MAX / 4) high *= 2;
      while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (has_seen_all(middle) ? high : low) = middle;
      }
      most = std::max(most, high);
    }
    return most;
  }

  Mixture mixture_;
  std::vector<std::unique_ptr<SourceRows>> sources_;
  uint64_t tokenizer_fingerprint_ = 0;
  uint64_t fingerprint_ = 0;
  int32_t vocab_size_ = 0;
  int64_t rows_per_epoch_ = 0;
  int64_t num_tokens_ = 0;
  int64_t num_documents_ = 0;
  int64_t num_cut_documents_ = 0;
};

}  // namespace

std::unique_ptr<TrainingData> open_training_data(const TrainingDataOptions& options) {
  check_options(options);
  return std::make_unique<MixedData>(options);
}

}  // namespace weft
