// Rows with sources: what encoder-decoders are trained on.
#include "data/task_rows.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "data/document_encoder.h"
#include "support/paths.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

/// Rows as they are given.
class GivenRows : public TrainingData {
 public:
  explicit GivenRows(std::vector<TrainingRow> rows) : rows_(std::move(rows)) {}
  TrainingRow row(int64_t index) const override { return rows_[static_cast<size_t>(index) % rows_.size()]; }
  int64_t rows_per_epoch() const override { return static_cast<int64_t>(rows_.size()); }
  int64_t num_tokens() const override { return 1; }
  int64_t num_documents() const override { return 1; }
  int32_t vocab_size() const override { return 1000; }
  uint64_t fingerprint() const override { return 5; }

 private:
  std::vector<TrainingRow> rows_;
};

/// A row of documents whose tokens from `scored` on are scored.
struct Document {
  std::vector<int32_t> ids;
  size_t scored = 0;
};
TrainingRow row_of(const std::vector<Document>& documents) {
  TrainingRow row;
  for (const Document& document : documents) {
    row.spans.push_back(
        {.begin = static_cast<int32_t>(row.ids.size()), .length = static_cast<int32_t>(document.ids.size())});
    row.ids.insert(row.ids.end(), document.ids.begin(), document.ids.end());
    for (size_t i = 1; i <= document.ids.size(); ++i) {
      row.targets.push_back(i < document.ids.size() && i >= document.scored ? document.ids[i] : -1);
    }
  }
  return row;
}

std::vector<int32_t> part(const std::vector<int32_t>& ids, const RowSpan& span) {
  return {ids.begin() + span.begin, ids.begin() + span.begin + span.length};
}

TEST(SourceRows, PromptsAreSourcesAndCompletionsFollowTheStart) {
  auto data = make_source_data(
      std::make_unique<GivenRows>(std::vector{row_of({{{10, 11, 12, 20, 21, 1}, 3}, {{13, 22, 1}, 1}})}), 7);
  TrainingRow row = data->row(0);
  EXPECT_THAT(row.source_ids, ElementsAre(10, 11, 12, 13));
  EXPECT_THAT(row.sources, ElementsAre(RowSpan{0, 3}, RowSpan{3, 1}));
  EXPECT_THAT(row.ids, ElementsAre(7, 20, 21, 7, 22));
  EXPECT_THAT(row.targets, ElementsAre(20, 21, 1, 22, 1));
  EXPECT_THAT(row.spans, ElementsAre(RowSpan{0, 3}, RowSpan{3, 2}));
  EXPECT_THAT(row.segments, IsEmpty());
  EXPECT_EQ(data->fingerprint(), 5u);
}

TEST(SourceRows, APromptThatLeavesNoRoomIsNotScored) {
  TrainingRow row =
      make_source_data(std::make_unique<GivenRows>(std::vector{row_of({{{10, 11, 12}, 3}, {{13}, 1}})}), 7)->row(0);
  EXPECT_THAT(row.source_ids, ElementsAre(10, 11, 12, 13));
  EXPECT_THAT(row.sources, ElementsAre(RowSpan{0, 3}, RowSpan{3, 1}));
  EXPECT_THAT(row.ids, ElementsAre(7, 7));
  EXPECT_THAT(row.targets, ElementsAre(-1, -1));
}

TEST(SourceRows, OnlyWhatIsScoredOfALaterAnswerIsATarget) {
  TrainingRow conversation = row_of({{{10, 11, 20, 21, 12, 13, 22, 1}, 2}});
  for (size_t prompt : {4, 5}) conversation.targets[prompt - 1] = -1;
  TrainingRow row = make_source_data(std::make_unique<GivenRows>(std::vector{conversation}), 7)->row(0);
  EXPECT_THAT(row.source_ids, ElementsAre(10, 11));
  EXPECT_THAT(row.ids, ElementsAre(7, 20, 21, 12, 13, 22));
  EXPECT_THAT(row.targets, ElementsAre(20, 21, -1, -1, 22, 1));
}

constexpr int32_t kStart = 7, kEnd = 1, kFirstSentinel = 900;

