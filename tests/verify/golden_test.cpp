// Every golden file of the families that Weft runs, at every number of ranks that their heads allow.
#include <gtest/gtest.h>

#include <string>

#include "verify/golden_ranks.h"

namespace weft {
namespace {

struct DecoderCase {
  testing::GoldenCase golden;
  std::vector<std::string> not_compared = {};
};

const std::vector<DecoderCase>& cases() {
  static const std::string right_padded = "generate/hf_right_padded_new_tokens";
  static const std::vector<std::string> windowed_cache = {"generate/batch", "generate/batch_end", "generate/single"};
  static const std::vector<DecoderCase> all = {{{"hf/llama_gqa"}, {right_padded}},
                                               {{"hf/llama31_rope"}, {right_padded}},
                                               {{"hf/qwen2"}, {right_padded}},
                                               {{"hf/gemma"}, {right_padded}},
                                               {{"hf/gemma2"}, {right_padded}},
                                               {{"hf/gemma2_bf16"}, {right_padded}},
                                               {{"seed/llama-bf16"}},
                                               {{"seed/llama-gqa"}},
                                               {{"seed/llama-mha"}},
                                               {{"seed/llama-scaled"}},
                                               {{"seed/yi-gqa"}},
                                               {{"seed/qwen1.5-mha"}},
                                               {{"seed/qwen2-bf16"}},
                                               {{"seed/qwen2-tied"}},
                                               {{"seed/qwen2-untied"}},
                                               {{"seed/gemma-bf16"}},
                                               {{"seed/gemma-gqa"}},
                                               {{"seed/gemma-lora"}},
                                               {{"seed/gemma-mha-proba"}},
                                               {{"seed/gemma-mqa"}},
                                               {{"seed/gemma2-bf16"}},
                                               {{"seed/gemma2-hiddennorm"}},
                                               {{"seed/gemma2-window"}, windowed_cache}};
  return all;
}

std::vector<std::string> names_of(const std::vector<NotCompared>& entries) {
  std::vector<std::string> names;
  names.reserve(entries.size());
  for (const NotCompared& entry : entries) names.push_back(entry.name);
  return names;
}

class Golden : public ::testing::TestWithParam<size_t> {
 protected:
  const DecoderCase& golden_case() const { return cases()[GetParam()]; }

  void expect_pass(int num_ranks, DType dtype) {
    SCOPED_TRACE(::testing::Message() << num_ranks << " ranks, " << dtype_name(dtype));
    VerifyReport report = testing::verify_on_ranks(golden_case().golden, num_ranks, dtype);
    EXPECT_TRUE(report.passed()) << to_text(report);
    EXPECT_EQ(names_of(report.not_compared), golden_case().not_compared) << "datasets that nobody compared";
  }
};

TEST_P(Golden, PassesInFloat32AtEveryDegreeThatTheHeadsAllow) {
  GoldenFile golden(golden_case().golden.folder() + "/golden.h5");
  OpenedModel opened = testing::open_case(golden_case().golden, golden);
  const ModelInfo& info = opened.info();
  for (int num_ranks : {1, 2, 3, 4}) {
    bool heads_allow =
        num_ranks <= info.num_kv_heads || (num_ranks % info.num_kv_heads == 0 && num_ranks <= info.num_heads);
    if (heads_allow && info.intermediate_size % num_ranks == 0) expect_pass(num_ranks, DType::f32);
  }
}

TEST_P(Golden, PassesInBfloat16WithItsTolerance) {
  expect_pass(1, DType::bf16);
  expect_pass(2, DType::bf16);
}

INSTANTIATE_TEST_SUITE_P(Cases,
                         Golden,
                         ::testing::Range<size_t>(0, cases().size()),
                         [](const ::testing::TestParamInfo<size_t>& golden) {
                           return cases()[golden.param].golden.test_name();
                         });

}  // namespace
}  // namespace weft
