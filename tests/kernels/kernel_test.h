// What the tests of kernels share: every instruction set and thread count, buffers with guards, one tolerance a dtype,
// gradient checks.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"

namespace weft {

inline const KernelTable& cpu() {
  return kernels(DeviceType::cpu);
}

inline double to_double(float value) {
  return value;
}
inline double to_double(double value) {
  return value;
}
inline double to_double(bfloat16 value) {
  return static_cast<float>(value);
}
template <typename T>
T from_double(double value) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return bfloat16(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

/// What sums and statistics of a dtype are kept in.
template <typename T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Allowed error of an element: relative · |expected| + absolute · (size of the terms it is summed from).
struct Tolerance {
  double relative;
  double absolute;
};
template <typename T>
Tolerance tolerance() {
  if constexpr (std::is_same_v<T, double>) return {1e-12, 1e-13};
  if constexpr (std::is_same_v<T, float>) return {2e-6, 1e-6};
  return {0x1p-8, 1e-5};  // one rounding to 8 bits, which an error in f32 may turn to the other side
}

/// `count` elements that start `misalignment` elements after an aligned address, with guards on both sides that must
/// survive.
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t count, int64_t misalignment = 0, T fill = T{})
      : begin_(kGuard + static_cast<size_t>(misalignment)),
        count_(static_cast<size_t>(count)),
        cells_(begin_ + count_ + kGuard) {
    std::memset(static_cast<void*>(cells_.data()), kPattern, cells_.size() * sizeof(T));
    for (size_t i = 0; i < count_; ++i) cells_[begin_ + i] = fill;
  }
  ~Guarded() { EXPECT_TRUE(intact()) << "a kernel wrote outside its output"; }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return cells_.data() + begin_; }
  const T* data() const { return cells_.data() + begin_; }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  int64_t size() const { return static_cast<int64_t>(count_); }
  std::vector<double> values() const {
    std::vector<double> result(count_);
    for (size_t i = 0; i < count_; ++i) result[i] = to_double(cells_[begin_ + i]);
    return result;
  }

  bool intact() const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(cells_.data());
    for (size_t i = 0; i < begin_ * sizeof(T); ++i) {
      if (bytes[i] != kPattern) return false;
    }
    for (size_t i = (begin_ + count_) * sizeof(T); i < cells_.size() * sizeof(T); ++i) {
      if (bytes[i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 32;
  static constexpr unsigned char kPattern = 0xa5;
  size_t begin_, count_;
  std::vector<T> cells_;
};

/// Normal numbers from a fixed seed, rounded to T.
template <typename T>
void fill_random(Guarded<T>& buffer, uint32_t seed, double scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  for (int64_t i = 0; i < buffer.size(); ++i) buffer[i] = from_double<T>(normal(generator));
}

template <typename T>
void expect_close(const Guarded<T>& actual,
                  const std::vector<double>& expected,
                  Tolerance allowed,
                  double size_of_terms = 1) {
  ASSERT_EQ(static_cast<size_t>(actual.size()), expected.size());
  for (int64_t i = 0; i < actual.size(); ++i) {
    double want = expected[static_cast<size_t>(i)];
    double got = to_double(actual[i]);
    double limit = allowed.relative * std::abs(want) + allowed.absolute * size_of_terms;
    if (!(std::abs(got - want) <= limit) && !(std::isnan(got) && std::isnan(want))) {
      ADD_FAILURE() << "element " << i << " of " << actual.size() << ": expected " << want << ", got " << got
                    << ", off by " << std::abs(got - want) << ", allowed " << limit;
      return;
    }
  }
}

inline const char* isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable:
      return "portable";
    case CpuIsa::avx2:
      return "avx2";
    case CpuIsa::avx512:
      return "avx512";
    case CpuIsa::avx512_bf16:
      return "avx512_bf16";
  }
  return "?";
}

/// Runs `body(stream)` with every instruction set that this processor has, on 1 to 3 threads.
inline void for_each_isa(const std::function<void(const Stream&)>& body) {
  static std::shared_ptr<Allocator> allocator = make_cpu_allocator();
  CpuIsa best = cpu_isa();
  int num_threads = 0;
  for (CpuIsa isa : {CpuIsa::portable, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16}) {
    if (isa > best) break;
    set_cpu_isa(isa);
    num_threads = num_threads % 3 + 1;
    SCOPED_TRACE(std::string(isa_name(isa)) + ", " + std::to_string(num_threads) + " threads");
    body(Stream{.device = {}, .num_threads = num_threads, .workspace = allocator.get()});
  }
  set_cpu_isa(best);
}

/// Compares `gradient` with centred differences of `loss` in double, element by element of `x`.
inline void expect_gradient(Guarded<double>& x, const Guarded<double>& gradient, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  for (int64_t i = 0; i < x.size(); ++i) {
    double original = x[i];
    x[i] = original + kStep;
    double above = loss();
    x[i] = original - kStep;
    double below = loss();
    x[i] = original;
    double expected = (above - below) / (2 * kStep);
    EXPECT_NEAR(gradient[i], expected, 1e-7 * (1 + std::abs(expected))) << "element " << i;
  }
}

/// Σ weights·values: a loss whose gradient for the values is the weights.
inline double weighted_sum(const Guarded<double>& weights, const Guarded<double>& values) {
  double sum = 0;
  for (int64_t i = 0; i < values.size(); ++i) sum += weights[i] * values[i];
  return sum;
}

/// Widths round the multiples of every vector length.
inline std::vector<int64_t> odd_widths() {
  std::vector<int64_t> widths;
  for (int64_t width = 1; width <= 33; ++width) widths.push_back(width);
  for (int64_t width : {47, 63, 64, 65, 127, 130, 576, 1000}) widths.push_back(width);
  return widths;
}

using KernelDTypes = ::testing::Types<float, bfloat16, double>;
using SumDTypes = ::testing::Types<float, double>;

}  // namespace weft
