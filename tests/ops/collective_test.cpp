#include "ops/collective.h"

#include <gtest/gtest.h>

#include <functional>
#include <mutex>
#include <vector>

#include "autograd/tape.h"
#include "ops/elementwise.h"
#include "parallel/thread_communicator.h"
#include "support/grad_check.h"
#include "support/late_communicator.h"

namespace weft {
namespace {

using testing::random_tensor;

Tensor with_slot(Tensor tensor) {
  tensor.set_grad_slot(std::make_shared<GradSlot>());
  return tensor;
}

/// Runs body on `size` thread ranks, each with a context and a tape of its own.
void on_ranks(int size, const std::function<void(Context&, Communicator&)>& body) {
  run_thread_ranks(size, [&](const std::shared_ptr<Communicator>& communicator) {
    Context context = make_cpu_context(1);
    context.tensor_parallel = communicator.get();
    Tape tape;
    context.tape = &tape;
    body(context, *communicator);
  });
}

TEST(Collective, CopyToTpSumsTheGradientOverRanks) {
  on_ranks(3, [](Context& context, Communicator& group) {
    Tensor x = with_slot(random_tensor(context, {2, 3}, 1));
    Tensor y = scale(context, copy_to_tp(context, x), 1.0 + group.rank());
    add_grad(context, y.grad_slot(), random_tensor(context, {2, 3}, 5));
    context.tape->backward(context);
    Tensor expected = random_tensor(context, {2, 3}, 5);
    Tensor grad = take_grad(x.grad_slot());
    for (int i = 0; i < 6; ++i) EXPECT_NEAR(grad.data<double>()[i], 6.0 * expected.data<double>()[i], 1e-12);
  });
}

TEST(Collective, ReduceFromTpSumsValuesAndPassesTheGradientOn) {
  on_ranks(2, [](Context& context, Communicator& group) {
    Tensor x = with_slot(random_tensor(context, {2, 3}, 1 + static_cast<uint64_t>(group.rank())));
    Tensor y = reduce_from_tp(context, scale(context, x, 1.0));
    Tensor first = random_tensor(context, {2, 3}, 1);
    Tensor second = random_tensor(context, {2, 3}, 2);
    for (int i = 0; i < 6; ++i)
      EXPECT_NEAR(y.data<double>()[i], first.data<double>()[i] + second.data<double>()[i], 1e-12);
    add_grad(context, y.grad_slot(), random_tensor(context, {2, 3}, 5));
    context.tape->backward(context);
    Tensor grad = take_grad(x.grad_slot());
    for (int i = 0; i < 6; ++i) EXPECT_EQ(grad.data<double>()[i], random_tensor(context, {2, 3}, 5).data<double>()[i]);
  });
}

TEST(Collective, GatherColumnsPutsUnevenPartsSideBySide) {
  constexpr int64_t kTotal = 7;
  on_ranks(3, [](Context& context, Communicator& group) {
    int64_t begin = even_part_begin(kTotal, group.rank(), 3);
    int64_t end = even_part_begin(kTotal, group.rank() + 1, 3);
    Tensor whole = random_tensor(context, {2, kTotal}, 1);
    Tensor part = context.empty({2, end - begin}, DType::f64);
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t column = begin; column < end; ++column) {
        part.data<double>()[row * (end - begin) + column - begin] = whole.data<double>()[row * kTotal + column];
      }
    }
    part = with_slot(part);
    Tensor y = gather_columns_from_tp(context, part, kTotal);
    for (int64_t i = 0; i < 2 * kTotal; ++i) EXPECT_EQ(y.data<double>()[i], whole.data<double>()[i]);
    add_grad(context, y.grad_slot(), random_tensor(context, {2, kTotal}, 1));
    context.tape->backward(context);
    Tensor grad = take_grad(part.grad_slot());
    for (int64_t i = 0; i < part.num_elements(); ++i) EXPECT_EQ(grad.data<double>()[i], part.data<double>()[i]);
  });
}

