#include "generate/stop_filter.h"

#include <gmock/gmock.h>

namespace weft {
namespace {

TEST(StopFilter, FindsAStopStringAcrossPieces) {
  StopFilter filter({"\nUser:"});
  EXPECT_EQ(filter.push("Hello\n"), "Hello");
  EXPECT_EQ(filter.push("Use"), "");
  EXPECT_EQ(filter.push("r: more"), "");
  EXPECT_TRUE(filter.found());
  EXPECT_EQ(filter.push("more"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopFilter, ReleasesWhatDidNotBecomeOne) {
  StopFilter filter({"abac"});
  EXPECT_EQ(filter.push("xab"), "x");
  EXPECT_EQ(filter.push("ab"), "ab");
  EXPECT_EQ(filter.push("x"), "abx");
  EXPECT_EQ(filter.push("ab"), "");
  EXPECT_EQ(filter.finish(), "ab");
  EXPECT_FALSE(filter.found());
}

TEST(StopFilter, TheEarliestOfSeveralWins) {
  StopFilter filter({"three", "two", ""});
  EXPECT_EQ(filter.push("one two three"), "one ");
  EXPECT_TRUE(filter.found());
}

/// However the text is cut into pieces, what comes out is the text before the stop string.
TEST(StopFilter, PiecesDoNotMatter) {
  std::string text = "aabaabaaabaaaab rest";
  std::string expected = text.substr(0, text.find("aaaab"));
  for (unsigned cuts = 0; cuts < 1u << (text.size() - 1); cuts += 37) {
    StopFilter filter({"aaaab"});
    std::string out;
    std::string piece;
    for (size_t i = 0; i < text.size(); ++i) {
      piece += text[i];
      if (!(cuts >> i & 1u) && i + 1 < text.size()) continue;
      out += filter.push(piece);
      piece.clear();
    }
    out += filter.finish();
    ASSERT_EQ(out, expected);
    ASSERT_TRUE(filter.found());
  }
}

}  // namespace
}  // namespace weft
