#include "kernels/norm.h"

#include <string>

#include "cuda_test.h"

namespace weft {
namespace {

template <typename T>
class NormOnCuda : public ::testing::Test {};
TYPED_TEST_SUITE(NormOnCuda, CudaDTypes);

/// One rounding to the dtype.
template <typename T>
double rounding() {
  return std::is_same_v<T, float> ? 2e-6 : 0x1p-7;
}

struct Size {
  int64_t rows, width;
  int64_t offset = 0;  // elements that every array is shifted by: not aligned any more
};

/// One warp and many rows, several rows a warp, one and several packs a thread, rows too long for registers; odd ones.
const std::vector<Size> kSizes = {{1, 1},
                                  {3, 7},
                                  {5, 64, 1},
                                  {1000, 64},
                                  {4001, 128},
                                  {2000, 24},
                                  {2, 768},
                                  {700, 768},
                                  {700, 1000, 3},
                                  {333, 1023},
                                  {1, 4096},
                                  {300, 4096},
                                  {8, 8192},
                                  {280, 8192},
                                  {5, 5003},
                                  {3, 20000},
                                  {290, 2051},
                                  {2, 33001}};

std::string describe(const Size& size) {
  return std::to_string(size.rows) + " rows of " + std::to_string(size.width) + " shifted by " +
         std::to_string(size.offset);
}

TYPED_TEST(NormOnCuda, rms_norm_forward) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (const Size& size : kSizes) {
    // Numbers take their time to make.
    for (int options = 0; options<4; options += size.rows * size.width> 300000 ? 3 : 1) {
      bool has_residual = options % 2 == 1, is_gemma = options / 2 == 1;
      SCOPED_TRACE(describe(size) + ", options " + std::to_string(options));
      int64_t count = size.rows * size.width + size.offset, at = size.offset;
      Twin<T> x = Twin<T>::random(count, 1), residual = Twin<T>::random(count, 2);
      Twin<T> weight = Twin<T>::random(size.width + at, 3, 0.3F, 1);
      Twin<T> sum(count), y(count);
      Twin<float> inv_rms(size.rows);
      on_both([&](const Side& side) {
        side.kernels().rms_norm.forward({.x = x.on(side) + at,
                                         .residual = has_residual ? residual.on(side) + at : nullptr,
                                         .weight = weight.on(side) + at,
                                         .sum = has_residual ? sum.on(side) + at : nullptr,
                                         .y = y.on(side) + at,
                                         .inv_rms = is_gemma ? nullptr : inv_rms.on(side),
                                         .rows = size.rows,
                                         .width = size.width,
                                         .eps = 1e-5,
                                         .weight_offset = is_gemma ? 1.0F : 0.0F,
                                         .round_before_weight = !is_gemma,
                                         .dtype = DTypeOf<T>::value},
                                        side.stream);
      });
      expect_same(sum, 0, 0, "sum");
      expect_same(inv_rms, 4e-6, 0, "inv_rms");
      expect_same(y, 2 * rounding<T>(), 1e-6, "y");
    }
  }
}

TYPED_TEST(NormOnCuda, two_norms_and_the_addition_between_them) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for (const Size& size : kSizes) {
    SCOPED_TRACE(describe(size));
    int64_t count = size.rows * size.width + size.offset, at = size.offset;
    bool is_gemma = size.rows % 2 == 0;
    Twin<T> x = Twin<T>::random(count, 1), residual = Twin<T>::random(count, 2);
    Twin<T> inner = Twin<T>::random(size.width + at, 3, 0.3F, 1), weight = Twin<T>::random(size.width + at, 4, 0.3F, 1);
    Twin<T> sum(count), y(count);
    on_both([&](const Side& side) {
      RmsNormForwardArgs args{.x = x.on(side) + at,
                              .residual = residual.on(side) + at,
                              .weight = weight.on(side) + at,
                              .sum = sum.on(side) + at,
                              .y = y.on(side) + at,
                              .rows = size.rows,
                              .width = size.width,
                              .eps = 1e-5,
                              .weight_offset = is_gemma ? 1.0F : 0.0F,
                              .round_before_weight = !is_gemma,
                              .dtype = DTypeOf<T>::value};
      const RmsNormKernels& kernels = side.kernels().rms_norm;
      if (kernels.forward_twice != nullptr) {
        return kernels.forward_twice({.outer = args, .inner_weight = inner.on(side) + at}, side.stream);
      }
      RmsNormForwardArgs first = args;
      first.residual = nullptr;
      first.sum = nullptr;
      first.weight = inner.on(side) + at;
      kernels.forward(first, side.stream);
      args.x = y.on(side) + at;
      kernels.forward(args, side.stream);
    });
    // What is rounded differently in between is a rounding of the larger of the sum's terms.
    expect_same(sum, 2 * rounding<T>(), 4 * rounding<T>(), "sum");
    expect_same(y, 4 * rounding<T>(), 4 * rounding<T>(), "y");
  }
}

