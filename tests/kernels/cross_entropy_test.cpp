#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class CrossEntropyOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(CrossEntropyOfDType, SumDTypes);

/// Loss per row over columns that are split at `cut` between two ranks; the test reduces between the phases as the op
/// does.
template <typename R>
struct TwoRanks {
  TwoRanks(int64_t num_rows, int64_t num_columns, int64_t cut_at)
      : rows(num_rows),
        columns(num_columns),
        cut(cut_at),
        logits(rows * columns),
        targets(rows),
        capped(rows * columns) {
    fill_random(logits, 1, 3);
    for (int64_t row = 0; row < rows; ++row) targets[row] = static_cast<int32_t>(row * 7 % columns);
    if (rows > 2) targets[2] = -1;
  }

  template <typename Values>
  std::vector<R> columns_of(const Values& values, int64_t begin, int64_t end) const {
    std::vector<R> result;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = begin; i < end; ++i) result.push_back(values[row * columns + i]);
    }
    return result;
  }
  std::vector<R> columns_of(int64_t begin, int64_t end) const { return columns_of(logits, begin, end); }

  /// Fills maximum, sum_exp and target_logit.
  void reduce(const Stream& stream) {
    maximum.assign(rows, -INFINITY);
    sum_exp.assign(rows, 0);
    target_logit.assign(rows, 0);
    std::vector<R> local_maximum[2], local_sum[2], local_target[2];
    for (int rank : {0, 1}) {
      std::vector<R> part = columns_of(begin_of(rank), end_of(rank));
      Guarded<R> own_maximum(rows), own_sum(rows), own_target(rows);
      cpu().cross_entropy.row_statistics({.logits = part.data(),
                                          .targets = targets.data(),
                                          .maximum = own_maximum.data(),
                                          .sum_exp = own_sum.data(),
                                          .target_logit = own_target.data(),
                                          .rows = rows,
                                          .columns = end_of(rank) - begin_of(rank),
                                          .column_begin = begin_of(rank),
                                          .soft_cap = soft_cap,
                                          .dtype = DTypeOf<R>::value},
                                         stream);
      if (soft_cap > 0) store_columns(part, begin_of(rank), end_of(rank));
      local_maximum[rank].assign(own_maximum.data(), own_maximum.data() + rows);
      local_sum[rank].assign(own_sum.data(), own_sum.data() + rows);
      local_target[rank].assign(own_target.data(), own_target.data() + rows);
      for (int64_t row = 0; row < rows; ++row) maximum[row] = std::max(maximum[row], own_maximum[row]);
    }
    for (int rank : {0, 1}) {
      for (int64_t row = 0; row < rows; ++row) {
        R below = local_maximum[rank][row] - maximum[row];
        sum_exp[row] += local_sum[rank][row] * std::exp(below);
        bool is_here = targets[row] >= begin_of(rank) && targets[row] < end_of(rank);
        if (is_here) target_logit[row] = local_target[rank][row] + below;
      }
    }
  }

  int64_t begin_of(int rank) const { return rank == 0 ? 0 : cut; }
  int64_t end_of(int rank) const { return rank == 0 ? cut : columns; }

  void store_columns(const std::vector<R>& part, int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = begin; i < end; ++i) capped[row * columns + i] = part[row * (end - begin) + i - begin];
    }
  }

  double loss(const Stream& stream, const std::vector<R>& row_scale) {
    reduce(stream);
    double total = 0;
    for (int64_t row = 0; row < rows; ++row) {
      if (targets[row] >= 0)
        total += row_scale[row] * (std::log(static_cast<double>(sum_exp[row])) - target_logit[row]);
    }
    return total;
  }

  int64_t rows, columns, cut;
  float soft_cap = 0;
  Guarded<R> logits;
  std::vector<int32_t> targets;
  std::vector<R> capped;  // what the kernel left of the logits, with a soft cap
  std::vector<R> maximum, sum_exp, target_logit;
};

