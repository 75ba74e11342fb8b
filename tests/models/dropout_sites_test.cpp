#include "models/dropout_sites.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace weft {
namespace {

TEST(DropoutSites, AreAllDifferent) {
  constexpr int64_t kLayers = 1024;  // the most that configs may say
  std::vector<uint32_t> sites = {kTaskDropoutSite};
  for (DropoutStack stack : {DropoutStack::first, DropoutStack::decoder}) {
    sites.push_back(embedding_dropout_site(stack));
    sites.push_back(output_dropout_site(stack));
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      for (uint32_t place = 0; place < static_cast<uint32_t>(BlockDropout::count); ++place) {
        sites.push_back(block_dropout_site(layer, static_cast<BlockDropout>(place), stack));
      }
    }
  }
  for (size_t adapter = 0; adapter < 20 * kLayers; ++adapter) sites.push_back(adapter_dropout_site(adapter));
  size_t count = sites.size();
  std::sort(sites.begin(), sites.end());
  sites.erase(std::unique(sites.begin(), sites.end()), sites.end());
  EXPECT_EQ(sites.size(), count);
}

}  // namespace
}  // namespace weft
