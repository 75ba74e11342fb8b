#include "kernels/rope.h"
#include "kernels/attention.h"

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

/// Sequences of different lengths, past numbers of tokens of their own; the caches have more tokens than are written.
template <typename T>
struct CachedHeads {
  static constexpr int64_t kCapacity = 50;
  int64_t count_of_slots, num_heads, num_kv_heads, head_dim;
  int64_t rows = 0;
  Twin<T> q, k, v, keys, values;
  Twin<float> cos_sin;

  CachedHeads(int64_t slots, int64_t query_heads, int64_t key_heads, int64_t width)
      : count_of_slots(slots),
        num_heads(query_heads),
        num_kv_heads(key_heads),
        head_dim(width),
        rows(total_rows(slots)),
        q(Twin<T>::random(rows * num_heads * head_dim, 1)),
        k(Twin<T>::random(rows * num_kv_heads * head_dim, 2)),
        v(Twin<T>::random(rows * num_kv_heads * head_dim, 3)),
        keys(Twin<T>::constant(slots * num_kv_heads * kCapacity * head_dim, 0.5F)),
        values(Twin<T>::constant(slots * num_kv_heads * kCapacity * head_dim, 0.25F)),
        cos_sin(Twin<float>::random(rows * head_dim, 4)) {}

  static int64_t length(int64_t slot) { return slot == 0 ? 1 : slot % 41; }
  static int64_t total_rows(int64_t slots) {
    int64_t total = 0;
    for (int64_t slot = 0; slot < slots; ++slot) total += length(slot);
    return total;
  }

  void run(const Side& side, bool interleaved) {
    std::vector<RotatedCacheWrite> writes;
    int64_t row = 0, kv_width = num_kv_heads * head_dim;
    for (int64_t slot = 0; slot < count_of_slots; row += length(slot), ++slot) {
      writes.push_back({.q = q.on(side) + row * num_heads * head_dim,
                        .k = k.on(side) + row * kv_width,
                        .v = v.on(side) + row * kv_width,
                        .cos_sin = cos_sin.on(side) + row * head_dim,
                        .keys = keys.on(side) + slot * kv_width * kCapacity,
                        .values = values.on(side) + slot * kv_width * kCapacity,
                        .past = slot % 9,
                        .count = length(slot)});
    }
    const RopeKernels& rope = side.kernels().rope;
    if (rope.rotate_into_cache != nullptr) {
      return rope.rotate_into_cache({.sequences = writes,
                                     .num_heads = num_heads,
                                     .num_kv_heads = num_kv_heads,
                                     .head_dim = head_dim,
                                     .head_stride = kCapacity * head_dim,
                                     .interleaved = interleaved,
                                     .dtype = DTypeOf<T>::value},
                                    side.stream);
    }
    rotate_all(side, q.on(side), num_heads, interleaved);
    rotate_all(side, k.on(side), num_kv_heads, interleaved);
    for (const RotatedCacheWrite& one : writes) {
      write(side, one.k, one.keys, one);
      write(side, one.v, one.values, one);
    }
  }

 private:
  void rotate_all(const Side& side, T* x, int64_t heads, bool interleaved) {
    side.kernels().rope.rotate({.x = x,
                                .cos_sin = cos_sin.on(side),
                                .rows = rows,
                                .num_heads = heads,
                                .head_dim = head_dim,
                                .rotary_dim = head_dim,
                                .interleaved = interleaved,
                                .dtype = DTypeOf<T>::value},
                               side.stream);
  }
  void write(const Side& side, const void* source, void* cache, const RotatedCacheWrite& one) {
    CacheWriteArgs args{.source = source,
                        .cache = cache,
                        .past = one.past,
                        .count = one.count,
                        .num_kv_heads = num_kv_heads,
                        .head_dim = head_dim,
                        .head_stride = kCapacity * head_dim,
                        .dtype = DTypeOf<T>::value};
    side.kernels().attention.cache_write({&args, 1}, side.stream);
  }
};

TYPED_TEST(RopeOnCuda, rotates_into_a_cache) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  struct Shape {
    int64_t slots, num_heads, num_kv_heads, head_dim;
  };
  for (const Shape& shape :
       std::vector<Shape>{{1, 8, 4, 256}, {1, 32, 8, 128}, {3, 9, 3, 64}, {2, 2, 1, 6}, {110, 4, 2, 80}}) {
    for (bool interleaved : {false, true}) {
      SCOPED_TRACE(std::to_string(shape.slots) + " sequences, heads of " + std::to_string(shape.head_dim) +
                   (interleaved ? ", interleaved" : ""));
      CachedHeads<T> heads(shape.slots, shape.num_heads, shape.num_kv_heads, shape.head_dim);
      on_both([&](const Side& side) { heads.run(side, interleaved); });
      double rounding = std::is_same_v<T, float> ? 1e-6 : 0x1p-7;
      expect_same(heads.q, rounding, 3e-6, "q");
      expect_same(heads.keys, rounding, 3e-6, "keys");
      expect_same(heads.values, 0, 0, "values");
    }
  }
}

}  // namespace
}  // namespace weft