/// What a backward test asks for.
struct RmsOptions {
  bool has_dy = true, has_dsum = false, is_alias = false, accumulate_input = false;
  bool has_dinput = true, has_dweight = true, accumulate_weight = false;
};

const std::vector<RmsOptions> kRmsOptions = {
    {},
    {.has_dsum = true, .accumulate_weight = true},
    {.has_dsum = true, .is_alias = true},
    {.accumulate_input = true, .has_dweight = false},
    {.has_dsum = true, .accumulate_input = true, .accumulate_weight = true},
    {.has_dinput = false},
    {.has_dy = false, .has_dsum = true},
    {.has_dy = false, .has_dsum = true, .accumulate_input = true, .accumulate_weight = true},
    {.has_dy = false, .accumulate_input = true},
    {.has_dy = false},
};

template <typename T>
void check_rms_backward(const Size& size, const RmsOptions& options) {
  int64_t count = size.rows * size.width + size.offset, at = size.offset;
  Twin<T> input = Twin<T>::random(count, 1), dy = Twin<T>::random(count, 2), dsum = Twin<T>::random(count, 3);
  Twin<T> weight = Twin<T>::random(size.width + at, 4, 0.3F, 0.2F), dinput = Twin<T>::random(count, 5);
  Twin<float> dweight = Twin<float>::random(size.width, 6);
  on_both([&](const Side& side) {
    T* gradient = dinput.on(side) + at;
    const T* more = options.is_alias ? gradient : dsum.on(side) + at;
    side.kernels().rms_norm.backward({.input = input.on(side) + at,
                                      .weight = weight.on(side) + at,
                                      .dy = options.has_dy ? dy.on(side) + at : nullptr,
                                      .dsum = options.has_dsum ? more : nullptr,
                                      .dinput = options.has_dinput ? gradient : nullptr,
                                      .dweight = options.has_dweight ? dweight.on(side) : nullptr,
                                      .rows = size.rows,
                                      .width = size.width,
                                      .eps = 1e-5,
                                      .weight_offset = 1,
                                      .accumulate_input = options.accumulate_input,
                                      .accumulate_weight = options.accumulate_weight,
                                      .dtype = DTypeOf<T>::value},
                                     side.stream);
  });
  expect_same(dinput, rounding<T>(), 1e-5, "dinput");
  expect_near_in_norm(dweight, 1e-5, "dweight");
}

TYPED_TEST(NormOnCuda, rms_norm_backward_at_all_sizes) {
  WEFT_NEEDS_GPU();
  for (const Size& size : kSizes) {
    SCOPED_TRACE(describe(size));
    check_rms_backward<TypeParam>(size, {.has_dsum = true});
  }
}

TYPED_TEST(NormOnCuda, rms_norm_backward_with_all_options) {
  WEFT_NEEDS_GPU();
  for (const Size& size : {Size{301, 96}, Size{37, 333}, Size{150, 2048}, Size{3, 20000}}) {
    for (size_t i = 0; i < kRmsOptions.size(); ++i) {
      SCOPED_TRACE(describe(size) + ", options " + std::to_string(i));
      check_rms_backward<TypeParam>(size, kRmsOptions[i]);
    }
  }
}

TYPED_TEST(NormOnCuda, no_rows_leave_gradients_of_weights_zero_or_as_they_were) {
  WEFT_NEEDS_GPU();
  check_rms_backward<TypeParam>({0, 40}, {});
  check_rms_backward<TypeParam>({0, 40}, {.accumulate_weight = true});
}

struct LayerOptions {
  bool has_residual = false, keeps_sum = false, has_weight = true, has_bias = true, has_groups = false;
  bool subtract_mean = true;
};

const std::vector<LayerOptions> kLayerOptions = {
    {},
    {.has_residual = true, .keeps_sum = true},
    {.has_residual = true, .has_bias = false},
    {.has_weight = false, .has_bias = false, .subtract_mean = false},
    {.has_weight = false},
    {.has_residual = true, .has_groups = true},
    {.has_bias = false, .has_groups = true, .subtract_mean = false},
};

constexpr int64_t kGroups = 3;

std::vector<int32_t> groups_of(int64_t rows) {
  std::vector<int32_t> groups;
  for (int64_t row = 0; row < rows; ++row) groups.push_back(static_cast<int32_t>(row * 7 % 5 % kGroups));
  return groups;
}

