#include "kernels/cross_entropy.h"

#include <algorithm>
#include <limits>

#include "cuda/cuda_test.h"

namespace weft {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  int64_t rows, columns, column_begin;
  float soft_cap;
};
/// Rows that begin off 16 bytes and that do not, narrower than a block and wider, with and without a cap.
constexpr Case kCases[] = {{1, 1, 0, 0},
                           {3, 5, 0, 0},
                           {5, 2, 3, 30},
                           {7, 130, 100, 0},
                           {9, 1000, 0, 5},
                           {4, 4096, 4096, 0},
                           {6, 50257, 0, 0},
                           {5, 50257, 1000, 30},
                           {2, 262144, 0, 0}};

/// Targets within the columns, before and after them, and ignored ones.
std::vector<int32_t> targets_of(const Case& part) {
  std::vector<int32_t> targets;
  for (int64_t row = 0; row < part.rows; ++row) {
    int64_t target = part.column_begin + row * 7919 % part.columns;
    if (row % 5 == 3) target = -100;
    if (row % 5 == 4) target = part.column_begin + part.columns;
    if (row == 5) target = part.column_begin - 1;  // -1 without a beginning: ignored
    targets.push_back(static_cast<int32_t>(target));
  }
  return targets;
}

struct RowValues {
  explicit RowValues(int64_t rows) : maximum(rows), sum_exp(rows), target_logit(rows) {}
  Twin<float> maximum, sum_exp, target_logit;
};

void run_statistics(const Case& part, Twin<float>& logits, const std::vector<int32_t>& targets, RowValues& values) {
  on_both([&](const Side& side) {
    side.kernels().cross_entropy.row_statistics({.logits = logits.on(side),
                                                 .targets = targets.data(),
                                                 .maximum = values.maximum.on(side),
                                                 .sum_exp = values.sum_exp.on(side),
                                                 .target_logit = values.target_logit.on(side),
                                                 .rows = part.rows,
                                                 .columns = part.columns,
                                                 .column_begin = part.column_begin,
                                                 .soft_cap = part.soft_cap},
                                                side.stream);
  });
}

/// The CPU adds the terms of a row in a few sums, of which each has tens of thousands in the widest rows here. A capped
/// logit is within a few units in the last place, which differences of large logits and their exponentials
/// show as an absolute error.
void expect_statistics(const Case& part, Twin<float>& logits, RowValues& values) {
  double difference = part.soft_cap > 0 ? 6e-7 * part.soft_cap : 5e-6;
  expect_same(logits, 2e-6, 1e-6, "logits");
  expect_same(values.maximum, 1e-6, 0, "maximum");
  expect_same(values.sum_exp, 3e-5 + difference, 0, "sum_exp");
  expect_same(values.target_logit, 2e-6, difference, "target_logit");
}

TEST(CudaCrossEntropy, RowStatistics) {
  WEFT_NEEDS_GPU();
  for (const Case& part : kCases) {
    SCOPED_TRACE(::testing::Message() << part.rows << " x " << part.columns << ", cap " << part.soft_cap);
    auto logits = Twin<float>::random(part.rows * part.columns, 1, 6);
    RowValues values(part.rows);
    run_statistics(part, logits, targets_of(part), values);
    expect_statistics(part, logits, values);
  }
}

TEST(CudaCrossEntropy, RowStatisticsOffAlignment) {
  WEFT_NEEDS_GPU();
  constexpr Case kCase{.rows = 4, .columns = 1024, .column_begin = 0, .soft_cap = 0};
  auto logits = Twin<float>::random(kCase.rows * kCase.columns + 1, 1, 6);
  std::vector<int32_t> targets = targets_of(kCase);
  RowValues values(kCase.rows);
  on_both([&](const Side& side) {
    side.kernels().cross_entropy.row_statistics({.logits = logits.on(side) + 1,
                                                 .targets = targets.data(),
                                                 .maximum = values.maximum.on(side),
                                                 .sum_exp = values.sum_exp.on(side),
                                                 .target_logit = values.target_logit.on(side),
                                                 .rows = kCase.rows,
                                                 .columns = kCase.columns},
                                                side.stream);
  });
  expect_statistics(kCase, logits, values);
}

