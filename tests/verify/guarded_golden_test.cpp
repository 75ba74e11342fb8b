// A case of every family on guarded memory: what a GPU would not allow the host to do shows here without one.
#include <gtest/gtest.h>

#include <string>

#include "verify/golden_ranks.h"

namespace weft {
namespace {

class GuardedGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(GuardedGolden, PassesAlone) {
  VerifyReport report = testing::verify_on_ranks({GetParam()}, 1, DType::f32, DeviceType::guarded);
  EXPECT_TRUE(report.passed()) << to_text(report);
}

TEST_P(GuardedGolden, PassesOnTwoRanksThatExchangeByWayOfTheHost) {
  VerifyReport report = testing::verify_on_ranks({GetParam()}, 2, DType::f32, DeviceType::guarded);
  EXPECT_TRUE(report.passed()) << to_text(report);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         GuardedGolden,
                         ::testing::Values("hf/llama_gqa",
                                           "hf/gemma2",
                                           "hf/bert",
                                           "hf/albert",
                                           "hf/nezha",
                                           "hf/roformer",
                                           "hf/electra_disc",
                                           "hf/t5_v11",
                                           "seed/bert-condln",
                                           "seed/deberta-mlm",
                                           "seed/gau_alpha-lm",
                                           "seed/gpt-lm",
                                           "seed/roformer_v2-unilm",
                                           "seed/rwkv6-state"),
                         [](const auto& one) { return testing::GoldenCase{one.param}.test_name(); });

}  // namespace
}  // namespace weft
