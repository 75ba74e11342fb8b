// Every product against a reference in double, computed from the rounded inputs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "core/random.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/isa.h"

namespace weft {
namespace {

constexpr std::byte kGuard{0xA5};
constexpr size_t kGuardBytes = 64;

/// Memory that starts `offset` bytes past a 64-byte boundary, between guard bytes that must stay as they are.
class GuardedBuffer {
 public:
  GuardedBuffer(size_t bytes, size_t offset) : bytes_(bytes), storage_(bytes + 2 * kGuardBytes + 64 + offset, kGuard) {
    auto address = reinterpret_cast<uintptr_t>(storage_.data());
    begin_ = kGuardBytes + (64 - address % 64) % 64 + offset;
    std::memset(data(), 0, bytes);
  }
  std::byte* data() { return storage_.data() + begin_; }
  bool guards_intact() const {
    for (size_t i = 0; i < storage_.size(); ++i) {
      if ((i < begin_ || i >= begin_ + bytes_) && storage_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  size_t bytes_;
  size_t begin_ = 0;
  std::vector<std::byte> storage_;
};

/// A matrix of some dtype, with its rounded values at hand as doubles.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t columns, DType dtype, uint32_t site, size_t offset = 0)
      : rows_(rows),
        columns_(columns),
        dtype_(dtype),
        buffer_(static_cast<size_t>(rows * columns) * dtype_bytes(dtype), offset) {
    RandomKey key{.seed = 7, .step = 0, .site = site};
    std::vector<double> values(static_cast<size_t>(rows * columns));
    for (size_t i = 0; i < values.size(); ++i) values[i] = 2 * key.uniform(i) - 1;
    convert_dtype(values.data(), DType::f64, data(), dtype, rows * columns);
  }
  std::byte* data() { return buffer_.data(); }
  const std::byte* row(int64_t index) { return data() + static_cast<size_t>(index * columns_) * dtype_bytes(dtype_); }
  bool guards_intact() const { return buffer_.guards_intact(); }
  std::vector<double> values() {
    std::vector<double> values(static_cast<size_t>(rows_ * columns_));
    convert_dtype(data(), dtype_, values.data(), DType::f64, rows_ * columns_);
    return values;
  }
  std::vector<std::byte> bytes() {
    return {data(), data() + static_cast<size_t>(rows_ * columns_) * dtype_bytes(dtype_)};
  }

 private:
  int64_t rows_, columns_;
  DType dtype_;
  GuardedBuffer buffer_;
};

/// Half a unit in the last place, relative.
double rounding_error(DType dtype) {
  return dtype == DType::f64 ? 0x1p-53 : dtype == DType::f32 ? 0x1p-24 : 0x1p-8;
}

/// The rounding of `terms` products and sums of at most `magnitude` in all, then of the result to `dtype`.
double tolerance(double magnitude, double value, int64_t terms, DType accumulator, DType dtype) {
  return magnitude * static_cast<double>(terms + 2) * rounding_error(accumulator) +
         std::abs(value) * rounding_error(dtype) * 1.01;
}

DType accumulator_of(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

struct Reference {
  std::vector<double> values, magnitudes;
};

/// c[m, n] = Σ_k a[m·a_row + k·a_k] · b[n·b_row + k·b_k] + initial, all in double.
Reference multiply(int64_t m,
                   int64_t n,
                   int64_t k,
                   const double* a,
                   int64_t a_row,
                   int64_t a_k,
                   const double* b,
                   int64_t b_row,
                   int64_t b_k) {
  Reference result;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t p = 0; p < k; ++p) {
        double product = a[i * a_row + p * a_k] * b[j * b_row + p * b_k];
        sum += product;
        magnitude += std::abs(product);
      }
      result.values.push_back(sum);
      result.magnitudes.push_back(magnitude);
    }
  }
  return result;
}

void expect_close(std::vector<double> actual,
                  const Reference& expected,
                  int64_t terms,
                  DType dtype,
                  DType accumulator,
                  const std::string& what) {
  ASSERT_EQ(actual.size(), expected.values.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    double limit = tolerance(expected.magnitudes[i], expected.values[i], terms, accumulator, dtype);
    ASSERT_LE(std::abs(actual[i] - expected.values[i]), limit) << what << ", element " << i << " of " << actual.size();
  }
}

std::vector<std::byte> pack(Matrix& weight, int64_t n, int64_t k, const Stream& stream, DType dtype = DType::bf16) {
  LinearKernels kernels = cpu_linear_kernels();
  std::vector<std::byte> packed(kernels.packed_bytes(n, k, dtype, Layout::packed) + 64);
  void* aligned = packed.data() + (64 - reinterpret_cast<uintptr_t>(packed.data()) % 64) % 64;
  for (int64_t row = 0; row < n; row += kPackRowBlock) {
    kernels.pack({.rows = weight.row(row),
                  .packed = aligned,
                  .row_begin = row,
                  .num_rows = std::min(kPackRowBlock, n - row),
                  .out_features = n,
                  .in_features = k,
                  .dtype = dtype},
                 stream);
  }
  return packed;
}

const void* aligned_begin(const std::vector<std::byte>& packed) {
  return packed.data() + (64 - reinterpret_cast<uintptr_t>(packed.data()) % 64) % 64;
}

struct Case {
  int64_t m, n, k;
  bool has_bias = false;
  size_t offset = 0;  // of every pointer from a 64-byte boundary, in elements
  int num_threads = 1;
};

struct Kind {
  DType dtype, y_dtype;
  Layout layout;
};

const Kind kKinds[] = {{DType::f64, DType::f64, Layout::row_major},
                       {DType::f32, DType::f32, Layout::row_major},
                       {DType::f32, DType::f32, Layout::packed},
                       {DType::bf16, DType::bf16, Layout::row_major},
                       {DType::bf16, DType::f32, Layout::row_major},
                       {DType::bf16, DType::bf16, Layout::packed},
                       {DType::bf16, DType::f32, Layout::packed}};

std::string describe(const Kind& kind, const Case& shape) {
  return std::string(dtype_name(kind.dtype)) + " to " + std::string(dtype_name(kind.y_dtype)) +
         (kind.layout == Layout::packed ? " packed" : " row-major") + " M " + std::to_string(shape.m) + " N " +
         std::to_string(shape.n) + " K " + std::to_string(shape.k) + " threads " + std::to_string(shape.num_threads);
}

void check_forward(const Kind& kind, const Case& shape) {
  auto [m, n, k, has_bias, offset, num_threads] = shape;
  std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  Stream stream{.device = {}, .num_threads = num_threads, .workspace = allocator.get()};
  size_t offset_bytes = offset * dtype_bytes(kind.dtype);
  Matrix x(m, k, kind.dtype, 1, offset_bytes), weight(n, k, kind.dtype, 2, offset_bytes),
      bias(1, n, kind.dtype, 3, offset_bytes);
  Matrix y(m, n, kind.y_dtype, 4, offset * dtype_bytes(kind.y_dtype));
  std::vector<std::byte> packed;
  LinearWeight argument{.weight = weight.data(), .y = y.data(), .out_features = n, .layout = kind.layout};
  if (has_bias) argument.bias = bias.data();
  if (kind.layout == Layout::packed) {
    packed = pack(weight, n, k, stream, kind.dtype);
    argument.weight = aligned_begin(packed);
  }
  cpu_linear_kernels().forward({.x = x.data(),
                                .weights = {&argument, 1},
                                .rows = m,
                                .in_features = k,
                                .dtype = kind.dtype,
                                .y_dtype = kind.y_dtype},
                               stream);
  Reference expected = multiply(m, n, k, x.values().data(), k, 1, weight.values().data(), k, 1);
  std::vector<double> biases = bias.values();
  for (int64_t i = 0; has_bias && i < m * n; ++i) {
    expected.values[i] += biases[i % n];
    expected.magnitudes[i] += std::abs(biases[i % n]);
  }
  expect_close(y.values(), expected, k, kind.y_dtype, accumulator_of(kind.dtype), describe(kind, shape));
  EXPECT_TRUE(y.guards_intact()) << describe(kind, shape);
}

class LinearTest : public testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    set_cpu_isa(GetParam());
    if (cpu_isa() != GetParam()) GTEST_SKIP() << "this processor lacks the instruction set";
  }
  void TearDown() override { set_cpu_isa(CpuIsa::avx512_bf16); }
};

