// Scores of texts against those that the packages sacrebleu 2.6.0 and rouge-score 0.1.2 give of the same texts.
#include "tasks/text_scores.h"

#include <gmock/gmock.h>

#include <map>

#include "parallel/communicator.h"
#include "parallel/thread_communicator.h"

namespace weft {
namespace {

using ::testing::ElementsAre;
using Pairs = std::vector<std::pair<std::string, std::string>>;

const Pairs kEnglish = {{"The cat sat on the mat.", "The cat is on the mat."},
                        {"It costs $3.50, or so - 20-30% less; isn't it \"nice\"?",
                         "It costs $3.50 or so, 20-30% less: isn't it \"nice\"?"},
                        {"hello there", "hello there"},
                        {"a quick brown fox jumps over", "the quick brown fox jumped over the lazy dog"},
                        {"A &amp; B, e.g. 1,000.", "A & B e.g. 1,000 ."},
                        {"", "nothing was written"}};

const Pairs kChinese = {{"今天天气很好，我们去公园。", "今天天气不错，我们去了公园。"},
                        {"北京是中国的首都", "中国的首都是北京"},
                        {"他 在 GPT-4", "他在 GPT-4 上"}};

std::map<std::string, double> scores_of(const Pairs& pairs, TextUnit unit) {
  TextScores scores(unit);
  for (const auto& [answer, reference] : pairs) scores.add(answer, reference);
  Context context = make_cpu_context(1);
  std::map<std::string, double> values;
  for (const Metric& metric : scores.metrics(context, *make_single_communicator())) values[metric.name] = metric.value;
  return values;
}

TEST(TextScores, OfWordsAreThoseOfSacrebleuAndRougeScore) {
  std::map<std::string, double> scores = scores_of(kEnglish, TextUnit::words);
  EXPECT_NEAR(scores.at("bleu"), 50.343083027930135, 1e-9);
  EXPECT_NEAR(scores.at("rouge1"), 0.714957264957265, 1e-12);
  EXPECT_NEAR(scores.at("rouge2"), 0.6058275058275059, 1e-12);
  EXPECT_NEAR(scores.at("rougeL"), 0.714957264957265, 1e-12);
  EXPECT_DOUBLE_EQ(scores.at("generated_exact_match"), 1.0 / 6);
}

TEST(TextScores, OfCharactersAreThoseOfSacrebleuAndRougeScore) {
  std::map<std::string, double> scores = scores_of(kChinese, TextUnit::characters);
  EXPECT_NEAR(scores.at("bleu"), 60.269898098876006, 1e-9);
  EXPECT_NEAR(scores.at("rouge1"), 0.9160493827160495, 1e-12);
  EXPECT_NEAR(scores.at("rouge2"), 0.7591208791208791, 1e-12);
  EXPECT_NEAR(scores.at("rougeL"), 0.7910493827160495, 1e-12);
}

TEST(TextScores, OfOneTextAreSmoothed) {
  const double expected[] = {48.892302243490086, 57.41510303545701, 0, 19.692104496063735, 65.80370064762461, 0};
  for (size_t i = 0; i < kEnglish.size(); ++i) {
    EXPECT_NEAR(scores_of({kEnglish[i]}, TextUnit::words).at("bleu"), expected[i], 1e-9) << kEnglish[i].first;
  }
}

std::string spaced(const std::string& text) {
  std::string result;
  for (const std::string& token : bleu_tokens(text, TextUnit::words)) result += token + ' ';
  return result;
}

TEST(TextScores, WordsOfBleuAreThoseOf13a) {
  EXPECT_EQ(spaced("It costs $3.50, or so - 20-30% less; isn't it \"nice\"?"),
            "It costs $ 3.50 , or so - 20 - 30 % less ; isn't it \" nice \" ? ");
  EXPECT_EQ(spaced("A &amp; B, e.g. 1,000."), "A & B , e . g . 1,000 . ");
  EXPECT_EQ(spaced("..5.,a 3.- x-1 \"q\""), ". .5 . , a 3 . - x-1 \" q \" ");
  EXPECT_EQ(spaced("ü. é,ü 1-a <b>[c]{d}~^_`@"), "ü . é , ü 1 - a < b > [ c ] { d } ~ ^ _ ` @ ");
  EXPECT_EQ(spaced("a-\nb\nc <skipped>d"), "ab c d ");
}

TEST(TextScores, WordsOfRougeAreOfEveryScript) {
  EXPECT_THAT(rouge_tokens("Für_GPT-4: Ωmega!", TextUnit::words), ElementsAre("für", "gpt", "4", "ωmega"));
  EXPECT_TRUE(rouge_tokens("\xff", TextUnit::words).empty());
}

TEST(TextScores, AreTheSameOnAnyNumberOfRanks) {
  std::map<std::string, double> expected = scores_of(kEnglish, TextUnit::words);
  run_thread_ranks(3, [&](const std::shared_ptr<Communicator>& world) {
    TextScores scores(TextUnit::words);
    // The last rank has nothing.
    for (size_t i = 0; i < kEnglish.size() && world->rank() < 2; ++i) {
      if (i % 2 == static_cast<size_t>(world->rank())) scores.add(kEnglish[i].first, kEnglish[i].second);
    }
    Context context = make_cpu_context(1);
    for (const Metric& metric : scores.metrics(context, *world)) {
      EXPECT_NEAR(metric.value, expected.at(metric.name), 1e-9) << metric.name;
    }
  });
}

}  // namespace
}  // namespace weft