class CorruptedRows : public ::testing::Test {
 protected:
  /// A row of one document a length, of tokens that are all different, with the end token behind.
  static TrainingRow numbered(std::initializer_list<int> lengths) {
    std::vector<Document> documents;
    int32_t next = 10;
    for (int length : lengths) {
      Document document{.ids = std::vector<int32_t>(static_cast<size_t>(length))};
      std::iota(document.ids.begin(), document.ids.end(), next);
      next += length;
      document.ids.push_back(kEnd);
      documents.push_back(std::move(document));
    }
    return row_of(documents);
  }

  static std::unique_ptr<TrainingData> corrupted(const TrainingRow& row,
                                                 const CorruptionOptions& options,
                                                 int num_sentinels = 100,
                                                 int32_t end_id = kEnd) {
    CorruptionVocabulary vocabulary{.start_id = kStart, .end_id = end_id, .sentinels = {}};
    for (int i = 0; i < num_sentinels; ++i) vocabulary.sentinels.push_back(kFirstSentinel + i);
    return make_corrupted_data(std::make_unique<GivenRows>(std::vector{row}), vocabulary, options);
  }

  static bool is_sentinel(int32_t id) { return id >= kFirstSentinel; }

  /// The runs that a target names, in order; checks the form of the target.
  static std::vector<std::vector<int32_t>> runs_of(const std::vector<int32_t>& target) {
    std::vector<std::vector<int32_t>> runs;
    for (int32_t id : target) {
      if (is_sentinel(id)) {
        EXPECT_EQ(id, kFirstSentinel + static_cast<int32_t>(runs.size()));
        runs.emplace_back();
      } else if (id != kEnd) {
        if (runs.empty()) {
          ADD_FAILURE() << "a target that does not begin with a sentinel";
          return {};
        }
        runs.back().push_back(id);
      }
    }
    return runs;
  }

  /// Source and target rejoined.
  static std::vector<int32_t> rejoined(const std::vector<int32_t>& source, const std::vector<int32_t>& target) {
    std::vector<std::vector<int32_t>> runs = runs_of(target);
    std::vector<int32_t> text;
    size_t used = 0;
    for (int32_t id : source) {
      if (!is_sentinel(id)) {
        text.push_back(id);
        continue;
      }
      EXPECT_LT(used, runs.size());
      EXPECT_EQ(id, kFirstSentinel + static_cast<int32_t>(used));
      const std::vector<int32_t>& run = runs[used++];
      EXPECT_FALSE(run.empty());
      text.insert(text.end(), run.begin(), run.end());
    }
    EXPECT_EQ(used, runs.size());
    return text;
  }
};

TEST_F(CorruptedRows, SourceAndTargetRejoinedGiveTheText) {
  for (auto [density, mean_length] : {std::pair{0.15, 3.0}, {0.5, 1.0}, {0.3, 20.0}, {0.9, 2.0}, {0.01, 3.0}}) {
    TrainingRow whole = numbered({1, 2, 3, 10, 57, 200});
    auto data = corrupted(whole, {.density = density, .mean_length = mean_length, .seed = 4});
    for (int64_t index = 0; index < 50; ++index) {
      TrainingRow row = data->row(index);
      ASSERT_EQ(row.sources.size(), whole.spans.size());
      ASSERT_EQ(row.spans.size(), whole.spans.size());
      for (size_t s = 0; s < whole.spans.size(); ++s) {
        std::vector<int32_t> source = part(row.source_ids, row.sources[s]);
        std::vector<int32_t> target = part(row.targets, row.spans[s]);
        EXPECT_EQ(target.back(), kEnd);
        ASSERT_EQ(rejoined(source, target), part(whole.ids, whole.spans[s])) << "density " << density;
        std::vector<int32_t> shifted = {kStart};
        shifted.insert(shifted.end(), target.begin(), target.end() - 1);
        EXPECT_EQ(part(row.ids, row.spans[s]), shifted);
      }
    }
  }
}

