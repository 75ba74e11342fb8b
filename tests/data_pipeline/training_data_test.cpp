#include "data/training_data.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "core/error.h"
#include "data/mixture.h"
#include "data/permutation.h"
#include "data_pipeline/token_files.h"

namespace weft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::vector<int> random_lengths(int count, int longest, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> lengths;
  lengths.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) lengths.push_back(1 + static_cast<int>(random() % static_cast<unsigned>(longest)));
  return lengths;
}

class TrainingDataTest : public test::FolderTest {
 protected:
  /// A file of numbered tokens; returns its path.
  std::string numbered(const std::string& name, const std::vector<int>& lengths, int32_t first = 0) {
    write_token_file(path(name), {.vocab_size = 1 << 20}, test::numbered_documents(lengths, first));
    return path(name);
  }
  std::string write(const std::string& name, const std::vector<TokenDocument>& documents, bool has_spans) {
    write_token_file(path(name), {.vocab_size = 1000, .has_loss_spans = has_spans}, documents);
    return path(name);
  }
};

TEST(Permutation, IsABijectionOfEverySizeAndDiffersByEpoch) {
  for (uint64_t size : {1, 2, 3, 4, 5, 15, 16, 17, 1000, 4097}) {
    std::set<uint64_t> seen;
    const Permutation permutation({.seed = 7}, size);
    for (uint64_t i = 0; i < size; ++i) seen.insert(permutation(i));
    EXPECT_EQ(seen.size(), size);
    EXPECT_EQ(*seen.rbegin(), size - 1);
  }
  int same = 0;
  const Permutation first({.seed = 7, .epoch = 0}, 1000);
  const Permutation second({.seed = 7, .epoch = 1}, 1000);
  for (uint64_t i = 0; i < 1000; ++i) same += first(i) == second(i) ? 1 : 0;
  EXPECT_LT(same, 10);
}

TEST(Permutation, PutsEveryElementEverywhereAboutEquallyOften) {
  constexpr int kSize = 10;
  constexpr int kOrders = 20000;
  std::vector<int> counts(kSize * kSize);
  for (uint32_t epoch = 0; epoch < kOrders; ++epoch) {
    const Permutation permutation({.seed = 1, .epoch = epoch}, kSize);
    for (uint64_t i = 0; i < kSize; ++i) ++counts[i * kSize + permutation(i)];
  }
  // Expected 2000 each, standard deviation 42.
  EXPECT_GT(*std::min_element(counts.begin(), counts.end()), 1800);
  EXPECT_LT(*std::max_element(counts.begin(), counts.end()), 2200);
}

TEST(Mixture, SharesAreRightInEveryPrefixAndIndicesCountUp) {
  const std::vector<double> weights = {1, 2.5, 0.1, 7, 0.4};
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  const Mixture mixture(weights);
  std::vector<int64_t> counts(weights.size());
  for (int64_t row = 0; row < 20000; ++row) {
    const Mixture::Place place = mixture.place(row);
    EXPECT_EQ(place.index, counts[static_cast<size_t>(place.source)]++);
    for (size_t i = 0; i < weights.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(counts[i]), weights[i] / sum * static_cast<double>(row + 1), 2);
      ASSERT_EQ(mixture.count(static_cast<int64_t>(i), row + 1), counts[i]);
    }
  }
}