/// f(x) = Σ weights·values over all ranks, whose gradient for each rank's own x is compared with that of the tape.
void expect_conjugate(const std::function<Tensor(Context&, const Tensor&)>& transfer, int64_t rows) {
  constexpr int kRanks = 3;
  constexpr double kStep = 0.5;  // the functions are linear
  constexpr int64_t kWidth = 2;
  auto loss_of = [&](int moved_rank, int64_t moved_element, double step, std::vector<double>* grad) {
    std::mutex mutex;
    double loss = 0;
    on_ranks(kRanks, [&](Context& context, Communicator& group) {
      Tensor x = random_tensor(context, {rows, kWidth}, 1 + static_cast<uint64_t>(group.rank()));
      if (group.rank() == moved_rank) x.data<double>()[moved_element] += step;
      x = with_slot(x);
      Tensor y = transfer(context, scale(context, x, 1));
      Tensor weights = random_tensor(context, y.shape(), 10 + static_cast<uint64_t>(group.rank()));
      double sum = 0;
      for (int64_t i = 0; i < y.num_elements(); ++i) sum += weights.data<double>()[i] * y.data<double>()[i];
      add_grad(context, y.grad_slot(), weights);
      context.tape->backward(context);
      std::lock_guard lock(mutex);
      loss += sum;
      Tensor dx = take_grad(x.grad_slot());
      if (grad != nullptr && group.rank() == moved_rank)
        grad->assign(dx.data<double>(), dx.data<double>() + rows * kWidth);
    });
    return loss;
  };
  for (int rank = 0; rank < kRanks; ++rank) {
    std::vector<double> grad;
    double at = loss_of(rank, 0, 0, &grad);
    for (int64_t i = 0; i < rows * kWidth; ++i)
      EXPECT_NEAR(grad[static_cast<size_t>(i)], (loss_of(rank, i, kStep, nullptr) - at) / kStep, 1e-10);
  }
}

TEST(Collective, TokensAreGatheredAndTheirGradientsScattered) {
  for (int64_t tokens : {7, 9}) {
    expect_conjugate([&](Context& context, const Tensor& x) { return gather_tokens_from_tp(context, x, tokens); }, 3);
  }
}

TEST(Collective, SumsAreScatteredByTokensAndTheirGradientsGathered) {
  for (int64_t tokens : {4, 6}) {
    expect_conjugate([&](Context& context, const Tensor& x) { return scatter_tokens_to_tp(context, x); }, tokens);
  }
}

TEST(Collective, ASplitTensorHasZerosPastTheEnd) {
  constexpr int64_t kTokens = 4;
  on_ranks(3, [](Context& context, Communicator& group) {
    Tensor x = with_slot(random_tensor(context, {kTokens, 2}, 1));
    Tensor y = split_tokens_to_tp(context, scale(context, x, 1));
    ASSERT_EQ(y.size(0), 2);
    for (int64_t i = 0; i < 4; ++i) {
      int64_t source = group.rank() * 4 + i;
      EXPECT_EQ(y.data<double>()[i], source < 8 ? x.data<double>()[source] : 0.0);
    }
    add_grad(context, y.grad_slot(), random_tensor(context, {2, 2}, 20 + static_cast<uint64_t>(group.rank())));
    context.tape->backward(context);
    Tensor dx = take_grad(x.grad_slot());
    for (int64_t i = 0; i < 8; ++i) {
      Tensor expected = random_tensor(context, {2, 2}, 20 + static_cast<uint64_t>(i / 4));
      EXPECT_EQ(dx.data<double>()[i], expected.data<double>()[i % 4]);
    }
  });
}

/// The same with started collectives that are made when they are waited for.
void on_late_ranks(int size, const std::function<void(Context&, Communicator&)>& body) {
  on_ranks(size, [&](Context& context, Communicator& group) {
    std::shared_ptr<Communicator> own = group.split(0, group.rank());
    auto late = testing::make_late_communicator(std::move(own));
    context.tensor_parallel = late.get();
    body(context, *late);
  });
}

