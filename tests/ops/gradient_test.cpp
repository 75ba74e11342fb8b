// Every op's backward against finite differences. A new op needs a case here: EveryNodeHasACase reads the sources.

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/collective.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/low_rank.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "parallel/thread_communicator.h"
#include "support/grad_check.h"
#include "support/paths.h"

namespace weft {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using Inputs = std::vector<Tensor>;

class Gradient : public ::testing::Test {
 protected:
  Tensor random(const Shape& shape, uint64_t seed, double scale = 1.0) {
    return random_tensor(context_, shape, seed, scale);
  }
  Context context_ = make_cpu_context(2);
};

TEST_F(Gradient, linear) {
  check_gradients(
      context_, {random({5, 3}, 1), random({4, 3}, 2), random({4}, 3)}, [](Context& context, const Inputs& in) {
        return linear(context, in[0], {&in[1], &in[2]});
      });
}

TEST_F(Gradient, linear_of_several_weights) {
  check_gradients(
      context_, {random({5, 3}, 1), random({4, 3}, 2), random({4, 3}, 3)}, [](Context& context, const Inputs& in) {
        std::array<LinearParameters, 2> weights = {{{&in[1], nullptr}, {&in[2], nullptr}}};
        std::vector<Tensor> y = linear_group(context, in[0], weights, DType::f64);
        return gated_activation(context, y[0], y[1], Activation::silu);
      });
}

TEST_F(Gradient, rms_norm) {
  for (float offset : {0.0f, 1.0f}) {
    check_gradients(context_, {random({4, 7}, 1), random({7}, 2)}, [&](Context& context, const Inputs& in) {
      return rms_norm(context, in[0], in[1], {.eps = 1e-3, .weight_offset = offset});
    });
  }
}

TEST_F(Gradient, rms_norm_after_addition) {
  check_gradients(
      context_, {random({4, 6}, 1), random({4, 6}, 2), random({6}, 3)}, [](Context& context, const Inputs& in) {
        ResidualNorm joined = add_rms_norm(context, in[0], in[1], in[2], {.eps = 1e-3});
        return add(context, joined.normed, scale(context, joined.sum, 0.7));
      });
}

TEST_F(Gradient, rms_norm_after_addition_whose_sum_is_unused) {
  check_gradients(
      context_, {random({4, 6}, 1), random({4, 6}, 2), random({6}, 3)}, [](Context& context, const Inputs& in) {
        return add_rms_norm(context, in[0], in[1], in[2], {.eps = 1e-3}).normed;
      });
}

TEST_F(Gradient, rms_norm_that_passes_its_input_on) {
  check_gradients(context_, {random({4, 6}, 1), random({6}, 3)}, [](Context& context, const Inputs& in) {
    ResidualNorm joined = pass_rms_norm(context, in[0], in[1], {.eps = 1e-3});
    return add(context, joined.normed, scale(context, joined.sum, 0.7));
  });
}

TEST_F(Gradient, rms_norm_without_a_weight) {
  check_gradients(context_, {random({4, 7}, 1)}, [](Context& context, const Inputs& in) {
    return layer_norm(context, in[0], {.subtract_mean = false}, 1e-3);
  });
  check_gradients(context_, {random({4, 6}, 1), random({4, 6}, 2)}, [](Context& context, const Inputs& in) {
    return add_layer_norm(context, in[0], in[1], {.subtract_mean = false}, 1e-3);
  });
}

TEST_F(Gradient, layer_norm) {
  for (int64_t width : {1, 7, 36}) {
    check_gradients(context_,
                    {random({4, width}, 1), random({width}, 2), random({width}, 3)},
                    [](Context& context, const Inputs& in) {
                      return layer_norm(context, in[0], {.weight = &in[1], .bias = &in[2]}, 1e-3);
                    });
  }
}

TEST_F(Gradient, layer_norm_without_parameters) {
  for (bool subtract_mean : {true, false}) {
    check_gradients(context_, {random({4, 7}, 1)}, [&](Context& context, const Inputs& in) {
      return layer_norm(context, in[0], {.subtract_mean = subtract_mean}, 1e-3);
    });
  }
  check_gradients(context_, {random({4, 7}, 1), random({7}, 2)}, [](Context& context, const Inputs& in) {
    return layer_norm(context, in[0], {.weight = &in[1]}, 1e-3);
  });
}

TEST_F(Gradient, layer_norm_of_groups) {
  std::vector<int32_t> groups = {2, 0, 0, 2, 2};
  check_gradients(
      context_, {random({5, 7}, 1), random({3, 7}, 2), random({3, 7}, 3)}, [&](Context& context, const Inputs& in) {
        return layer_norm(context, in[0], {.weight = &in[1], .bias = &in[2], .groups = groups}, 1e-3);
      });
}

TEST_F(Gradient, layer_norm_after_addition) {
  std::vector<int32_t> groups = {1, 0, 1, 1};
  check_gradients(context_,
                  {random({4, 6}, 1), random({4, 6}, 2), random({2, 6}, 3), random({2, 6}, 4)},
                  [&](Context& context, const Inputs& in) {
                    return add_layer_norm(
                        context, in[0], in[1], {.weight = &in[2], .bias = &in[3], .groups = groups}, 1e-3);
                  });
}

TEST_F(Gradient, layer_norm_of_a_tensor_added_to_itself) {
  check_gradients(
      context_, {random({4, 6}, 1), random({6}, 2), random({6}, 3)}, [](Context& context, const Inputs& in) {
        return add_layer_norm(context, in[0], in[0], {.weight = &in[1], .bias = &in[2]}, 1e-3);
      });
}

/// Under selective recomputation the linear layer keeps how to norm, not the normed value, and the activation's
/// neighbour likewise.
TEST_F(Gradient, layer_norm_and_activation_that_are_computed_again) {
  context_.recompute_selectively = true;
  check_gradients(context_,
                  {random({4, 6}, 1), random({4, 6}, 2), random({6}, 3), random({6}, 4), random({5, 6}, 5)},
                  [](Context& context, const Inputs& in) {
                    Tensor normed = add_layer_norm(context, in[0], in[1], {.weight = &in[2], .bias = &in[3]}, 1e-3);
                    Tensor wide = linear(context, normed, {&in[4], nullptr});
                    return activation(context, activation(context, wide, Activation::gelu_erf), Activation::tanh);
                  });
}

TEST_F(Gradient, add_low_rank) {
  for (float dropout : {0.0f, 0.3f}) {
    context_.training = dropout > 0;
    check_gradients(
        context_,
        {random({5, 6}, 1), random({5, 7}, 2), random({3, 7}, 3), random({6, 3}, 4)},
        [&](Context& context, const Inputs& in) {
          return add_low_rank(
              context,
              in[0],
              in[1],
              {.a = &in[2], .b = &in[3], .scale = 1.5, .dropout = dropout, .site = {.site = 4, .global_width = 7}});
        });
  }
}

TEST_F(Gradient, rope) {
  std::vector<int32_t> positions = {0, 3, 1, 9, 100};
  for (bool interleaved : {false, true}) {
    check_gradients(context_, {random({5, 16}, 1)}, [&](Context& context, const Inputs& in) {
      Tensor table = rope_table(context, positions, {1.0, 0.3, 0.01}, DType::f64);
      return rope(context, in[0], table, 8, interleaved);
    });
  }
}

TEST_F(Gradient, attention) {
  std::vector<AttentionSpan> spans = {{.begin = 0, .length = 5}, {.begin = 5, .length = 1}, {.begin = 6, .length = 4}};
  for (AttentionMask mask : {AttentionMask{.scale = 0.5f},
                             AttentionMask{.scale = 0.5f, .soft_cap = 2.0f},
                             AttentionMask{.scale = 0.7f, .window = 2},
                             AttentionMask{.scale = 0.5f, .causal = false}}) {
    check_gradients(context_,
                    {random({10, 12}, 1), random({10, 6}, 2), random({10, 6}, 3)},
                    [&](Context& context, const Inputs& in) {
                      return attention(context, in[0], in[1], in[2], spans, {.head_dim = 3, .mask = mask});
                    });
  }
}

TEST_F(Gradient, attention_with_dropped_weights) {
  context_.training = true;
  context_.random = {.seed = 5, .step = 2};
  std::vector<AttentionSpan> spans = {{.begin = 0, .length = 5}, {.begin = 5, .length = 1}, {.begin = 6, .length = 4}};
  AttentionOptions options{.head_dim = 3,
                           .mask = {.scale = 0.5f, .causal = false},
                           .dropout = {.probability = 0.3f, .site = 4, .head_begin = 2, .global_heads = 9}};
  check_gradients(
      context_, {random({10, 12}, 1), random({10, 6}, 2), random({10, 6}, 3)}, [&](Context& context, const Inputs& in) {
        return attention(context, in[0], in[1], in[2], spans, options);
      });
}

/// A rank with some of the heads and a batch's later tokens drops what one with all of both drops there; without
/// training nothing is dropped.
TEST_F(Gradient, dropped_attention_weights_do_not_depend_on_the_split) {
  Tensor q = random({8, 12}, 1), k = random({8, 12}, 2), v = random({8, 12}, 3);
  std::vector<AttentionSpan> spans = {{.begin = 0, .length = 3}, {.begin = 3, .length = 5}};
  AttentionOptions options{.head_dim = 3, .mask = {}, .dropout = {.probability = 0.4f, .site = 1, .global_heads = 4}};
  Tensor plain = attention(context_, q, k, v, spans, options);
  context_.training = true;
  Tensor whole = attention(context_, q, k, v, spans, options);
  // Tokens 3 to 7 of heads 2 and 3.
  auto part = [&](const Tensor& x) {
    Tensor cut = context_.empty({5, 6}, DType::f64);
    for (int64_t row = 0; row < 5; ++row) {
      for (int64_t i = 0; i < 6; ++i) cut.data<double>()[row * 6 + i] = x.data<double>()[(row + 3) * 12 + 6 + i];
    }
    return cut;
  };
  context_.first_token = 3;
  options.dropout.head_begin = 2;
  std::vector<AttentionSpan> second = {{.begin = 0, .length = 5}};
  Tensor out = attention(context_, part(q), part(k), part(v), second, options);
  Tensor expected = part(whole), undropped = part(plain);
  double difference = 0;
  for (int64_t i = 0; i < out.num_elements(); ++i) {
    EXPECT_NEAR(out.data<double>()[i], expected.data<double>()[i], 1e-12) << i;
    difference += std::abs(out.data<double>()[i] - undropped.data<double>()[i]);
  }
  EXPECT_GT(difference, 0.1);
}

TEST_F(Gradient, attention_to_keys_up_to_a_limit) {
  std::vector<AttentionSpan> spans = {{.begin = 0, .length = 5, .visible_keys = {2, 2, 3, 5, 5}},
                                      {.begin = 5, .length = 1, .visible_keys = {1}},
                                      {.begin = 6, .length = 4}};
  for (bool causal : {true, false}) {
    check_gradients(
        context_,
        {random({10, 12}, 1), random({10, 6}, 2), random({10, 6}, 3)},
        [&](Context& context, const Inputs& in) {
          // Backward must not need the caller's spans.
          std::vector<AttentionSpan> given = spans;
          return attention(
              context, in[0], in[1], in[2], given, {.head_dim = 3, .mask = {.scale = 0.5f, .causal = causal}});
        });
  }
}

TEST_F(Gradient, activation) {
  for (Activation kind : {Activation::silu,
                          Activation::gelu_tanh,
                          Activation::gelu_erf,
                          Activation::relu,
                          Activation::tanh,
                          Activation::sigmoid,
                          Activation::squared_relu}) {
    check_gradients(context_, {random({3, 5}, 1, 3.0)}, [&](Context& context, const Inputs& in) {
      return activation(context, in[0], kind);
    });
  }
}

TEST_F(Gradient, gated_activation) {
  for (Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf, Activation::identity}) {
    check_gradients(context_, {random({3, 5}, 1, 3.0), random({3, 5}, 2)}, [&](Context& context, const Inputs& in) {
      return gated_activation(context, in[0], in[1], activation);
    });
  }
}