TEST_F(TrainingDataTest, SplitGivesEveryTokenOnceAnEpochAndTargetsFollowWithinDocuments) {
  const std::vector<int> lengths = random_lengths(300, 40, 3);
  const int total = std::accumulate(lengths.begin(), lengths.end(), 0);
  std::vector<bool> ends_document(static_cast<size_t>(total));
  int end = 0;
  for (const int length : lengths) ends_document[static_cast<size_t>((end += length) - 1)] = true;
  const auto data =
      open_training_data({.sources = {{numbered("a.tokens", lengths)}}, .sequence_length = 64, .seed = 5});
  EXPECT_EQ(data->num_tokens(), total);
  EXPECT_EQ(data->rows_per_epoch(), (total + 63) / 64);
  std::vector<std::vector<int32_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int32_t> ids;
    int64_t num_full = 0;
    for (int64_t i = 0; i < data->rows_per_epoch(); ++i) {
      const TrainingRow row = data->row(epoch * data->rows_per_epoch() + i);
      num_full += row.ids.size() == 64 ? 1 : 0;
      ASSERT_EQ(row.targets.size(), row.ids.size());
      for (size_t t = 0; t < row.ids.size(); ++t) {
        ASSERT_EQ(row.targets[t], ends_document[static_cast<size_t>(row.ids[t])] ? -1 : row.ids[t] + 1);
      }
      int32_t place = 0;
      for (const RowSpan& span : row.spans) {
        EXPECT_EQ(span.begin, place);
        place += span.length;
        for (int32_t t = span.begin + 1; t < place; ++t) {
          ASSERT_EQ(row.ids[static_cast<size_t>(t)], row.ids[static_cast<size_t>(t) - 1] + 1);
        }
      }
      EXPECT_EQ(place, static_cast<int32_t>(row.ids.size()));
      ids.insert(ids.end(), row.ids.begin(), row.ids.end());
    }
    EXPECT_GE(num_full, data->rows_per_epoch() - 1);
    orders.push_back(ids);
    std::sort(ids.begin(), ids.end());
    std::vector<int32_t> all(static_cast<size_t>(total));
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(ids, all);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
}

TEST_F(TrainingDataTest, WithoutShufflingRowsFollowTheFile) {
  const auto data =
      open_training_data({.sources = {{numbered("a.tokens", {3, 4, 2})}}, .sequence_length = 5, .shuffle = false});
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    const TrainingRow first = data->row(2 * epoch);
    EXPECT_THAT(first.ids, ElementsAre(0, 1, 2, 3, 4));
    EXPECT_THAT(first.targets, ElementsAre(1, 2, -1, 4, 5));
    EXPECT_EQ(first.spans, (std::vector<RowSpan>{{0, 3}, {3, 2}}));
    const TrainingRow second = data->row(2 * epoch + 1);
    EXPECT_THAT(second.ids, ElementsAre(5, 6, 7, 8));
    EXPECT_THAT(second.targets, ElementsAre(6, -1, 8, -1));
    EXPECT_EQ(second.spans, (std::vector<RowSpan>{{0, 2}, {2, 2}}));
  }
}

TEST_F(TrainingDataTest, WholeKeepsDocumentsWholeCutsLongOnesAndWastesLittle) {
  std::vector<int> lengths = random_lengths(500, 60, 4);
  lengths.push_back(150);
  const std::string file = numbered("a.tokens", lengths);
  const auto data = open_training_data({.sources = {{file}}, .sequence_length = 64, .packing = Packing::whole});
  std::map<int32_t, int32_t> length_of;  // by first token
  int32_t start = 0;
  int64_t expected_tokens = 0;
  for (const int length : lengths) {
    if (length > 1) expected_tokens += length_of[start] = std::min(length, 64);
    start += length;
  }
  std::multiset<int32_t> begins;
  int64_t num_tokens = 0;
  for (int64_t i = 0; i < data->rows_per_epoch(); ++i) {
    const TrainingRow row = data->row(i);
    EXPECT_LE(row.ids.size(), 64);
    num_tokens += static_cast<int64_t>(row.ids.size());
    for (const RowSpan& span : row.spans) {
      const int32_t first = row.ids[static_cast<size_t>(span.begin)];
      begins.insert(first);
      EXPECT_EQ(span.length, length_of.at(first));
    }
  }
  EXPECT_EQ(data->num_cut_documents(), 1);
  EXPECT_EQ(begins.size(), length_of.size());
  EXPECT_EQ(std::set<int32_t>(begins.begin(), begins.end()).size(), length_of.size());
  EXPECT_EQ(num_tokens, expected_tokens);
  EXPECT_GT(static_cast<double>(num_tokens), 0.95 * 64 * static_cast<double>(data->rows_per_epoch()));
}