TEST_P(LinearTest, ForwardIsRightAtEveryEdgeOfNAndK) {
  for (const Kind& kind : kKinds) {
    for (int64_t n = 1; n <= 34; ++n) check_forward(kind, {.m = 3, .n = n, .k = 5 + n % 3, .has_bias = n % 2 == 0});
    for (int64_t k = 1; k <= 34; ++k) check_forward(kind, {.m = 2, .n = 33, .k = k, .has_bias = true});
    for (int64_t n : {47, 48, 63, 64, 65, 127, 128, 129}) check_forward(kind, {.m = 2, .n = n, .k = 64});
  }
}

TEST_P(LinearTest, ForwardIsRightAtEveryNumberOfRows) {
  for (const Kind& kind : kKinds) {
    for (int64_t m = 1; m <= 40; ++m) {
      check_forward(
          kind, {.m = m, .n = 35, .k = 19, .has_bias = true, .offset = 1, .num_threads = 1 + static_cast<int>(m % 3)});
      check_forward(kind, {.m = m, .n = 16, .k = 16, .num_threads = 2});
    }
  }
}

TEST_P(LinearTest, ForwardIsRightWhenManyTasksRunOnManyThreads) {
  for (const Kind& kind : kKinds) {
    check_forward(kind, {.m = 301, .n = 203, .k = 577, .has_bias = true, .num_threads = 3});
    check_forward(kind, {.m = 1, .n = 1000, .k = 700, .num_threads = 2});
    check_forward(kind, {.m = 8, .n = 205, .k = 2048, .has_bias = true, .offset = 3, .num_threads = 3});
  }
}

