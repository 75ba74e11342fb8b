#include "kernels/rope.h"

#include "cuda_test.h"

namespace weft {
namespace {

template <typename T>
class RopeOnCuda : public ::testing::Test {};
TYPED_TEST_SUITE(RopeOnCuda, CudaDTypes);

void check_table(int64_t rows, int64_t rotary_dim, int32_t largest_position) {
  std::mt19937 generator(7);
  std::uniform_int_distribution<int32_t> position(0, largest_position);
  std::vector<int32_t> positions;
  std::vector<double> frequencies;
  for (int64_t row = 0; row < rows; ++row) positions.push_back(position(generator));
  for (int64_t i = 0; i < rotary_dim / 2; ++i) {
    frequencies.push_back(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim)));
  }
  Twin<float> cos_sin(rows * rotary_dim);
  on_both([&](const Side& side) {
    side.kernels().rope.table({.positions = positions.data(),
                               .inverse_frequency = frequencies.data(),
                               .cos_sin = cos_sin.on(side),
                               .rows = rows,
                               .rotary_dim = rotary_dim,
                               .dtype = DType::f32},
                              side.stream);
  });
  expect_same(cos_sin, 1.3e-7, 1e-12, "cos_sin");
}

TEST(RopeTableOnCuda, equals_the_cpus_to_the_last_bit_or_so) {
  WEFT_NEEDS_GPU();
  check_table(1, 2, 5);
  check_table(8, 128, 4000);
  check_table(256, 512, 100000);
  check_table(257, 64, 2000000);
  check_table(3000, 128, 2000000000);
  check_table(5, 600, 100);
  check_table(0, 64, 1);
}

struct Case {
  int64_t rows, num_heads, head_dim, rotary_dim;
  int64_t offset = 0;  // elements that x is shifted by
};

TYPED_TEST(RopeOnCuda, rotates_as_the_cpu_does) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  const std::vector<Case> cases = {{1, 1, 2, 2},
                                   {3, 2, 10, 6},
                                   {5, 3, 64, 64, 1},
                                   {7, 12, 64, 64},
                                   {1, 32, 128, 128},
                                   {600, 32, 128, 128},
                                   {700, 4, 80, 32},
                                   {2000, 1, 16, 16},
                                   {333, 5, 24, 12},
                                   {9, 7, 100, 100},
                                   {65, 3, 7, 4},
                                   {0, 3, 8, 8}};
  for (const Case& test : cases) {
    for (int options = 0; options < 4; ++options) {
      SCOPED_TRACE(std::to_string(test.rows) + " rows, " + std::to_string(test.num_heads) + " heads of " +
                   std::to_string(test.head_dim) + ", rotary " + std::to_string(test.rotary_dim) + ", options " +
                   std::to_string(options));
      Twin<T> x = Twin<T>::random(test.rows * test.num_heads * test.head_dim + test.offset, 1);
      Twin<float> cos_sin = Twin<float>::random(test.rows * test.rotary_dim, 2);
      on_both([&](const Side& side) {
        side.kernels().rope.rotate({.x = x.on(side) + test.offset,
                                    .cos_sin = cos_sin.on(side),
                                    .rows = test.rows,
                                    .num_heads = test.num_heads,
                                    .head_dim = test.head_dim,
                                    .rotary_dim = test.rotary_dim,
                                    .interleaved = options % 2 == 1,
                                    .inverse = options / 2 == 1,
                                    .dtype = DTypeOf<T>::value},
                                   side.stream);
      });
      expect_same(x, std::is_same_v<T, float> ? 1e-6 : 0x1p-7, 3e-6, "x");
    }
  }
}

}  // namespace
}  // namespace weft