TEST_F(Gradient, embedding) {
  std::vector<int32_t> ids = {2, 0, 5, 2, 9};
  check_gradients(context_, {random({6, 4}, 1)}, [&](Context& context, const Inputs& in) {
    return embedding(context, in[0], ids, 1, 1.5f);
  });
}

TEST_F(Gradient, gather_rows) {
  std::vector<int32_t> rows = {3, 1, 3};
  check_gradients(context_, {random({4, 3}, 1)}, [&](Context& context, const Inputs& in) {
    return gather_rows(context, in[0], rows);
  });
}

TEST_F(Gradient, axpby) {
  check_gradients(context_, {random({4, 3}, 1), random({4, 3}, 2)}, [](Context& context, const Inputs& in) {
    return add(context, scale(context, in[0], -2.5), in[1]);
  });
}

TEST_F(Gradient, of_a_tensor_used_twice) {
  check_gradients(context_, {random({4, 3}, 1)}, [](Context& context, const Inputs& in) {
    return gated_activation(context, in[0], add(context, in[0], in[0]), Activation::silu);
  });
}

TEST_F(Gradient, soft_cap) {
  check_gradients(context_, {random({4, 3}, 1, 5.0)}, [](Context& context, const Inputs& in) {
    return soft_cap(context, in[0], 2.0f);
  });
}

