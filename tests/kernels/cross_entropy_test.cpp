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
      : rows(num_rows), columns(num_columns), cut(cut_at), logits(rows * columns), targets(rows) {
    fill_random(logits, 1, 3);
    for (int64_t row = 0; row < rows; ++row) targets[row] = static_cast<int32_t>(row * 7 % columns);
    if (rows > 2) targets[2] = -1;
  }

  std::vector<R> columns_of(int64_t begin, int64_t end) const {
    std::vector<R> result;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = begin; i < end; ++i) result.push_back(logits[row * columns + i]);
    }
    return result;
  }

  /// Fills maximum, sum_exp and target_logit.
  void reduce(const Stream& stream) {
    maximum.assign(rows, -INFINITY);
    sum_exp.assign(rows, 0);
    target_logit.assign(rows, 0);
    for (auto [begin, end] : {std::pair{int64_t{0}, cut}, {cut, columns}}) {
      std::vector<R> part = columns_of(begin, end);
      Guarded<R> own(rows);
      cpu().cross_entropy.row_maximum({.logits = part.data(),
                                       .maximum = own.data(),
                                       .rows = rows,
                                       .columns = end - begin,
                                       .dtype = DTypeOf<R>::value},
                                      stream);
      for (int64_t row = 0; row < rows; ++row) maximum[row] = std::max(maximum[row], own[row]);
    }
    for (auto [begin, end] : {std::pair{int64_t{0}, cut}, {cut, columns}}) {
      std::vector<R> part = columns_of(begin, end);
      Guarded<R> own_sum(rows), own_target(rows);
      cpu().cross_entropy.row_sum_exp({.logits = part.data(),
                                       .maximum = maximum.data(),
                                       .targets = targets.data(),
                                       .sum_exp = own_sum.data(),
                                       .target_logit = own_target.data(),
                                       .rows = rows,
                                       .columns = end - begin,
                                       .column_begin = begin,
                                       .dtype = DTypeOf<R>::value},
                                      stream);
      for (int64_t row = 0; row < rows; ++row) {
        sum_exp[row] += own_sum[row];
        target_logit[row] += own_target[row];
      }
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
  Guarded<R> logits;
  std::vector<int32_t> targets;
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

TEST(CrossEntropy, BackwardEqualsCentredDifferences) {
  TwoRanks<double> problem(4, 9, 5);
  std::vector<double> row_scale = {0.25, 1, 3, -0.5};
  for_each_isa([&](const Stream& stream) {
    problem.reduce(stream);
    Guarded<double> gradient(problem.logits.size());
    for (auto [begin, end] : {std::pair{int64_t{0}, problem.cut}, {problem.cut, problem.columns}}) {
      std::vector<double> part = problem.columns_of(begin, end);
      cpu().cross_entropy.backward({.logits = part.data(),
                                    .maximum = problem.maximum.data(),
                                    .sum_exp = problem.sum_exp.data(),
                                    .targets = problem.targets.data(),
                                    .row_scale = row_scale.data(),
                                    .dlogits = part.data(),
                                    .rows = problem.rows,
                                    .columns = end - begin,
                                    .column_begin = begin,
                                    .dtype = DType::f64},
                                   stream);
      for (int64_t i = 0; i < static_cast<int64_t>(part.size()); ++i) {
        gradient[i / (end - begin) * problem.columns + begin + i % (end - begin)] = part[i];
      }
    }
    expect_gradient(problem.logits, gradient, [&] { return problem.loss(stream, row_scale); });
    for (int64_t i = 0; i < problem.columns; ++i) EXPECT_EQ(gradient[2 * problem.columns + i], 0);
  });
}

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
