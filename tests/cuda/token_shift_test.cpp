#include "kernels/token_shift.h"

#include "cuda_test.h"

namespace weft {
namespace {

template <typename T>
class TokenShiftOnCuda : public ::testing::Test {};
TYPED_TEST_SUITE(TokenShiftOnCuda, CudaDTypes);

/// Lengths of sequences; every fourth has nothing before it, every third keeps nothing, every second keeps its last row
/// where its row before was.
template <typename T>
void check(const std::vector<int64_t>& lengths, int64_t width, int64_t offset) {
  SCOPED_TRACE(std::to_string(lengths.size()) + " sequences of width " + std::to_string(width));
  auto num_sequences = static_cast<int64_t>(lengths.size());
  int64_t rows = 0;
  for (int64_t length : lengths) rows += length;
  Twin<T> x = Twin<T>::random(rows * width + offset, 1), before = Twin<T>::random(num_sequences * width + offset, 2);
  Twin<T> last = Twin<T>::random(num_sequences * width + offset, 3);
  Twin<T> y(rows * width + offset), dx(rows * width + offset), dbefore(num_sequences * width + offset);
  Twin<T> dx_alone(rows * width + offset);
  on_both([&](const Side& side) {
    std::vector<TokenShiftSequence> sequences;
    int64_t begin = 0;
    for (int64_t i = 0; i < num_sequences; ++i) {
      T* state = before.on(side) + offset + i * width;
      T* kept = i % 2 == 0 ? state : last.on(side) + offset + i * width;
      int64_t length = lengths[static_cast<size_t>(i)];
      sequences.push_back({.begin = begin,
                           .length = length,
                           .before = i % 4 == 3 ? nullptr : state,
                           .last = i % 3 == 2 ? nullptr : kept});
      begin += length;
    }
    side.kernels().token_shift.forward({.x = x.on(side) + offset,
                                        .y = y.on(side) + offset,
                                        .sequences = sequences,
                                        .width = width,
                                        .dtype = DTypeOf<T>::value},
                                       side.stream);
    TokenShiftBackwardArgs args{.dy = x.on(side) + offset,
                                .dx = dx.on(side) + offset,
                                .dbefore = dbefore.on(side) + offset,
                                .sequences = sequences,
                                .width = width,
                                .dtype = DTypeOf<T>::value};
    side.kernels().token_shift.backward(args, side.stream);
    args.dx = dx_alone.on(side) + offset;
    args.dbefore = nullptr;
    side.kernels().token_shift.backward(args, side.stream);
  });
  expect_same(y, 0, 0, "y");
  expect_same(before, 0, 0, "before");
  expect_same(last, 0, 0, "last");
  expect_same(dx, 0, 0, "dx");
  expect_same(dx_alone, 0, 0, "dx alone");
  expect_same(dbefore, 0, 0, "dbefore");
}

TYPED_TEST(TokenShiftOnCuda, moves_rows_as_the_cpu_does) {
  WEFT_NEEDS_GPU();
  std::vector<int64_t> many;
  for (int64_t i = 0; i < 150; ++i) many.push_back(i % 5);
  for (const std::vector<int64_t>& lengths :
       {std::vector<int64_t>{1}, {5, 1, 0, 3, 2, 1, 1, 40}, {0, 0}, {}, {2000, 700}, many}) {
    check<TypeParam>(lengths, 256, 0);
    check<TypeParam>(lengths, 33, 0);
    check<TypeParam>(lengths, 64, 1);
  }
}

}  // namespace
}  // namespace weft