TEST_F(CorruptedRows, DensityAndMeanLengthAreWhatWasAskedFor) {
  for (auto [density, mean_length] : {std::pair{0.15, 3.0}, {0.5, 5.0}, {0.25, 1.0}}) {
    constexpr int kLength = 200, kRows = 100;
    auto data = corrupted(numbered({kLength}), {.density = density, .mean_length = mean_length, .seed = 1});
    double taken = 0, runs = 0;
    std::vector<int> times(kLength);
    for (int64_t index = 0; index < kRows; ++index) {
      for (const std::vector<int32_t>& run : runs_of(data->row(index).targets)) {
        ++runs;
        taken += static_cast<double>(run.size());
        for (int32_t id : run) ++times[static_cast<size_t>(id - 10)];
      }
    }
    EXPECT_NEAR(taken / (kRows * kLength), density, 0.01);
    EXPECT_NEAR(taken / runs, mean_length, 0.02 * mean_length);
    // Every place is taken about equally often: in the first quarter as in the third.
    int first = std::accumulate(times.begin() + 5, times.begin() + 50, 0);
    int third = std::accumulate(times.begin() + 105, times.begin() + 150, 0);
    EXPECT_NEAR(first / (45.0 * kRows), density, 0.35 * density);
    EXPECT_NEAR(third / (45.0 * kRows), density, 0.35 * density);
  }
}

TEST_F(CorruptedRows, DependOnIndexAndSeedAlone) {
  TrainingRow whole = numbered({120, 120});
  auto data = corrupted(whole, {.seed = 1}), again = corrupted(whole, {.seed = 1}),
       other = corrupted(whole, {.seed = 2});
  std::set<std::vector<int32_t>> seen;
  for (int64_t index : {3, 0, 2, 1}) {
    EXPECT_EQ(data->row(index), again->row(index));
    EXPECT_NE(data->row(index), other->row(index));
    seen.insert(data->row(index).source_ids);
  }
  EXPECT_EQ(seen.size(), 4u);
  // Documents of a row have runs of their own.
  TrainingRow row = data->row(0);
  std::vector<int32_t> second = part(row.source_ids, row.sources[1]);
  for (int32_t& id : second) {
    if (!is_sentinel(id) && id != kEnd) id -= 120;
  }
  EXPECT_NE(part(row.source_ids, row.sources[0]), second);
}

TEST_F(CorruptedRows, HaveNoMoreRunsThanSentinelsAndNoEndThatTheModelDoesNotKnow) {
  TrainingRow row = corrupted(numbered({300}), {.density = 0.5, .mean_length = 1}, 8)->row(0);
  EXPECT_EQ(runs_of(row.targets).size(), 8u);
  TrainingRow whole = row_of({{{10, 11, 12, 13, 14, 15, 16, 17}}});
  row = corrupted(whole, {.density = 0.3}, 100, -1)->row(0);
  EXPECT_EQ(rejoined(row.source_ids, row.targets), whole.ids);
}

TEST(SeparateTexts, PromptAndCompletionAreEachEncodedByThemselves) {
  std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(test_data("tiny_tokenizer"));
  DocumentEncoder together(tokenizer, {}), apart(tokenizer, {.separate_texts = true});
  TrainingDocument document;
  document.prompt = "one and";
  document.completion = "two";
  TokenDocument found = apart.encode(document);
  std::vector<int32_t> prompt = apart.prefix();
  for (int32_t id : tokenizer->encode("one and", false)) prompt.push_back(id);
  prompt.insert(prompt.end(), apart.suffix().begin(), apart.suffix().end());
  std::vector<int32_t> expected = prompt;
  for (int32_t id : tokenizer->encode("two", false)) expected.push_back(id);
  expected.insert(expected.end(), apart.suffix().begin(), apart.suffix().end());
  EXPECT_EQ(found.ids, expected);
  ASSERT_EQ(found.loss_spans.size(), 1u);
  EXPECT_EQ(found.loss_spans[0].begin, prompt.size());
  EXPECT_EQ(found.loss_spans[0].end, expected.size());
  EXPECT_EQ(together.encode(document).ids.size() + apart.suffix().size(), expected.size());
  document.prompt = "";
  EXPECT_ANY_THROW(apart.encode(document));
}

}  // namespace
}  // namespace weft
