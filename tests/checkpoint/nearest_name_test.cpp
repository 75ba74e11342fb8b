#include "checkpoint/nearest_name.h"

#include <gtest/gtest.h>

#include <vector>

namespace weft {
namespace {

const std::vector<std::string> kNames = {"model.norm.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"};

TEST(NearestName, FindsAMisspeltName) {
  EXPECT_EQ(nearest_name("model.layer.0.mlp.up_proj.weight", kNames), "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(nearest_name("lm_haed.weight", kNames), "lm_head.weight");
}

TEST(NearestName, IsSilentWhenNothingIsNear) {
  EXPECT_EQ(nearest_name("transformer.wte", kNames), "");
  EXPECT_EQ(nearest_name("", kNames), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'x'), kNames), "");
}

}  // namespace
}  // namespace weft