TYPED_TEST(CrossEntropyOfDType, PhasesOnTwoRanksEqualReference) {
  using R = TypeParam;
  for (int64_t columns : {2, 3, 17, 64, 129, 1000}) {
    SCOPED_TRACE(columns);
    TwoRanks<R> problem(5, columns, columns / 2);
    for_each_isa([&](const Stream& stream) {
      problem.reduce(stream);
      for (int64_t row = 0; row < 5; ++row) {
        const R* logits = problem.logits.data() + row * columns;
        double maximum = *std::max_element(logits, logits + columns);
        double sum = 0;
        for (int64_t i = 0; i < columns; ++i) sum += std::exp(static_cast<double>(logits[i]) - maximum);
        EXPECT_EQ(problem.maximum[row], maximum);
        EXPECT_NEAR(problem.sum_exp[row], sum, sum * tolerance<R>().relative);
        double target = problem.targets[row] < 0 ? 0 : logits[problem.targets[row]] - maximum;
        EXPECT_NEAR(problem.target_logit[row], target, 10 * tolerance<R>().relative);
      }
    });
  }
}

class CrossEntropyBackward : public ::testing::TestWithParam<float> {};

TEST_P(CrossEntropyBackward, EqualsCentredDifferences) {
  TwoRanks<double> problem(4, 9, 5);
  problem.soft_cap = GetParam();
  std::vector<double> row_scale = {0.25, 1, 3, -0.5};
  for_each_isa([&](const Stream& stream) {
    problem.reduce(stream);
    Guarded<double> gradient(problem.logits.size());
    for (int rank : {0, 1}) {
      int64_t begin = problem.begin_of(rank), end = problem.end_of(rank);
      std::vector<double> part =
          problem.soft_cap > 0 ? problem.columns_of(problem.capped, begin, end) : problem.columns_of(begin, end);
      CrossEntropyBackwardArgs args{.logits = part.data(),
                                    .maximum = problem.maximum.data(),
                                    .sum_exp = problem.sum_exp.data(),
                                    .targets = problem.targets.data(),
                                    .row_scale = row_scale.data(),
                                    .dlogits = part.data(),
                                    .rows = problem.rows,
                                    .columns = end - begin,
                                    .column_begin = begin,
                                    .soft_cap = problem.soft_cap,
                                    .dtype = DType::f64,
                                    .dlogits_dtype = DType::f64};
      std::vector<bfloat16> narrow(part.size());
      CrossEntropyBackwardArgs narrow_args = args;
      narrow_args.dlogits = narrow.data();
      narrow_args.dlogits_dtype = DType::bf16;
      cpu().cross_entropy.backward(narrow_args, stream);
      cpu().cross_entropy.backward(args, stream);
      for (int64_t i = 0; i < static_cast<int64_t>(part.size()); ++i) {
        gradient[i / (end - begin) * problem.columns + begin + i % (end - begin)] = part[i];
        EXPECT_EQ(narrow[i].bits, bfloat16(static_cast<float>(part[i])).bits);
      }
    }
    expect_gradient(problem.logits, gradient, [&] { return problem.loss(stream, row_scale); });
    for (int64_t i = 0; i < problem.columns; ++i) EXPECT_EQ(gradient[2 * problem.columns + i], 0);
  });
}

INSTANTIATE_TEST_SUITE_P(SoftCaps, CrossEntropyBackward, ::testing::Values(0.0f, 2.5f));

TEST(CrossEntropy, NanLogitGivesNanLoss) {
  TwoRanks<float> problem(3, 40, 20);
  problem.logits[33] = std::nanf("");
  for_each_isa([&](const Stream& stream) {
    problem.reduce(stream);
    EXPECT_TRUE(std::isnan(problem.sum_exp[0]));
    EXPECT_FALSE(std::isnan(problem.sum_exp[1]));
  });
}

}  // namespace
}  // namespace weft