TEST_F(Gradient, softmax) {
  check_gradients(
      context_, {random({4, 6}, 1, 2.0)}, [](Context& context, const Inputs& in) { return softmax(context, in[0]); });
}

TEST_F(Gradient, dropout) {
  context_.training = true;
  check_gradients(context_, {random({6, 8}, 1)}, [](Context& context, const Inputs& in) {
    return dropout(context, in[0], 0.4f, {.site = 3, .global_width = 8});
  });
}

TEST_F(Gradient, linear_cross_entropy) {
  std::vector<int32_t> targets = {2, -1, 0, 6, 6};
  std::vector<float> weights = {1.0f, 1.0f, 0.25f, 2.0f, 0.5f};
  for (LossReduction reduction : {LossReduction::mean, LossReduction::sum}) {
    for (float soft_cap : {0.0f, 2.0f}) {
      for (int64_t chunk_rows : {1, 3, 0}) {
        check_gradients(context_, {random({5, 4}, 1), random({7, 4}, 2, 3.0)}, [&](Context& context, const Inputs& in) {
          return linear_cross_entropy(
                     context,
                     in[0],
                     in[1],
                     targets,
                     weights,
                     {.reduction = reduction, .vocab_size = 7, .soft_cap = soft_cap, .chunk_rows = chunk_rows})
              .loss;
        });
      }
    }
  }
}