TEST_P(LinearTest, ForwardIsRightWhereRowsOfATileShareACacheSet) {
  for (const Kind& kind : kKinds) {
    check_forward(kind, {.m = 150, .n = 50, .k = 2048, .has_bias = true, .num_threads = 3});
    check_forward(kind, {.m = 17, .n = 35, .k = 4096, .num_threads = 2});
  }
}

TEST_P(LinearTest, WeightsThatShareAnInputGiveWhatEachGivesAlone) {
  constexpr int64_t kRows = 5, kDepth = 96;
  std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  Stream stream{.device = {}, .num_threads = 2, .workspace = allocator.get()};
  Matrix x(kRows, kDepth, DType::bf16, 1);
  std::vector<Matrix> weights, together, alone;
  std::vector<std::vector<std::byte>> packed;
  for (int64_t n : {70, 16, 33}) {
    weights.emplace_back(n, kDepth, DType::bf16, static_cast<uint32_t>(n));
    together.emplace_back(kRows, n, DType::bf16, 1);
    alone.emplace_back(kRows, n, DType::bf16, 1);
    packed.push_back(pack(weights.back(), n, kDepth, stream));
  }
  auto run = [&](std::span<const LinearWeight> span) {
    cpu_linear_kernels().forward({.x = x.data(),
                                  .weights = span,
                                  .rows = kRows,
                                  .in_features = kDepth,
                                  .dtype = DType::bf16,
                                  .y_dtype = DType::bf16},
                                 stream);
  };
  std::vector<LinearWeight> views;
  int64_t sizes[] = {70, 16, 33};
  for (size_t i = 0; i < 3; ++i) {
    bool is_packed = i != 1;
    LinearWeight view{.weight = is_packed ? aligned_begin(packed[i]) : weights[i].data(),
                      .y = alone[i].data(),
                      .out_features = sizes[i],
                      .layout = is_packed ? Layout::packed : Layout::row_major};
    run({&view, 1});
    view.y = together[i].data();
    views.push_back(view);
  }
  run(views);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(together[i].bytes(), alone[i].bytes()) << i;
}

