#include "data/source_rows.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "data/permutation.h"

namespace weft {
namespace {

// What is shuffled, so that each has an order of its own.
constexpr uint32_t kDocumentOrder = 0;
constexpr uint32_t kRowOrder = 1;
constexpr uint32_t kPackingOrder = 2;

/// The order of `size` things in an epoch; as they are without shuffling.
class Order {
 public:
  Order(const SourceRowsOptions& options, uint32_t purpose, int64_t epoch, int64_t size) {
    if (!options.shuffle) return;
    permutation_.emplace(
        PermutationKey{
            .seed = options.seed, .epoch = static_cast<uint32_t>(epoch), .source = options.source, .purpose = purpose},
        static_cast<uint64_t>(size));
  }
  int64_t operator()(int64_t index) const {
    return permutation_ ? static_cast<int64_t>((*permutation_)(static_cast<uint64_t>(index))) : index;
  }

 private:
  std::optional<Permutation> permutation_;
};

/// Leaves the targets of tokens outside of the loss spans unscored. `first` is the position of targets[0].
void mask_targets(std::span<const LossSpan> spans, int64_t first, std::span<int32_t> targets) {
  size_t place = 0;
  for (const LossSpan& span : spans) {
    const auto begin = static_cast<size_t>(std::max<int64_t>(static_cast<int64_t>(span.begin) - first, 0));
    if (begin > place) std::fill(targets.begin() + place, targets.begin() + begin, -1);
    place = static_cast<size_t>(std::clamp<int64_t>(
        static_cast<int64_t>(span.end) - first, static_cast<int64_t>(begin), static_cast<int64_t>(targets.size())));
  }
  std::fill(targets.begin() + place, targets.end(), -1);
}

/// Adds a part of a document to a row.
void append_part(const TokenFile& file, TokenRange part, const TokenRange& document, TrainingRow& row) {
  const size_t begin = row.ids.size();
  const auto length = static_cast<size_t>(part.size());
  const size_t num_targets = part.end < document.end ? length : length - 1;
  row.spans.push_back({static_cast<int32_t>(begin), static_cast<int32_t>(length)});
  row.ids.resize(begin + length);
  row.targets.resize(begin + length, -1);
  file.read_tokens(part.begin, part.end, row.ids.data() + begin);
  const std::span<int32_t> targets(row.targets.data() + begin, num_targets);
  file.read_tokens(part.begin + 1, part.begin + 1 + static_cast<int64_t>(num_targets), targets.data());
  if (!file.has_loss_spans()) return;
  mask_targets(
      file.loss_spans(part.begin + 1, part.begin + 1 + static_cast<int64_t>(num_targets)), part.begin + 1, targets);
}

/// Documents one after the other in the epoch's order, cut into rows, which then come in an order of their own: one
/// long text would otherwise be read from begin to end.
class SplitRows : public SourceRows {
 public:
  SplitRows(DocumentView view, const SourceRowsOptions& options) : view_(std::move(view)), options_(options) {}

  int64_t rows_per_epoch() const override {
    return (view_.num_tokens() + options_.sequence_length - 1) / options_.sequence_length;
  }

  TrainingRow row(int64_t epoch, int64_t index) const override {
    const std::shared_ptr<const Index> starts = index_of(options_.shuffle ? epoch : 0);
    const Order documents(options_, kDocumentOrder, epoch, view_.num_documents());
    const Order rows(options_, kRowOrder, epoch, rows_per_epoch());
    int64_t position = rows(index) * options_.sequence_length;
    const int64_t end = std::min(position + options_.sequence_length, view_.num_tokens());
    int64_t place = std::upper_bound(starts->begin(), starts->end(), position) - starts->begin() - 1;
    TrainingRow row;
    for (; position < end; ++place) {
      const TokenRange document = view_.document(documents(place));
      const int64_t start = (*starts)[static_cast<size_t>(place)];
      const TokenRange part = {document.begin + position - start, std::min(document.end, document.begin + end - start)};
      if (part.size() > 0) append_part(view_.file(), part, document, row);
      position += part.size();
    }
    return row;
  }

 private:
  // Where each document of the epoch's order begins in its sequence of tokens, and the end.
  using Index = std::vector<int64_t>;
  struct CachedIndex {
    int64_t epoch = 0;
    std::shared_ptr<const Index> starts;
  };

  /// Those of two epochs are kept: a batch may reach from one into the next.
  std::shared_ptr<const Index> index_of(int64_t epoch) const {
    const std::scoped_lock lock(mutex_);
    for (const CachedIndex& cached : cache_) {
      if (cached.starts && cached.epoch == epoch) return cached.starts;
    }
    CachedIndex& oldest = cache_[static_cast<size_t>(next_++ % 2)];
    oldest = {epoch, nullptr};
    oldest.starts = build_index(epoch);
    return oldest.starts;
  }

  std::shared_ptr<const Index> build_index(int64_t epoch) const {
    auto starts = std::make_shared<Index>();
    const Order documents(options_, kDocumentOrder, epoch, view_.num_documents());
    starts->reserve(static_cast<size_t>(view_.num_documents()) + 1);
    int64_t start = 0;
    for (int64_t i = 0; i < view_.num_documents(); ++i) {
      starts->push_back(start);
      start += view_.document(documents(i)).size();
    }
    starts->push_back(start);
    return starts;
  }