TEST_F(Gradient, linear_cross_entropy_with_a_bias) {
  std::vector<int32_t> targets = {2, -1, 0, 6, 6};
  std::vector<float> weights = {1.0f, 1.0f, 0.25f, 2.0f, 0.5f};
  for (float soft_cap : {0.0f, 2.0f}) {
    for (int64_t chunk_rows : {1, 3, 0}) {
      check_gradients(context_,
                      {random({5, 4}, 1), random({7, 4}, 2, 3.0), random({7}, 3, 2.0)},
                      [&](Context& context, const Inputs& in) {
                        return linear_cross_entropy(
                                   context,
                                   in[0],
                                   in[1],
                                   targets,
                                   weights,
                                   {.vocab_size = 7, .soft_cap = soft_cap, .bias = &in[2], .chunk_rows = chunk_rows})
                            .loss;
                      });
    }
  }
}

// Seven columns over two ranks: four and three.
TEST(LinearCrossEntropy, OfABiasOverRanksEqualsOneRank) {
  std::vector<int32_t> targets = {2, -1, 0, 6, 6};
  LinearCrossEntropyOptions options{.vocab_size = 7, .soft_cap = 2.0f};
  Context alone = make_cpu_context(1);
  Tensor x = random_tensor(alone, {5, 4}, 1), head = random_tensor(alone, {7, 4}, 2),
         bias = random_tensor(alone, {7}, 3);
  auto bias_gradient = [&](Context& context, const Tensor& rows, Tensor part, double& loss) {
    Tape tape;
    context.tape = &tape;
    part.set_grad_slot(std::make_shared<GradSlot>());
    LinearCrossEntropyOptions biased = options;
    biased.bias = &part;
    CrossEntropy result = linear_cross_entropy(context, x, rows, targets, {}, biased);
    loss = *result.loss.data<double>();
    tape.backward(context, result.loss);
    context.tape = nullptr;
    return take_grad(part.grad_slot());
  };
  double expected_loss = 0;
  Tensor expected = bias_gradient(alone, head, bias.detach(), expected_loss);
  run_thread_ranks(2, [&](const std::shared_ptr<Communicator>& group) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = group.get();
    int64_t begin = group->rank() * 4, end = std::min<int64_t>(7, begin + 4);
    double loss = 0;
    Tensor part = bias_gradient(context, head.slice(begin, end), bias.slice(begin, end), loss);
    EXPECT_NEAR(loss, expected_loss, 1e-12);
    for (int64_t i = begin; i < end; ++i) {
      EXPECT_NEAR(part.data<double>()[i - begin], expected.data<double>()[i], 1e-12) << i;
    }
  });
}