template <typename T>
void check_layer_forward(const Size& size, const LayerOptions& options) {
  int64_t count = size.rows * size.width + size.offset, at = size.offset, parameters = kGroups * size.width + at;
  Twin<T> x = Twin<T>::random(count, 1, 1, 0.5F), residual = Twin<T>::random(count, 2);
  Twin<T> weight = Twin<T>::random(parameters, 3, 0.3F, 1), bias = Twin<T>::random(parameters, 4, 0.3F);
  Twin<T> sum(count), y(count);
  std::vector<int32_t> groups = groups_of(size.rows);
  on_both([&](const Side& side) {
    side.kernels().layer_norm.forward({.x = x.on(side) + at,
                                       .residual = options.has_residual ? residual.on(side) + at : nullptr,
                                       .weight = options.has_weight ? weight.on(side) + at : nullptr,
                                       .bias = options.has_bias ? bias.on(side) + at : nullptr,
                                       .groups = options.has_groups ? groups.data() : nullptr,
                                       .sum = options.keeps_sum ? sum.on(side) + at : nullptr,
                                       .y = y.on(side) + at,
                                       .rows = size.rows,
                                       .width = size.width,
                                       .eps = 1e-5,
                                       .subtract_mean = options.subtract_mean,
                                       .dtype = DTypeOf<T>::value},
                                      side.stream);
  });
  expect_same(sum, 0, 0, "sum");
  expect_same(y, rounding<T>(), 4e-6, "y");
}

template <typename T>
void check_layer_backward(const Size& size, const LayerOptions& options, bool has_dinput, bool has_dweight) {
  int64_t count = size.rows * size.width + size.offset, at = size.offset, parameters = kGroups * size.width + at;
  Twin<T> input = Twin<T>::random(count, 1, 1, 0.5F), dy = Twin<T>::random(count, 2), dinput(count);
  Twin<T> weight = Twin<T>::random(parameters, 3, 0.3F, 1);
  Twin<float> dweight = Twin<float>::random(parameters, 4), dbias = Twin<float>::random(parameters, 5);
  std::vector<int32_t> groups = groups_of(size.rows);
  on_both([&](const Side& side) {
    side.kernels().layer_norm.backward({.input = input.on(side) + at,
                                        .weight = options.has_weight ? weight.on(side) + at : nullptr,
                                        .groups = options.has_groups ? groups.data() : nullptr,
                                        .dy = dy.on(side) + at,
                                        .dinput = has_dinput ? dinput.on(side) + at : nullptr,
                                        .dweight = has_dweight ? dweight.on(side) : nullptr,
                                        .dbias = options.has_bias ? dbias.on(side) : nullptr,
                                        .rows = size.rows,
                                        .width = size.width,
                                        .eps = 1e-5,
                                        .subtract_mean = options.subtract_mean,
                                        .dtype = DTypeOf<T>::value},
                                       side.stream);
  });
  expect_same(dinput, rounding<T>(), 1e-5, "dinput");
  expect_near_in_norm(dweight, 1e-5, "dweight");
  expect_near_in_norm(dbias, 1e-5, "dbias");
}

TYPED_TEST(NormOnCuda, layer_norm_at_all_sizes) {
  WEFT_NEEDS_GPU();
  for (const Size& size : kSizes) {
    SCOPED_TRACE(describe(size));
    // The deviation of one number is 0, and with it so is all that could be compared.
    if (size.width == 1) continue;
    check_layer_forward<TypeParam>(size, {.has_residual = true, .keeps_sum = true});
    check_layer_backward<TypeParam>(size, {}, true, true);
  }
}

TYPED_TEST(NormOnCuda, layer_norm_with_all_options) {
  WEFT_NEEDS_GPU();
  for (const Size& size : {Size{301, 96}, Size{37, 333}, Size{150, 2048}, Size{3, 20000}, Size{7, 9000}}) {
    for (size_t i = 0; i < kLayerOptions.size(); ++i) {
      SCOPED_TRACE(describe(size) + ", options " + std::to_string(i));
      check_layer_forward<TypeParam>(size, kLayerOptions[i]);
      check_layer_backward<TypeParam>(size, kLayerOptions[i], true, true);
      check_layer_backward<TypeParam>(size, kLayerOptions[i], true, false);
      check_layer_backward<TypeParam>(size, kLayerOptions[i], false, true);
    }
  }
}

TYPED_TEST(NormOnCuda, layer_norm_of_no_rows) {
  WEFT_NEEDS_GPU();
  check_layer_forward<TypeParam>({0, 40}, {});
  check_layer_backward<TypeParam>({0, 40}, {}, true, true);
}

}  // namespace
}  // namespace weft