TEST_P(LinearTest, ARowIgnoresWhatLiesInOtherRows) {
  for (const Kind& kind : kKinds) {
    constexpr int64_t kRows = 13, kOut = 37, kDepth = 21;
    Stream stream{.device = {}, .num_threads = 2};
    Matrix x(kRows, kDepth, kind.dtype, 1), weight(kOut, kDepth, kind.dtype, 2), y(kRows, kOut, kind.y_dtype, 3);
    std::vector<std::byte> packed;
    LinearWeight view{.weight = weight.data(), .y = y.data(), .out_features = kOut, .layout = kind.layout};
    if (kind.layout == Layout::packed) {
      packed = pack(weight, kOut, kDepth, stream, kind.dtype);
      view.weight = aligned_begin(packed);
    }
    LinearForwardArgs args{.x = x.data(),
                           .weights = {&view, 1},
                           .rows = kRows,
                           .in_features = kDepth,
                           .dtype = kind.dtype,
                           .y_dtype = kind.y_dtype};
    cpu_linear_kernels().forward(args, stream);
    std::vector<double> before = y.values();
    std::vector<double> poison(kDepth, std::numeric_limits<double>::quiet_NaN());
    for (int64_t row : {0, 6, 8}) {
      convert_dtype(poison.data(), DType::f64, const_cast<std::byte*>(x.row(row)), kind.dtype, kDepth);
    }
    cpu_linear_kernels().forward(args, stream);
    std::vector<double> after = y.values();
    for (int64_t i = 0; i < kRows * kOut; ++i) {
      bool poisoned = i / kOut == 0 || i / kOut == 6 || i / kOut == 8;
      if (poisoned) {
        EXPECT_TRUE(std::isnan(after[i])) << i;
      } else {
        EXPECT_EQ(after[i], before[i]) << i;
      }
    }
  }
}

TEST_P(LinearTest, RoundsSpecialValuesAsBfloat16Does) {
  // x · 1 with exact sums: y is the rounding of the float on the left of the pair.
  const float values[] = {1.0f, 0x1.01p0f, 0x1.03p0f, -0x1.01p0f, 3e38f, std::numeric_limits<float>::infinity()};
  for (float value : values) {
    bfloat16 high(value);
    bfloat16 low(std::isinf(value) ? 0.0f : value - static_cast<float>(high));
    bfloat16 x[2] = {high, low}, one[2] = {bfloat16(1.0f), bfloat16(1.0f)}, y[1];
    LinearWeight view{.weight = one, .y = y, .out_features = 1};
    Stream stream{.device = {}, .num_threads = 1};
    cpu_linear_kernels().forward(
        {.x = x, .weights = {&view, 1}, .rows = 1, .in_features = 2, .dtype = DType::bf16, .y_dtype = DType::bf16},
        stream);
    EXPECT_EQ(y[0].bits, bfloat16(static_cast<float>(high) + static_cast<float>(low)).bits) << value;
  }
}

void check_unpack(DType dtype, int64_t n, int64_t k) {
  Stream stream{.device = {}, .num_threads = 3};
  Matrix weight(n, k, dtype, 5, dtype_bytes(dtype));
  std::vector<std::byte> packed = pack(weight, n, k, stream, dtype);
  std::vector<int32_t> indices;
  for (int64_t i = 0; i < n; ++i) indices.push_back(static_cast<int32_t>((i * 7 + 3) % n));
  indices.push_back(-1);
  Matrix rows(n + 1, k, dtype, 6, dtype_bytes(dtype));
  cpu_linear_kernels().unpack_rows({.packed = aligned_begin(packed),
                                    .indices = indices.data(),
                                    .rows = rows.data(),
                                    .num_indices = n + 1,
                                    .out_features = n,
                                    .in_features = k,
                                    .dtype = dtype},
                                   stream);
  size_t row_bytes = static_cast<size_t>(k) * dtype_bytes(dtype);
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_EQ(std::memcmp(rows.row(i), weight.row(indices[i]), row_bytes), 0) << n << " " << k << " " << i;
  }
  for (size_t i = 0; i < row_bytes; ++i) EXPECT_EQ(rows.row(n)[i], std::byte{0});
  EXPECT_TRUE(rows.guards_intact());
}

TEST_P(LinearTest, UnpackGivesBackWhatWasPacked) {
  for (auto [n, k] :
       {std::pair<int64_t, int64_t>{1, 1}, {16, 2}, {17, 3}, {63, 31}, {64, 32}, {65, 33}, {200, 77}, {130, 576}}) {
    for (DType dtype : {DType::f32, DType::bf16}) check_unpack(dtype, n, k);
  }
}