/// The rows one by one, as far as each may see, through a cache.
TEST(CachedAttention, OfKeysUpToALimitEqualsAttentionWithoutACache) {
  Context context = make_cpu_context(2);
  Tensor q = random_tensor(context, {9, 12}, 1), k = random_tensor(context, {9, 6}, 2),
         v = random_tensor(context, {9, 6}, 3);
  std::vector<int32_t> limits = {4, 4, 4, 4, 5, 6, 7, 7, 7};
  AttentionOptions options{.head_dim = 3, .mask = {.scale = 0.5f, .causal = false}};
  std::vector<AttentionSpan> whole = {{.begin = 0, .length = 9, .visible_keys = limits}};
  Tensor expected = attention(context, q, k, v, whole, options);
  Tensor key_cache = context.zeros({2, 2, 12, 3}, DType::f64), value_cache = context.zeros({2, 2, 12, 3}, DType::f64);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 4}, {4, 7}, {7, 8}, {8, 9}}) {
    std::vector<AttentionSpan> part = {{.begin = 0, .length = end - begin, .past = begin, .slot = 1}};
    part[0].visible_keys.assign(limits.begin() + begin, limits.begin() + end);
    Tensor out = cached_attention(
        context, q.slice(begin, end), k.slice(begin, end), v.slice(begin, end), key_cache, value_cache, part, options);
    for (int64_t i = 0; i < out.num_elements(); ++i) {
      EXPECT_NEAR(out.data<double>()[i], expected.data<double>()[begin * 12 + i], 1e-12) << begin << " " << i;
    }
  }
}

TEST_F(Gradient, column_scale) {
  check_gradients(context_, {random({4, 3}, 1), random({3}, 2)}, [](Context& context, const Inputs& in) {
    return scale_columns(context, in[0], in[1]);
  });
}

TEST_F(Gradient, loss_of_classes) {
  std::vector<int32_t> targets = {2, -1, 0, 1};
  for (const std::vector<float>& weights : {std::vector<float>{}, std::vector<float>{1.0f, 0.5f, 2.0f, 0.25f}}) {
    check_gradients(context_, {random({4, 3}, 1, 2.0)}, [&](Context& context, const Inputs& in) {
      return softmax_cross_entropy(context, in[0], targets, weights);
    });
  }
}

TEST_F(Gradient, loss_of_yes_and_no) {
  std::vector<float> targets = {1.0f, 0.0f, 0.3f, 1.0f, 0.0f, 0.9f};
  for (const std::vector<float>& weights : {std::vector<float>{}, std::vector<float>{1, 0.5f, 2, 0.25f, 0, 1}}) {
    check_gradients(context_, {random({3, 2}, 1, 2.0)}, [&](Context& context, const Inputs& in) {
      return binary_cross_entropy(context, in[0], targets, weights);
    });
  }
}

TEST(ActivationNames, AreTheConfigsWords) {
  EXPECT_EQ(parse_activation("tanh"), Activation::tanh);
  EXPECT_EQ(parse_activation("sigmoid"), Activation::sigmoid);
  EXPECT_EQ(parse_activation("gelu_erf"), Activation::gelu_erf);
  EXPECT_EQ(parse_activation("squared_relu"), Activation::squared_relu);
  EXPECT_ANY_THROW(parse_activation("swich"));
}

TEST(Gradients, EveryNodeHasACase) {
  namespace fs = std::filesystem;
  // The collectives' conjugates are checked across ranks in collective_test.cpp.
  std::string covered = "gather_columns_from_tp";
  for (int i = 0; i < ::testing::UnitTest::GetInstance()->total_test_suite_count(); ++i) {
    const ::testing::TestSuite* tests = ::testing::UnitTest::GetInstance()->GetTestSuite(i);
    for (int j = 0; j < tests->total_test_count(); ++j) covered += std::string(" ") + tests->GetTestInfo(j)->name();
  }
  std::regex node_name(R"re(name\(\) const override \{ return "([a-z_]+)")re");
  int found = 0;
  for (const auto& entry : fs::directory_iterator(source_path("src/ops"))) {
    std::ifstream file(entry.path());
    std::stringstream text;
    text << file.rdbuf();
    std::string source = text.str();
    for (std::sregex_iterator match(source.begin(), source.end(), node_name), end; match != end; ++match) {
      ++found;
      EXPECT_NE(covered.find((*match)[1]), std::string::npos) << "no gradient case for " << (*match)[1];
    }
  }
  EXPECT_GE(found, 10);
}

}  // namespace
}  // namespace weft