TEST_F(TrainingDataTest, NoneGivesADocumentARow) {
  const auto data = open_training_data({.sources = {{numbered("a.tokens", {3, 1, 9})}},
                                        .sequence_length = 5,
                                        .packing = Packing::none,
                                        .shuffle = false});
  ASSERT_EQ(data->rows_per_epoch(), 2);
  EXPECT_THAT(data->row(0).ids, ElementsAre(0, 1, 2));
  EXPECT_THAT(data->row(1).ids, ElementsAre(4, 5, 6, 7, 8));
  EXPECT_THAT(data->row(1).targets, ElementsAre(5, 6, 7, 8, 9));
}

TEST_F(TrainingDataTest, OnlyLossSpansAreTargets) {
  const std::vector<TokenDocument> documents = {{{10, 11, 12, 13, 14, 15}, {{2, 4}, {5, 6}}},
                                                {{20, 21, 22}, {}},
                                                {{30, 31, 32}, {{0, 3}}},
                                                {{40, 41, 42, 43, 44, 45, 46}, {{6, 7}}}};
  const std::string file = write("a.tokens", documents, true);
  const auto split =
      open_training_data({.sources = {{file}}, .sequence_length = 4, .packing = Packing::split, .shuffle = false});
  EXPECT_THAT(split->row(0).targets, ElementsAre(-1, 12, 13, -1));
  EXPECT_THAT(split->row(1).targets, ElementsAre(15, -1, -1, -1));
  EXPECT_THAT(split->row(2).targets, ElementsAre(-1, 31, 32, -1));
  EXPECT_THAT(split->row(4).targets, ElementsAre(-1, 46, -1));
  // What has nothing to learn within a row is left out: the second document, and the last if it is cut.
  const auto none =
      open_training_data({.sources = {{file}}, .sequence_length = 4, .packing = Packing::none, .shuffle = false});
  ASSERT_EQ(none->rows_per_epoch(), 2);
  EXPECT_THAT(none->row(1).ids, ElementsAre(30, 31, 32));
}

TEST_F(TrainingDataTest, ARowDependsOnItsIndexOnlyWhateverTheThreadsAndTheOrder) {
  const std::vector<DataSourceOptions> sources = {{numbered("a.tokens", random_lengths(200, 30, 1)), 2},
                                                  {numbered("b.tokens", random_lengths(50, 90, 2), 100000), 1}};
  for (const Packing packing : {Packing::split, Packing::whole, Packing::none}) {
    const TrainingDataOptions options = {.sources = sources, .sequence_length = 48, .packing = packing, .seed = 9};
    constexpr int64_t kRows = 600;
    std::vector<TrainingRow> expected;
    for (int64_t i = 0; i < kRows; ++i) expected.push_back(open_training_data(options)->row(i));
    const auto data = open_training_data(options);
    std::vector<std::thread> threads;
    std::vector<int> differences(4);
    for (unsigned thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        std::vector<int64_t> order(kRows);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), std::mt19937(thread));
        for (const int64_t i : order) {
          differences[thread] += data->row(i) == expected[static_cast<size_t>(i)] ? 0 : 1;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(differences, testing::Each(0));
    TrainingDataOptions other = options;
    other.seed = 10;
    EXPECT_NE(open_training_data(other)->row(0).ids, expected[0].ids);
  }
}

TEST_F(TrainingDataTest, AnEpochHasSeenEverySourceAndSharesAreKept) {
  const auto data = open_training_data(
      {.sources = {{numbered("a.tokens", {100}), 3}, {numbered("b.tokens", {100}, 500), 1}}, .sequence_length = 10});
  EXPECT_NEAR(static_cast<double>(data->rows_per_epoch()), 40, 3);  // ten of b, and thirty of a beside them
  int64_t num_b = 0;
  for (int64_t i = 0; i < 400; ++i) num_b += data->row(i).ids[0] >= 500 ? 1 : 0;
  EXPECT_NEAR(static_cast<double>(num_b), 100, 1);
}

TEST_F(TrainingDataTest, HeldOutDocumentsAreTheLastAndNeverTrainedOn) {
  const std::string file = numbered("a.tokens", std::vector<int>(40, 5));
  TrainingDataOptions options = {
      .sources = {{file}}, .part = DataPart::training, .held_out_fraction = 0.1, .sequence_length = 8};
  const auto training = open_training_data(options);
  options.part = DataPart::held_out;
  const auto held_out = open_training_data(options);
  EXPECT_EQ(training->num_documents(), 36);
  EXPECT_EQ(held_out->num_documents(), 4);
  EXPECT_EQ(held_out->num_tokens(), 20);
  for (int64_t i = 0; i < training->rows_per_epoch(); ++i) {
    EXPECT_THAT(training->row(i).ids, testing::Each(testing::Lt(180)));
  }
  for (int64_t i = 0; i < held_out->rows_per_epoch(); ++i) {
    EXPECT_THAT(held_out->row(i).ids, testing::Each(testing::Ge(180)));
  }
}

