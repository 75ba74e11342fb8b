#include "serve/text_queue.h"

#include <gmock/gmock.h>

#include <thread>

namespace weft {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;

std::vector<TokenisedText> texts_of(const std::vector<int>& lengths) {
  std::vector<TokenisedText> texts;
  texts.reserve(lengths.size());
  for (int length : lengths) texts.push_back({.ids = std::vector<int32_t>(static_cast<size_t>(length), length)});
  return texts;
}

std::vector<size_t> lengths_of(const std::vector<TokenisedText>& texts) {
  std::vector<size_t> lengths;
  lengths.reserve(texts.size());
  for (const TokenisedText& text : texts) lengths.push_back(text.ids.size());
  return lengths;
}

TEST(TextQueue, TakesTextsOfSeveralRequestsTogetherAndGivesEachItsOwn) {
  TextQueue queue(4, milliseconds(0));
  auto first = queue.submit(texts_of({3, 4}));
  auto second = queue.submit(texts_of({5}));
  EXPECT_EQ(queue.counts().waiting, 3);
  EXPECT_THAT(lengths_of(queue.take(9)), ElementsAre(3, 4));
  queue.give(std::vector<float>{1, 2, 3, 4});
  EXPECT_THAT(first->get(), ElementsAre(1, 2, 3, 4));
  auto third = queue.submit(texts_of({2, 20}));
  EXPECT_THAT(lengths_of(queue.take(9)), ElementsAre(5, 2));
  queue.give(std::vector<float>{5, 6});
  EXPECT_THAT(second->get(), ElementsAre(5));
  EXPECT_THAT(lengths_of(queue.take(9)), ElementsAre(20)) << "one at least";
  queue.give(std::vector<float>{7});
  EXPECT_THAT(third->get(), ElementsAre(6, 7));
  EXPECT_THAT(lengths_of(queue.take(9)), ElementsAre());
  EXPECT_EQ(queue.counts().texts, 5);
  EXPECT_EQ(queue.counts().tokens, 34);
  EXPECT_EQ(queue.counts().waiting, 0);
}

TEST(TextQueue, RefusesWhatIsTooMuchOrTooLate) {
  TextQueue queue(1, milliseconds(0));
  auto answered = queue.submit(texts_of({1}));
  EXPECT_FALSE(queue.submit(texts_of({1})));
  queue.take(9);
  EXPECT_FALSE(queue.submit(texts_of({1}))) << "being answered";
  queue.close();
  EXPECT_FALSE(queue.is_finished());
  queue.give(std::vector<float>{1});
  EXPECT_TRUE(queue.is_finished());
  EXPECT_FALSE(queue.submit(texts_of({1})));
  EXPECT_EQ(queue.counts().refused, 3);
}

TEST(TextQueue, WhatIsAbandonedThrows) {
  TextQueue queue(4, milliseconds(0));
  auto taken = queue.submit(texts_of({1}));
  queue.take(9);
  auto waiting = queue.submit(texts_of({1}));
  queue.abandon();
  EXPECT_THROW(taken->get(), std::future_error);
  EXPECT_THROW(waiting->get(), std::future_error);
}

TEST(TextQueue, ManyClientsGetWhatTheyAskedFor) {
  constexpr int kClients = 8, kRounds = 200;
  TextQueue queue(kClients, milliseconds(5));
  std::thread encoder([&] {
    while (!queue.is_finished()) {
      std::vector<TokenisedText> texts = queue.take(20);
      std::vector<float> rows;
      rows.reserve(texts.size());
      for (const TokenisedText& text : texts) rows.push_back(static_cast<float>(text.ids[0]));
      if (!texts.empty()) queue.give(rows);
    }
  });
  std::vector<std::thread> clients;
  for (int c = 1; c <= kClients; ++c) {
    clients.emplace_back([&queue, c] {
      for (int round = 0; round < kRounds; ++round) {
        auto rows = queue.submit(texts_of({c, c + 1}));
        ASSERT_TRUE(rows);
        EXPECT_THAT(rows->get(), ElementsAre(c, c + 1));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  queue.close();
  encoder.join();
}

}  // namespace
}  // namespace weft
