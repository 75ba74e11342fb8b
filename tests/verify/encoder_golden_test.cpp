// Golden files of the BERT line, from Keras weights, TensorFlow checkpoints and safetensors, at every number of ranks
// that their heads allow.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "parallel/thread_communicator.h"
#include "verify/verifier.h"

namespace weft {
namespace {

struct EncoderCase {
  std::string name;
  std::string weights = {};  // a folder below the case's; empty: its own
};

std::string folder_of(const EncoderCase& one) {
  return std::string(WEFT_TEST_DATA "/") + one.name;
}

const std::vector<EncoderCase>& cases() {
  static const std::vector<EncoderCase> all = [] {
    std::vector<EncoderCase> found;
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
      EncoderCase one{.name = std::string("seed/") + name};
      found.push_back(one);
      if (std::filesystem::exists(folder_of(one) + "/ckpt")) found.push_back({.name = one.name, .weights = "ckpt"});
    }
    for (const char* name : {"albert", "bert", "electra_disc", "electra_gen", "nezha", "roformer"}) {
      found.push_back({.name = std::string("hf/") + name});
    }
    return found;
  }();
  return all;
}

struct RankFiles {
  GoldenFile golden;
  OpenedModel model;
};

// Opened before any rank runs, for the reason that golden_test.cpp gives.
std::vector<RankFiles> open_for_ranks(const EncoderCase& one, int num_ranks) {
  std::vector<RankFiles> files;
  std::string weights = one.weights.empty() ? folder_of(one) : folder_of(one) + "/" + one.weights;
  for (int rank = 0; rank < num_ranks; ++rank) {
    GoldenFile golden(folder_of(one) + "/golden.h5");
    OpenedModel model = open_model(with_golden_options({.path = weights, .family = {}, .compat = {}}, golden));
    files.push_back({.golden = std::move(golden), .model = std::move(model)});
  }
  return files;
}

/// What is known to be of another model than the file's, or no part of it.
bool may_stay(const NotCompared& entry) {
  return entry.reason.find("of another format") != std::string::npos ||
         entry.reason.find("from another format") != std::string::npos ||
         entry.reason.find("before its vocabulary was cut") != std::string::npos ||
         entry.name == "train/grads/roformer.encoder.embed_positions.weight";
}

class EncoderGolden : public testing::TestWithParam<size_t> {
 protected:
  void expect_pass(int num_ranks, DType dtype) {
    SCOPED_TRACE(testing::Message() << num_ranks << " ranks, " << dtype_name(dtype));
    std::vector<RankFiles> files = open_for_ranks(cases()[GetParam()], num_ranks);
    VerifyReport report;
    run_thread_ranks(num_ranks, [&](const std::shared_ptr<Communicator>& communicator) {
      Context context = make_cpu_context(1);
      context.tensor_parallel = communicator.get();
      RankFiles& mine = files[static_cast<size_t>(communicator->rank())];
      VerifyReport found = verify_model(context, mine.model, mine.golden, {.dtype = dtype, .tolerance = {}});
      if (communicator->rank() == 0) report = std::move(found);
    });
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
  bool has_four_heads = name.starts_with("hf/") && name != "hf/electra_gen";
  if (has_four_heads || name.starts_with("seed/gau_alpha")) expect_pass(4, DType::f32);
}

INSTANTIATE_TEST_SUITE_P(Cases,
                         EncoderGolden,
                         testing::Range<size_t>(0, cases().size()),
                         [](const testing::TestParamInfo<size_t>& golden) {
                           const EncoderCase& one = cases()[golden.param];
                           std::string name = one.name + (one.weights.empty() ? "" : "_" + one.weights);
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
                           return name;
                         });

}  // namespace
}  // namespace weft