TEST_P(LinearTest, AnActivationIsWhatItsKernelMakesOfTheProduct) {
  constexpr int64_t kRows = 70, kOut = 205, kDepth = 33;
  std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  Stream stream{.device = {}, .num_threads = 2, .workspace = allocator.get()};
  for (const Kind& kind : kKinds) {
    Matrix x(kRows, kDepth, kind.dtype, 1), weight(kOut, kDepth, kind.dtype, 2), bias(1, kOut, kind.dtype, 3);
    Matrix fused(kRows, kOut, kind.y_dtype, 4), apart(kRows, kOut, kind.y_dtype, 5);
    bool is_packed = kind.layout == Layout::packed;
    std::vector<std::byte> packed =
        is_packed ? pack(weight, kOut, kDepth, stream, kind.dtype) : std::vector<std::byte>{};
    LinearWeight view{.weight = is_packed ? aligned_begin(packed) : weight.data(),
                      .bias = bias.data(),
                      .y = fused.data(),
                      .out_features = kOut,
                      .layout = kind.layout};
    LinearForwardArgs args{.x = x.data(),
                           .weights = {&view, 1},
                           .rows = kRows,
                           .in_features = kDepth,
                           .dtype = kind.dtype,
                           .y_dtype = kind.y_dtype,
                           .activation = Activation::relu};
    cpu_linear_kernels().forward(args, stream);
    view.y = apart.data();
    args.activation = Activation::identity;
    cpu_linear_kernels().forward(args, stream);
    std::vector<double> products = apart.values();
    for (double& value : products) value = std::max(value, 0.0);
    EXPECT_EQ(fused.values(), products) << describe(kind, {.m = kRows, .n = kOut, .k = kDepth});
  }
}

void check_backward_input(DType dtype, const Case& shape, bool accumulate) {
  auto [m, n, k, has_bias, offset, num_threads] = shape;
  Stream stream{.device = {}, .num_threads = num_threads};
  Matrix dy(m, n, dtype, 1), weight(n, k, dtype, 2), dx(m, k, dtype, 3, offset * dtype_bytes(dtype));
  Reference expected = multiply(m, k, n, dy.values().data(), n, 1, weight.values().data(), 1, k);
  std::vector<double> before = dx.values();
  for (int64_t i = 0; accumulate && i < m * k; ++i) {
    expected.values[i] += before[i];
    expected.magnitudes[i] += std::abs(before[i]);
  }
  cpu_linear_kernels().backward_input({.dy = dy.data(),
                                       .weight = weight.data(),
                                       .dx = dx.data(),
                                       .rows = m,
                                       .out_features = n,
                                       .in_features = k,
                                       .dtype = dtype,
                                       .accumulate = accumulate},
                                      stream);
  expect_close(
      dx.values(), expected, n, dtype, accumulator_of(dtype), describe({dtype, dtype, Layout::row_major}, shape));
  EXPECT_TRUE(dx.guards_intact());
}

TEST_P(LinearTest, BackwardInputIsRight) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (bool accumulate : {false, true}) {
      for (int64_t size : {1, 2, 3, 15, 16, 17, 33}) {
        check_backward_input(dtype, {.m = size, .n = 5, .k = 7, .offset = 1}, accumulate);
        check_backward_input(dtype, {.m = 4, .n = size, .k = 9}, accumulate);
        check_backward_input(dtype, {.m = 3, .n = 6, .k = size, .num_threads = 2}, accumulate);
      }
      check_backward_input(dtype, {.m = 65, .n = 130, .k = 201, .num_threads = 3}, accumulate);
    }
  }
}

void check_backward_weight(DType dtype, const Case& shape, bool accumulate) {
  auto [m, n, k, has_bias, offset, num_threads] = shape;
  Stream stream{.device = {}, .num_threads = num_threads};
  DType grad_dtype = accumulator_of(dtype);
  Matrix dy(m, n, dtype, 1), x(m, k, dtype, 2);
  Matrix dw(n, k, grad_dtype, 3, offset * dtype_bytes(grad_dtype)),
      dbias(1, n, grad_dtype, 4, offset * dtype_bytes(grad_dtype));
  std::vector<double> ones(static_cast<size_t>(m), 1.0);
  Reference expected = multiply(n, k, m, dy.values().data(), 1, n, x.values().data(), 1, k);
  Reference expected_bias = multiply(1, n, m, ones.data(), m, 1, dy.values().data(), 1, n);
  for (auto [reference, matrix] : {std::pair{&expected, &dw}, {&expected_bias, &dbias}}) {
    std::vector<double> before = matrix->values();
    for (size_t i = 0; accumulate && i < before.size(); ++i) {
      reference->values[i] += before[i];
      reference->magnitudes[i] += std::abs(before[i]);
    }
  }
  cpu_linear_kernels().backward_weight({.dy = dy.data(),
                                        .x = x.data(),
                                        .dw = dw.data(),
                                        .dbias = dbias.data(),
                                        .rows = m,
                                        .out_features = n,
                                        .in_features = k,
                                        .dtype = dtype,
                                        .accumulate_weight = accumulate,
                                        .accumulate_bias = accumulate},
                                       stream);
  expect_close(
      dw.values(), expected, m, grad_dtype, grad_dtype, describe({dtype, grad_dtype, Layout::row_major}, shape));
  expect_close(dbias.values(),
               expected_bias,
               m,
               grad_dtype,
               grad_dtype,
               "bias of " + describe({dtype, grad_dtype, Layout::row_major}, shape));
  EXPECT_TRUE(dw.guards_intact());
  EXPECT_TRUE(dbias.guards_intact());
}