TEST_F(TrainingDataTest, OfASingleTextTheLastTokensAreHeldOut) {
  TrainingDataOptions options = {.sources = {{numbered("a.tokens", {100})}},
                                 .part = DataPart::training,
                                 .held_out_fraction = 0.1,
                                 .sequence_length = 90,
                                 .shuffle = false};
  const TrainingRow row = open_training_data(options)->row(0);
  EXPECT_EQ(row.ids.size(), 90);
  EXPECT_EQ(row.ids.back(), 89);
  EXPECT_EQ(row.targets.back(), -1);
  options.part = DataPart::held_out;
  EXPECT_THAT(open_training_data(options)->row(0).ids, ElementsAre(90, 91, 92, 93, 94, 95, 96, 97, 98, 99));
}

TEST_F(TrainingDataTest, TheFingerprintIsThatOfTheRows) {
  const std::string a = numbered("a.tokens", {10, 20});
  const std::string same = numbered("same.tokens", {10, 20});
  const std::string other = numbered("other.tokens", {11, 19});
  const auto fingerprint = [](const std::string& file, uint64_t seed) {
    return open_training_data({.sources = {{file}}, .seed = seed})->fingerprint();
  };
  EXPECT_EQ(fingerprint(a, 1), fingerprint(same, 1));
  EXPECT_NE(fingerprint(a, 1), fingerprint(other, 1));
  EXPECT_NE(fingerprint(a, 1), fingerprint(a, 2));
}

TEST_F(TrainingDataTest, UnusableOptionsAreOneClearLineEach) {
  const std::string file = numbered("a.tokens", {10, 20});
  write_token_file(path("other.tokens"), {.vocab_size = 9, .tokenizer_fingerprint = 5}, {});
  write_token_file(path("empty.tokens"), {.vocab_size = 9}, {});
  const std::string one = write("one.tokens", {{{1, 2}, {{0, 1}}}}, true);
  const std::vector<std::pair<TrainingDataOptions, std::string>> table = {
      {{}, "data.sources: none given"},
      {{.sources = {{file}}, .sequence_length = 0}, "sequence_length: 0 is not between"},
      {{.sources = {{file}}, .sequence_length = 1 << 30}, "is not between"},
      {{.sources = {{file, 0}}}, "has weight 0, expected a positive number"},
      {{.sources = {{file, -1}}}, "has weight -1"},
      {{.sources = {{file, std::nan("")}}}, "has weight nan"},
      {{.sources = {{file, 1e-9}, {file, 1}}}, "less than a millionth"},
      {{.sources = {{file}}, .held_out_fraction = 1}, "held_out_fraction: 1 is not"},
      {{.sources = {{file}}, .part = DataPart::held_out}, "holds nothing out"},
      {{.sources = {{path("missing.tokens")}}}, "missing.tokens: cannot open: No such file"},
      {{.sources = {{path("empty.tokens")}}}, "empty.tokens: nothing to train on"},
      {{.sources = {{one}}}, "one.tokens: nothing to train on"},
      {{.sources = {{one}}, .part = DataPart::training, .held_out_fraction = 0.5}, "1 documents, none would be left"},
      {{.sources = {{file}, {path("other.tokens")}}}, "prepared with another tokenizer than"},
      {{.sources = {{file}}, .tokenizer_fingerprint = 7}, "prepared with another tokenizer than the model's"},
  };
  for (const auto& [options, message] : table) {
    TrainingDataOptions whole = options;
    if (message == "one.tokens: nothing to train on") whole.packing = Packing::whole;
    EXPECT_THAT([&] { open_training_data(whole); }, ThrowsMessage<Error>(HasSubstr(message)));
  }
}

}  // namespace
}  // namespace weft
