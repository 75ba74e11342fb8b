#include "kernels/embedding.h"

#include "cuda/cuda_test.h"

namespace weft {
namespace {

template <typename T>
class CudaEmbedding : public ::testing::Test {};
TYPED_TEST_SUITE(CudaEmbedding, CudaDTypes);

/// Widths that fill packs and that do not.
constexpr int64_t kWidths[] = {1, 8, 36, 129, 1024, 2056};

/// Numbers in [low, high].
std::vector<int32_t> random_ids(int64_t count, int32_t low, int32_t high, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int32_t> pick(low, high);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = pick(generator);
  return ids;
}

TYPED_TEST(CudaEmbedding, ForwardGivesZerosForRowsOfOtherRanks) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  constexpr int64_t kRows = 50, kRowBegin = 20;
  for (int64_t width : kWidths) {
    for (int64_t num_ids : {1, 5, 256, 257, 1000}) {  // with the launch, and uploaded
      SCOPED_TRACE(::testing::Message() << num_ids << " ids, width " << width);
      auto table = Twin<T>::random(kRows * width, 1);
      std::vector<int32_t> ids = random_ids(num_ids, -1, 90, 2);
      for (float scale : {1.0f, 22.6f}) {
        Twin<T> y(num_ids * width);
        on_both([&](const Side& side) {
          side.kernels().embedding.forward({.table = table.on(side),
                                            .ids = ids.data(),
                                            .y = y.on(side),
                                            .num_ids = num_ids,
                                            .width = width,
                                            .row_begin = kRowBegin,
                                            .rows = kRows,
                                            .scale = scale,
                                            .dtype = DTypeOf<T>::value},
                                           side.stream);
        });
        expect_same(y, 0, 0);
      }
    }
  }
}

/// Which rows are asked for: many once, some often, one nearly always.
struct IdsCase {
  int64_t num_ids;
  int32_t low, high;
  int32_t often = -1;  // every second id, if not negative
};
constexpr IdsCase kIdsCases[] = {
    {1, 30, 30}, {40, -1, 2000}, {700, 15, 75}, {3000, 20, 23}, {1500, 42, 42}, {20, 0, 5}, {1100, 20, 69, 42}};

TYPED_TEST(CudaEmbedding, BackwardAddsUpRepeatedRows) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  constexpr int64_t kRows = 50, kRowBegin = 20;
  for (int64_t width : kWidths) {
    for (const IdsCase& part : kIdsCases) {
      SCOPED_TRACE(::testing::Message() << part.num_ids << " ids from " << part.low << ", width " << width);
      std::vector<int32_t> ids = random_ids(part.num_ids, part.low, part.high, 3);
      for (size_t i = 0; part.often >= 0 && i < ids.size(); i += 2) ids[i] = part.often;
      auto dy = Twin<T>::random(part.num_ids * width, 4);
      auto dtable = Twin<float>::random(kRows * width, 5);
      on_both([&](const Side& side) {
        side.kernels().embedding.backward({.ids = ids.data(),
                                           .dy = dy.on(side),
                                           .dtable = dtable.on(side),
                                           .num_ids = part.num_ids,
                                           .width = width,
                                           .row_begin = kRowBegin,
                                           .rows = kRows,
                                           .scale = 1.7f,
                                           .dtype = DTypeOf<T>::value},
                                          side.stream);
      });
      // Up to 1500 normal numbers a sum.
      expect_same(dtable, 1e-5, 5e-4);
      expect_near_in_norm(dtable, 5e-6);
    }
  }
}

TYPED_TEST(CudaEmbedding, BackwardRepeatsToTheBit) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  std::vector<int32_t> ids = random_ids(4000, 0, 6, 6);
  auto dy = Twin<T>::random(4000 * 100, 7);
  std::vector<float> first;
  for (int repeat = 0; repeat < 3; ++repeat) {
    auto dtable = Twin<float>::constant(10 * 100, 0);
    on_both([&](const Side& side) {
      side.kernels().embedding.backward({.ids = ids.data(),
                                         .dy = dy.on(side),
                                         .dtable = dtable.on(side),
                                         .num_ids = 4000,
                                         .width = 100,
                                         .rows = 10,
                                         .dtype = DTypeOf<T>::value},
                                        side.stream);
    });
    if (repeat == 0) first = dtable.device_values();
    EXPECT_EQ(dtable.device_values(), first);
  }
}

TYPED_TEST(CudaEmbedding, GatherRows) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (int64_t width : kWidths) {
    for (int64_t num_indices : {1, 255, 900}) {
      auto x = Twin<T>::random(50 * width, 1);
      std::vector<int32_t> indices = random_ids(num_indices, 0, 49, 8);
      Twin<T> y(num_indices * width);
      on_both([&](const Side& side) {
        side.kernels().embedding.gather_rows({.x = x.on(side),
                                              .indices = indices.data(),
                                              .y = y.on(side),
                                              .num_indices = num_indices,
                                              .width = width,
                                              .dtype = DTypeOf<T>::value},
                                             side.stream);
      });
      expect_same(y, 0, 0);
    }
  }
}

TYPED_TEST(CudaEmbedding, ScatterAddRoundsAtEachStepInOrder) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (int64_t width : kWidths) {
    for (int64_t num_indices : {1, 60, 900}) {
      SCOPED_TRACE(::testing::Message() << num_indices << " indices, width " << width);
      auto x = Twin<T>::random(50 * width, 1);
      auto y = Twin<T>::random(num_indices * width, 2);
      std::vector<int32_t> indices = random_ids(num_indices, 3, 45, 9);
      on_both([&](const Side& side) {
        side.kernels().embedding.gather_rows({.x = x.on(side),
                                              .indices = indices.data(),
                                              .y = y.on(side),
                                              .num_indices = num_indices,
                                              .width = width,
                                              .scatter_add = true,
                                              .dtype = DTypeOf<T>::value},
                                             side.stream);
      });
      expect_same(x, 0, 0);
    }
  }
}

TEST(CudaEmbeddingEdges, NothingIsDoneToNoRows) {
  WEFT_NEEDS_GPU();
  on_both([](const Side& side) {
    side.kernels().embedding.forward({.width = 5, .rows = 5}, side.stream);
    side.kernels().embedding.backward({.width = 5, .rows = 5}, side.stream);
    side.kernels().embedding.gather_rows({.width = 5}, side.stream);
    side.kernels().embedding.gather_rows({.width = 5, .scatter_add = true}, side.stream);
  });
}

}  // namespace
}  // namespace weft