  DocumentView view_;
  SourceRowsOptions options_;
  mutable std::mutex mutex_;
  mutable std::array<CachedIndex, 2> cache_;
  mutable int next_ = 0;
};

/// Rows of whole documents, put together once; their order is the epoch's.
class WholeRows : public SourceRows {
 public:
  WholeRows(DocumentView view, const SourceRowsOptions& options, bool one_a_row)
      : view_(std::move(view)), options_(options) {
    collect_documents();
    if (one_a_row) {
      row_begins_.resize(documents_.size() + 1);
      std::iota(row_begins_.begin(), row_begins_.end(), 0);
    } else {
      pack();
    }
  }

  int64_t rows_per_epoch() const override { return static_cast<int64_t>(row_begins_.size()) - 1; }
  int64_t num_cut_documents() const override { return num_cut_documents_; }

  TrainingRow row(int64_t epoch, int64_t index) const override {
    const Order rows(options_, kRowOrder, epoch, rows_per_epoch());
    const auto place = static_cast<size_t>(rows(index));
    TrainingRow row;
    for (int64_t i = row_begins_[place]; i < row_begins_[place + 1]; ++i) {
      const int64_t document = documents_[static_cast<size_t>(i)];
      append_part(view_.file(), fitting_part(document), view_.document(document), row);
    }
    return row;
  }

 private:
  TokenRange fitting_part(int64_t document) const {
    const TokenRange range = view_.document(document);
    return {range.begin, std::min(range.end, range.begin + options_.sequence_length)};
  }

  /// Those of which something is scored within a row.
  void collect_documents() {
    const TokenFile& file = view_.file();
    for (int64_t i = 0; i < view_.num_documents(); ++i) {
      const TokenRange range = view_.document(i);
      const int64_t end = std::min(range.end, range.begin + options_.sequence_length + 1);
      num_cut_documents_ += end < range.end ? 1 : 0;
      const bool is_scored =
          range.size() > 1 && (!file.has_loss_spans() || !file.loss_spans(range.begin + 1, end).empty());
      if (is_scored) documents_.push_back(i);
    }
  }

  /// First fit among a bounded number of open rows, so that packing takes linear time; the one that has been open
  /// longest is closed.
  void pack() {
    constexpr size_t kMaxOpenRows = 64;
    const auto num_documents = static_cast<int64_t>(documents_.size());
    const Order order(options_, kPackingOrder, 0, num_documents);
    std::vector<int64_t> rooms;      // of the open rows, apart for speed
    std::vector<int64_t> open_rows;  // their numbers
    std::vector<int64_t> row_of(documents_.size());
    int64_t num_rows = 0;
    for (int64_t i = 0; i < num_documents; ++i) {
      const int64_t length = fitting_part(documents_[static_cast<size_t>(order(i))]).size();
      auto room = std::find_if(rooms.begin(), rooms.end(), [&](int64_t free) { return free >= length; });
      if (room == rooms.end()) {
        open_rows.push_back(num_rows++);
        room = rooms.insert(rooms.end(), options_.sequence_length);
      }
      const auto place = room - rooms.begin();
      row_of[static_cast<size_t>(i)] = open_rows[static_cast<size_t>(place)];
      *room -= length;
      const bool is_full = *room < 2;  // no document is shorter
      if (!is_full && rooms.size() <= kMaxOpenRows) continue;
      const auto closed = is_full ? place : 0;
      rooms.erase(rooms.begin() + closed);
      open_rows.erase(open_rows.begin() + closed);
    }
    sort_by_row(order, row_of, num_rows);
  }

  /// Documents in their order, row after row.
  void sort_by_row(const Order& order, const std::vector<int64_t>& row_of, int64_t num_rows) {
    row_begins_.assign(static_cast<size_t>(num_rows) + 1, 0);
    for (const int64_t row : row_of) ++row_begins_[static_cast<size_t>(row) + 1];
    std::partial_sum(row_begins_.begin(), row_begins_.end(), row_begins_.begin());
    std::vector<int64_t> next = row_begins_;
    std::vector<int64_t> sorted(documents_.size());
    for (size_t i = 0; i < row_of.size(); ++i) {
      const int64_t document = documents_[static_cast<size_t>(order(static_cast<int64_t>(i)))];
      sorted[static_cast<size_t>(next[static_cast<size_t>(row_of[i])]++)] = document;
    }
    documents_ = std::move(sorted);
  }

  DocumentView view_;
  SourceRowsOptions options_;
  std::vector<int64_t> documents_;   // row after row
  std::vector<int64_t> row_begins_;  // in documents_, and the end
  int64_t num_cut_documents_ = 0;
};

}  // namespace

std::unique_ptr<SourceRows> make_source_rows(DocumentView view, Packing packing, const SourceRowsOptions& options) {
  if (packing == Packing::split) return std::make_unique<SplitRows>(std::move(view), options);
  return std::make_unique<WholeRows>(std::move(view), options, packing == Packing::none);
}

}  // namespace weft