/// Looks at a weight's gradient when backward comes by.
class Probe final : public Node {
 public:
  Probe(const Tensor& weight, bool& has_gradient) : weight_(weight), has_gradient_(has_gradient) {}
  std::string_view name() const override { return "probe"; }
  void backward(Context& /*context*/) override { has_gradient_ = weight_.grad_slot()->tensor.defined(); }

 private:
  Tensor weight_;
  bool& has_gradient_;
};

TEST(Collective, GradientsOfWeightsAreComputedBesideTheSumOfTheInputsGradient) {
  for (int64_t block : {int64_t{0}, kOuterBlock}) {
    on_late_ranks(2, [&](Context& context, Communicator& group) {
      Tensor x = with_slot(random_tensor(context, {4, 3}, 1));
      Tensor weight = with_slot(random_tensor(context, {5, 3}, 2 + static_cast<uint64_t>(group.rank())));
      Tensor dy = random_tensor(context, {4, 5}, 7);
      context.block = 0;
      Tensor inside = copy_to_tp(context, x);
      bool has_gradient = false;
      context.tape->record(std::make_unique<Probe>(weight, has_gradient));
      // A block's gradients must be there when it ends, wherever its input comes from.
      context.block = block;
      Tensor y = linear(context, inside, {.weight = &weight});
      add_grad(context, y.grad_slot(), dy);
      context.tape->backward(context);
      EXPECT_EQ(has_gradient, block != 0);

      Tensor dx = take_grad(x.grad_slot()), dw = take_grad(weight.grad_slot());
      Tensor first = random_tensor(context, {5, 3}, 2), second = random_tensor(context, {5, 3}, 3);
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < 3; ++c) {
          double expected = 0;
          for (int64_t n = 0; n < 5; ++n) {
            expected +=
                dy.data<double>()[r * 5 + n] * (first.data<double>()[n * 3 + c] + second.data<double>()[n * 3 + c]);
          }
          EXPECT_NEAR(dx.data<double>()[r * 3 + c], expected, 1e-12);
        }
      }
      for (int64_t n = 0; n < 5; ++n) {
        for (int64_t c = 0; c < 3; ++c) {
          double expected = 0;
          for (int64_t r = 0; r < 4; ++r) expected += dy.data<double>()[r * 5 + n] * x.data<double>()[r * 3 + c];
          EXPECT_NEAR(dw.data<double>()[n * 3 + c], expected, 1e-12);
        }
      }
    });
  }
}

TEST(Collective, AProductInHalvesIsSummedLikeAWhole) {
  for (int64_t rows : {8, 9}) {
    on_late_ranks(3, [&](Context& context, Communicator& group) {
      auto rank = static_cast<uint64_t>(group.rank());
      Tensor x = with_slot(random_tensor(context, {rows, 4}, 1 + rank));
      Tensor weight = with_slot(random_tensor(context, {5, 4}, 11 + rank));
      Tensor dy = random_tensor(context, {rows, 5}, 30);
      std::vector<Tensor> results;
      for (int64_t worth_halving : {int64_t{100}, int64_t{2}}) {
        Tensor y = linear_reduced_from_tp(context, x, {.weight = &weight}, worth_halving);
        add_grad(context, y.grad_slot(), dy);
        context.tape->backward(context);
        results.insert(results.end(), {y, take_grad(x.grad_slot()), take_grad(weight.grad_slot())});
      }
      for (size_t i = 0; i < 3; ++i) {
        ASSERT_EQ(results[i].shape(), results[i + 3].shape());
        for (int64_t e = 0; e < results[i].num_elements(); ++e) {
          EXPECT_NEAR(results[i].data<double>()[e], results[i + 3].data<double>()[e], 1e-12);
        }
      }
    });
  }
}

}  // namespace
}  // namespace weft
