#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class RopeOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(RopeOfDType, KernelDTypes);

std::vector<double> inverse_frequencies(int64_t rotary_dim) {
  std::vector<double> result(static_cast<size_t>(rotary_dim / 2));
  for (size_t i = 0; i < result.size(); ++i)
    result[i] = std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
  return result;
}

TEST(Rope, TableHoldsCosinesThenSines) {
  constexpr int64_t kRotaryDim = 10;
  std::vector<int32_t> positions = {0, 1, 7, 131071, 3};
  std::vector<double> frequencies = inverse_frequencies(kRotaryDim);
  for_each_isa([&](const Stream& stream) {
    Guarded<float> table(5 * kRotaryDim);
    Guarded<double> table_double(5 * kRotaryDim);
    std::vector<double> expected;
    for (int32_t position : positions) {
      for (double frequency : frequencies) expected.push_back(std::cos(position * frequency));
      for (double frequency : frequencies) expected.push_back(std::sin(position * frequency));
    }
    RopeTableArgs args{.positions = positions.data(),
                       .inverse_frequency = frequencies.data(),
                       .cos_sin = table.data(),
                       .rows = 5,
                       .rotary_dim = kRotaryDim};
    cpu().rope.table(args, stream);
    args.cos_sin = table_double.data();
    args.dtype = DType::f64;
    cpu().rope.table(args, stream);
    expect_close(table, expected, {1e-7, 1e-7});
    expect_close(table_double, expected, {1e-15, 1e-15});
  });
}

template <typename T>
void expect_rotation_equals_reference(
    int64_t head_dim, int64_t rotary_dim, bool interleaved, bool inverse, const Stream& stream) {
  constexpr int64_t kRows = 5, kHeads = 3;
  std::vector<int32_t> positions = {4, 0, 100, 2047, 1};
  std::vector<double> frequencies = inverse_frequencies(rotary_dim);
  Guarded<SumOf<T>> table(kRows * rotary_dim);
  cpu().rope.table({.positions = positions.data(),
                    .inverse_frequency = frequencies.data(),
                    .cos_sin = table.data(),
                    .rows = kRows,
                    .rotary_dim = rotary_dim,
                    .dtype = DTypeOf<SumOf<T>>::value},
                   stream);
  Guarded<T> x(kRows * kHeads * head_dim, 1);
  fill_random(x, 1);
  std::vector<double> expected = x.values();
  for (int64_t row = 0; row < kRows * kHeads; ++row) {
    for (int64_t i = 0; i < rotary_dim / 2; ++i) {
      double angle = positions[row / kHeads] * frequencies[i] * (inverse ? -1 : 1);
      int64_t first = row * head_dim + (interleaved ? 2 * i : i);
      int64_t second = row * head_dim + (interleaved ? 2 * i + 1 : i + rotary_dim / 2);
      double a = expected[first], b = expected[second];
      expected[first] = a * std::cos(angle) - b * std::sin(angle);
      expected[second] = b * std::cos(angle) + a * std::sin(angle);
    }
  }
  cpu().rope.rotate({.x = x.data(),
                     .cos_sin = table.data(),
                     .rows = kRows,
                     .num_heads = kHeads,
                     .head_dim = head_dim,
                     .rotary_dim = rotary_dim,
                     .interleaved = interleaved,
                     .inverse = inverse,
                     .dtype = DTypeOf<T>::value},
                    stream);
  expect_close(x, expected, tolerance<T>());
}

TYPED_TEST(RopeOfDType, RotatesPairsOfEveryHeadDim) {
  for_each_isa([&](const Stream& stream) {
    for (int64_t head_dim : {2, 4, 6, 10, 30, 32, 34, 64, 66, 80, 128, 256}) {
      for (bool interleaved : {false, true}) {
        for (bool inverse : {false, true}) {
          SCOPED_TRACE(testing::Message()
                       << head_dim << (interleaved ? " interleaved" : " halves") << (inverse ? " inverse" : ""));
          expect_rotation_equals_reference<TypeParam>(head_dim, head_dim, interleaved, inverse, stream);
          expect_rotation_equals_reference<TypeParam>(head_dim + 5, head_dim, interleaved, inverse, stream);
        }
      }
    }
  });
}

}  // namespace
}  // namespace weft
