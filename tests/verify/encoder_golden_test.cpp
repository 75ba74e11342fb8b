// Golden files of the BERT line, from Keras weights, TensorFlow checkpoints and safetensors, at every number of ranks
// that their heads allow.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "verify/golden_ranks.h"

namespace weft {
namespace {

using testing::GoldenCase;

const std::vector<GoldenCase>& cases() {
  static const std::vector<GoldenCase> all = [] {
    std::vector<GoldenCase> found;
    for (const char* name : {"albert-pool-nsp-mlm",
                             "albert_unshared-mlm",
                             "albert-lm",
                             "bert-mlm",
                             "bert-unilm",
                             "bert-lm",
                             "bert-condln",
                             "bert-embsize",
                             "bert-hierarchical",
                             "bert-keeptokens",
                             "bert-realformer",
                             "bert-realformer-deep",
                             "bert-positions",
                             "bert-sharedseg",
                             "bert-noseg",
                             "bert-unilm-segatt",
                             "bert-lora",
                             "bert-pool",
                             "deberta-mlm",
                             "deberta-mlm-head",
                             "electra-discriminator",
                             "gau_alpha-mlm",
                             "gau_alpha-lm",
                             "nezha-pool-nsp-mlm",
                             "nezha-mlm",
                             "nezha-lm",
                             "roformer-mlm",
                             "roformer-unilm",
                             "roformer-positions",
                             "roformer_sim-unilm",
                             "roformer_v2-mlm",
                             "roformer_v2-unilm",
                             "roformer_v2-embsize"}) {
      GoldenCase one{.name = std::string("seed/") + name};
      found.push_back(one);
      if (std::filesystem::exists(one.folder() + "/ckpt")) found.push_back({.name = one.name, .weights = "ckpt"});
    }
    for (const char* name : {"albert",
                             "bert",
                             "distilbert",
                             "distilbert_classifier",
                             "electra_disc",
                             "electra_gen",
                             "electra_gen_gelu_new",
                             "mpnet",
                             "mpnet_classifier",
                             "nezha",
                             "roberta",
                             "roformer",
                             "xlm_roberta_reranker"}) {
      found.push_back({.name = std::string("hf/") + name});
    }
    return found;
  }();
  return all;
}

/// What is known to be of another model than the file's, or no part of it.
bool may_stay(const NotCompared& entry) {
  return entry.reason.find("of another format") != std::string::npos ||
         entry.reason.find("from another format") != std::string::npos ||
         entry.reason.find("before its vocabulary was cut") != std::string::npos ||
         entry.name == "train/grads/roformer.encoder.embed_positions.weight";
}

class EncoderGolden : public ::testing::TestWithParam<size_t> {
 protected:
  void expect_pass(int num_ranks, DType dtype) {
    SCOPED_TRACE(::testing::Message() << num_ranks << " ranks, " << dtype_name(dtype));
    VerifyReport report = testing::verify_on_ranks(cases()[GetParam()], num_ranks, dtype);
    EXPECT_TRUE(report.passed()) << to_text(report);
    for (const NotCompared& entry : report.not_compared) {
      EXPECT_TRUE(may_stay(entry)) << entry.name << ": " << entry.reason;
    }
  }
};

TEST_P(EncoderGolden, PassesInFloat32AtEveryDegreeThatTheHeadsAllow) {
  expect_pass(1, DType::f32);
  expect_pass(2, DType::f32);
  // The others have two or three heads; a gated attention unit shares out its values.
  const std::string& name = cases()[GetParam()].name;
  bool has_four_heads = name.starts_with("hf/") && !name.starts_with("hf/electra_gen");
  if (has_four_heads || name.starts_with("seed/gau_alpha")) expect_pass(4, DType::f32);
}

INSTANTIATE_TEST_SUITE_P(Cases,
                         EncoderGolden,
                         ::testing::Range<size_t>(0, cases().size()),
                         [](const ::testing::TestParamInfo<size_t>& golden) {
                           return cases()[golden.param].test_name();
                         });

}  // namespace
}  // namespace weft
