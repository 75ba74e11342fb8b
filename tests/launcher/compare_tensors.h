// Two checkpoints of one format, tensor by tensor.
#pragma once

#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "launcher/small_encoders.h"

namespace weft {

/// All tensors of `actual` are in `expected` with the same type, shape and bits; what only `expected` has is returned.
inline std::set<std::string> compare_tensors(const std::filesystem::path& actual,
                                             const std::filesystem::path& expected) {
  auto made = open_checkpoint(actual.string());
  auto given = open_checkpoint(expected.string());
  std::set<std::string> left(given->names().begin(), given->names().end());
  for (const std::string& name : made->names()) {
    if (given->find(name) == nullptr) {
      ADD_FAILURE() << name << " is not in " << expected;
      continue;
    }
    left.erase(name);
    EXPECT_EQ(made->info(name).dtype, given->info(name).dtype) << name;
    EXPECT_EQ(made->info(name).shape, given->info(name).shape) << name;
    std::vector<float> a = values_of(*made, name), b = values_of(*given, name);
    // NEZHA's table is no weight: each program computes it.
    if (name.find("relative_position_embedding") != std::string::npos) {
      EXPECT_THAT(a, ::testing::Pointwise(::testing::FloatNear(1e-5F), b)) << name;
      continue;
    }
    EXPECT_TRUE(a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0) << name;
  }
  return left;
}

}  // namespace weft