TEST(CudaCrossEntropy, RowStatisticsOfInfinitiesAndNan) {
  WEFT_NEEDS_GPU();
  constexpr Case kCase{.rows = 6, .columns = 3001, .column_begin = 0, .soft_cap = 0};
  auto logits = Twin<float>::random(kCase.rows * kCase.columns, 1, 6);
  float* row = logits.host().data();
  std::fill_n(row, 3000, -kInfinity);  // all but the last
  row += kCase.columns;
  std::fill_n(row + 1, 3000, -kInfinity);  // all but the first
  row += kCase.columns;
  std::fill_n(row, 3001, -kInfinity);  // all
  row += kCase.columns;
  row[1234] = kInfinity;
  row += kCase.columns;
  row[5] = std::numeric_limits<float>::quiet_NaN();
  row += kCase.columns;
  for (int64_t i = 0; i < kCase.columns; i += 2) row[i] = -kInfinity;
  logits.send();
  RowValues values(kCase.rows);
  std::vector<int32_t> targets(6, 3000);
  run_statistics(kCase, logits, targets, values);
  expect_statistics(kCase, logits, values);
  std::vector<float> sums = values.sum_exp.device_values();
  for (int nan_row : {2, 3, 4}) EXPECT_TRUE(std::isnan(sums[static_cast<size_t>(nan_row)])) << nan_row;
}

/// What backward reads: maxima and sums of the whole vocabulary, which other columns may have raised.
RowValues whole_vocabulary(const Case& part, Twin<float>& logits, const std::vector<int32_t>& targets) {
  RowValues values(part.rows);
  run_statistics(part, logits, targets, values);
  logits.send();
  for (size_t row = 0; row < values.maximum.host().size(); ++row) {
    if (row % 3 != 1) continue;
    values.maximum.host()[row] += 1;
    values.sum_exp.host()[row] = values.sum_exp.host()[row] * std::exp(-1.0f) + 2;
  }
  values.maximum.send();
  values.sum_exp.send();
  return values;
}

template <typename D>
void check_backward(const Case& part, bool is_in_place) {
  SCOPED_TRACE(::testing::Message() << part.rows << " x " << part.columns << ", cap " << part.soft_cap);
  auto logits = Twin<float>::random(part.rows * part.columns, 1, 6);
  std::vector<int32_t> targets = targets_of(part);
  RowValues values = whole_vocabulary(part, logits, targets);
  auto row_scale = Twin<float>::random(part.rows, 2, 0.2f, 1);
  Twin<D> dlogits(part.rows * part.columns);
  on_both([&](const Side& side) {
    void* into = is_in_place ? static_cast<void*>(logits.on(side)) : dlogits.on(side);
    side.kernels().cross_entropy.backward({.logits = logits.on(side),
                                           .maximum = values.maximum.on(side),
                                           .sum_exp = values.sum_exp.on(side),
                                           .targets = targets.data(),
                                           .row_scale = row_scale.on(side),
                                           .dlogits = into,
                                           .rows = part.rows,
                                           .columns = part.columns,
                                           .column_begin = part.column_begin,
                                           .soft_cap = part.soft_cap,
                                           .dlogits_dtype = DTypeOf<D>::value},
                                          side.stream);
  });
  // Probability less one cancels for a target that is nearly certain.
  double relative = std::is_same_v<D, float> ? 1e-5 : 0.0079;
  if (is_in_place) {
    expect_same(logits, relative, 5e-7, "dlogits over logits");
  } else {
    expect_same(dlogits, relative, 5e-7, "dlogits");
  }
}

TEST(CudaCrossEntropy, Backward) {
  WEFT_NEEDS_GPU();
  for (const Case& part : kCases) {
    check_backward<float>(part, false);
    check_backward<float>(part, true);
    check_backward<bfloat16>(part, false);
  }
}

TEST(CudaCrossEntropy, NothingIsDoneToNoRows) {
  WEFT_NEEDS_GPU();
  on_both([](const Side& side) {
    side.kernels().cross_entropy.row_statistics({.columns = 5}, side.stream);
    side.kernels().cross_entropy.backward({.columns = 5}, side.stream);
  });
}

/// A rank without columns: its maximum must not win, its sum adds nothing.
TEST(CudaCrossEntropy, StatisticsOfNoColumns) {
  WEFT_NEEDS_GPU();
  constexpr Case kCase{.rows = 3, .columns = 0, .column_begin = 10, .soft_cap = 0};
  Twin<float> logits(1);
  RowValues values(kCase.rows);
  run_statistics(kCase, logits, {1, 10, -1}, values);
  expect_statistics(kCase, logits, values);
}

}  // namespace
}  // namespace weft
