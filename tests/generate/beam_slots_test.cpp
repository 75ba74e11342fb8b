#include "generate/beam_slots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/random.h"

namespace weft {
namespace {

using Tokens = std::vector<int64_t>;

/// Slots as lists of tokens, and beside them what every beam should find in its own.
class NaiveCache {
 public:
  explicit NaiveCache(const std::vector<int64_t>& slots) : slots_(slots) {}

  void write(int64_t slot, int64_t position, int64_t token) {
    Tokens& tokens = contents_[slot];
    if (static_cast<int64_t>(tokens.size()) <= position) tokens.resize(static_cast<size_t>(position) + 1, -1);
    tokens[static_cast<size_t>(position)] = token;
  }
  void apply(const BeamSlots::Copy& copy) {
    ASSERT_NE(copy.from, copy.to);
    ASSERT_EQ(std::count(slots_.begin(), slots_.end(), copy.to), 1);
    num_copied += copy.end - copy.begin;
    for (int64_t i = copy.begin; i < copy.end; ++i) write(copy.to, i, contents_[copy.from][static_cast<size_t>(i)]);
  }
  Tokens read(int64_t slot, int64_t length) {
    const Tokens& tokens = contents_[slot];
    return {tokens.begin(), tokens.begin() + std::min<int64_t>(length, static_cast<int64_t>(tokens.size()))};
  }

  int64_t num_copied = 0;

 private:
  std::vector<int64_t> slots_;
  std::map<int64_t, Tokens> contents_;
};

/// A search of random parents, `narrow` of 100 times with fewer beams than before.
class RandomSearch {
 public:
  RandomSearch(uint64_t seed, const std::vector<int64_t>& slots, int64_t prompt_length)
      : key_{seed, 0, 1}, slots_(slots), cache_(slots), length_(prompt_length), beams_(1) {
    for (int64_t i = 0; i < prompt_length; ++i) {
      beams_[0].push_back(next_token_++);
      cache_.write(slots_.slot(0), i, beams_[0].back());
    }
  }

  void step(size_t num_beams) {
    std::vector<int32_t> parents(num_beams);
    for (int32_t& parent : parents) parent = static_cast<int32_t>(draw(beams_.size()));
    auto copies = slots_.follow(parents, length_);
    // In any order: the last ones first.
    std::reverse(copies.begin(), copies.end());
    for (const BeamSlots::Copy& copy : copies) cache_.apply(copy);
    std::vector<Tokens> next;
    std::set<int64_t> used;
    for (size_t beam = 0; beam < num_beams; ++beam) {
      next.push_back(beams_[static_cast<size_t>(parents[beam])]);
      used.insert(slots_.slot(beam));
      ASSERT_EQ(cache_.read(slots_.slot(beam), length_), next.back()) << "beam " << beam << " at " << length_;
    }
    ASSERT_EQ(used.size(), num_beams);
    for (size_t beam = 0; beam < num_beams; ++beam) {
      next[beam].push_back(next_token_++);
      cache_.write(slots_.slot(beam), length_, next[beam].back());
    }
    beams_ = std::move(next);
    ++length_;
  }

  uint64_t draw(size_t count) { return key_.bits(num_draws_++) % count; }
  size_t num_beams() const { return beams_.size(); }
  int64_t num_copied() const { return cache_.num_copied; }

 private:
  RandomKey key_;
  uint64_t num_draws_ = 0;
  BeamSlots slots_;
  NaiveCache cache_;
  int64_t length_;
  int64_t next_token_ = 0;
  std::vector<Tokens> beams_;
};

std::vector<int64_t> some_slots(size_t count) {
  std::vector<int64_t> slots;
  for (size_t i = 0; i < count; ++i) slots.push_back(static_cast<int64_t>((i * 7 + 3) % 101));
  return slots;
}

TEST(BeamSlots, EveryBeamFindsItsHistoryInRandomTrees) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    size_t width = 1 + seed % 9;
    RandomSearch search(seed, some_slots(width), static_cast<int64_t>(seed % 13));
    for (int step = 0; step < 60; ++step) {
      search.step(width);
      if (HasFatalFailure()) FAIL() << "seed " << seed << " step " << step;
    }
  }
}

TEST(BeamSlots, BeamsMayBecomeFewerAndMoreAgain) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    RandomSearch search(seed, some_slots(8), 3);
    for (int step = 0; step < 60; ++step) {
      search.step(1 + search.draw(8));
      if (HasFatalFailure()) FAIL() << "seed " << seed << " step " << step;
    }
  }
}

TEST(BeamSlots, BeamsThatGoOnInOneWayAreNotMoved) {
  BeamSlots slots({5, 6, 7});
  slots.follow(std::vector{0, 0, 0}, 10);
  std::vector<int32_t> order = {2, 0, 1};
  EXPECT_TRUE(slots.follow(order, 11).empty());
  EXPECT_EQ(slots.slot(0), 7);
  EXPECT_EQ(slots.slot(1), 5);
  EXPECT_EQ(slots.slot(2), 6);
}

TEST(BeamSlots, OnlyWhatDiffersIsCopied) {
  BeamSlots slots({0, 1});
  auto first = slots.follow(std::vector{0, 0}, 100);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].begin, 0);
  EXPECT_EQ(first[0].end, 100);
  // They part at 100; the second one ends at 103 and begins anew from the first.
  EXPECT_TRUE(slots.follow(std::vector{0, 1}, 101).empty());
  auto second = slots.follow(std::vector{0, 0}, 103);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].from, 0);
  EXPECT_EQ(second[0].to, 1);
  EXPECT_EQ(second[0].begin, 100);
  EXPECT_EQ(second[0].end, 103);
}

TEST(BeamSlots, LongSearchesCopyLittle) {
  RandomSearch search(1, some_slots(4), 2000);
  for (int step = 0; step < 400; ++step) search.step(4);
  // The prompt thrice, then a few tokens a step: beams of a search have parted lately.
  EXPECT_LT(search.num_copied(), 3 * 2000 + 400 * 20);
}

}  // namespace
}  // namespace weft