TEST_P(LinearTest, BackwardWeightIsRight) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    for (bool accumulate : {false, true}) {
      for (int64_t size : {1, 2, 3, 15, 16, 17, 33}) {
        check_backward_weight(dtype, {.m = size, .n = 5, .k = 7, .offset = 1}, accumulate);
        check_backward_weight(dtype, {.m = 4, .n = size, .k = 9}, accumulate);
        check_backward_weight(dtype, {.m = 3, .n = 6, .k = size, .num_threads = 2}, accumulate);
      }
      check_backward_weight(dtype, {.m = 130, .n = 65, .k = 201, .num_threads = 3}, accumulate);
    }
  }
}

TEST_P(LinearTest, LongSumsInBlocksAreRight) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (bool accumulate : {false, true}) {
      check_backward_input(dtype, {.m = 19, .n = 4103, .k = 33, .num_threads = 2}, accumulate);
      check_backward_input(dtype, {.m = 150, .n = 2048, .k = 33, .num_threads = 2}, accumulate);
      check_backward_weight(dtype, {.m = 4103, .n = 19, .k = 33, .num_threads = 2}, accumulate);
      check_backward_weight(dtype, {.m = 21, .n = 1037, .k = 17, .num_threads = 2}, accumulate);
    }
  }
}

TEST_P(LinearTest, TheSameCallGivesTheSameBits) {
  for (const Kind& kind : kKinds) {
    constexpr int64_t kRows = 20, kOut = 300, kDepth = 200;
    Matrix x(kRows, kDepth, kind.dtype, 1), weight(kOut, kDepth, kind.dtype, 2), y(kRows, kOut, kind.y_dtype, 3);
    std::vector<std::byte> packed =
        kind.layout == Layout::packed ? pack(weight, kOut, kDepth, {}, kind.dtype) : std::vector<std::byte>{};
    std::vector<std::byte> first;
    for (int threads : {1, 2, 3, 3, 2}) {
      LinearWeight view{.weight = kind.layout == Layout::packed ? aligned_begin(packed) : weight.data(),
                        .y = y.data(),
                        .out_features = kOut,
                        .layout = kind.layout};
      // oneDNN may split K differently for another number of threads.
      Stream stream{.device = {}, .num_threads = kind.dtype == DType::f32 ? 2 : threads};
      cpu_linear_kernels().forward({.x = x.data(),
                                    .weights = {&view, 1},
                                    .rows = kRows,
                                    .in_features = kDepth,
                                    .dtype = kind.dtype,
                                    .y_dtype = kind.y_dtype},
                                   stream);
      if (first.empty()) first = y.bytes();
      EXPECT_EQ(y.bytes(), first);
    }
  }
}

TEST(MachinePeaks, ArePlausible) {
  Stream stream{.device = {}, .num_threads = 2};
  for (DType dtype : {DType::f32, DType::bf16}) {
    MachinePeaks peaks = measure_machine_peaks(dtype, stream);
    EXPECT_GT(peaks.memory_bytes_per_second, 1e8);
    EXPECT_LT(peaks.memory_bytes_per_second, 1e13);
    EXPECT_GT(peaks.matmul_flops_per_second, 1e8);
    EXPECT_LT(peaks.matmul_flops_per_second, 1e15);
  }
}

std::string isa_name(const testing::TestParamInfo<CpuIsa>& parameter) {
  constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16"};
  return kNames[static_cast<int>(parameter.param)];
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet,
                         LinearTest,
                         testing::Values(CpuIsa::portable, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16),
                         isa_name);

}  // namespace
}  // namespace weft
