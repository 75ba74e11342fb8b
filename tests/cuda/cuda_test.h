// What the parity tests share: the same call on the CPU's kernels and on CUDA's, over arrays that live on both sides.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "kernels/attention_dropout.h"
#include "kernels/cuda_devices.h"
#include "kernels/kernels.h"

namespace weft {

/// The GPU's allocator; null without a GPU.
inline const std::shared_ptr<Allocator>& gpu() {
  static const std::shared_ptr<Allocator> allocator = cuda_device_count() > 0 ? make_cuda_allocator(0) : nullptr;
  return allocator;
}

#define WEFT_NEEDS_GPU() \
  if (gpu() == nullptr) GTEST_SKIP() << "SKIPPED, not checked: " << no_cuda_reason()

/// One of the two backends that a test compares.
struct Side {
  DeviceType type;
  Stream stream;
  const KernelTable& kernels() const { return weft::kernels(type); }
};

/// Runs `body(side)` on the CPU, then on the GPU.
template <typename Body>
void on_both(Body&& body) {
  static const std::shared_ptr<Allocator> host = make_cpu_allocator();
  body(Side{DeviceType::cpu, {.device = {}, .num_threads = 2, .workspace = host.get()}});
  body(Side{DeviceType::cuda, {.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()}});
  gpu()->synchronize();
}

template <typename T>
float as_float(T value) {
  return static_cast<float>(value);
}

/// An array on both sides. Begins as NaN (or what all-ones bytes mean), so that an element never written shows.
template <typename T>
class Twin {
 public:
  explicit Twin(int64_t count)
      : host_(static_cast<size_t>(count)), device_(Tensor::empty(gpu(), {count}, DTypeOf<T>::value)) {
    std::memset(static_cast<void*>(host_.data()), 0xff, host_.size() * sizeof(T));
    send();
  }
  static Twin constant(int64_t count, float value) {
    Twin twin(count);
    for (T& element : twin.host_) element = static_cast<T>(value);
    twin.send();
    return twin;
  }
  /// Normal numbers.
  static Twin random(int64_t count, uint32_t seed, float scale = 1, float mean = 0) {
    Twin twin(count);
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(mean, scale);
    for (T& element : twin.host_) element = static_cast<T>(normal(generator));
    twin.send();
    return twin;
  }

  T* on(const Side& side) { return side.type == DeviceType::cpu ? host_.data() : static_cast<T*>(device_.raw()); }
  std::vector<T>& host() { return host_; }
  int64_t size() const { return static_cast<int64_t>(host_.size()); }
  /// What the CPU's side holds, to the GPU.
  void send() { gpu()->copy_from_host(device_.raw(), host_.data(), host_.size() * sizeof(T)); }
  /// What the GPU holds.
  std::vector<T> device_values() const {
    std::vector<T> values(host_.size());
    gpu()->copy_to_host(values.data(), device_.raw(), values.size() * sizeof(T));
    return values;
  }

 private:
  std::vector<T> host_;
  Tensor device_;
};

/// Every element of the GPU's side within relative·|CPU's| + absolute; and both all finite unless the CPU's is not.
template <typename T>
void expect_same(Twin<T>& twin, double relative, double absolute, const char* what = "output") {
  std::vector<T> actual = twin.device_values();
  for (size_t i = 0; i < actual.size(); ++i) {
    auto want = static_cast<double>(as_float(twin.host()[i]));
    auto got = static_cast<double>(as_float(actual[i]));
    if (std::isnan(want) && std::isnan(got)) continue;
    if (std::isinf(want) && want == got) continue;
    double limit = relative * std::abs(want) + absolute;
    if (!(std::abs(got - want) <= limit)) {
      ADD_FAILURE() << what << ", element " << i << " of " << actual.size() << ": CPU " << want << ", CUDA " << got
                    << ", off by " << std::abs(got - want) << ", allowed " << limit;
      return;
    }
  }
}

/// ‖CUDA − CPU‖ / ‖CPU‖ at most `limit`, and every element a number.
template <typename T>
void expect_near_in_norm(Twin<T>& twin, double limit, const char* what = "output") {
  std::vector<T> actual = twin.device_values();
  double difference = 0, size = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    auto want = static_cast<double>(as_float(twin.host()[i]));
    auto got = static_cast<double>(as_float(actual[i]));
    difference += (got - want) * (got - want);
    size += want * want;
  }
  double error = std::sqrt(difference) / std::max(std::sqrt(size), 1e-30);
  EXPECT_TRUE(error <= limit) << what << ": relative error " << error << ", allowed " << limit;
}

/// Dropout of attention weights on a rank that has neither the first rows nor all of the heads.
inline AttentionDropout dropout_of_a_rank(float probability) {
  return {.probability = probability,
          .key = {.seed = 0x1234567890abcdef, .step = 17, .site = 4},
          .row_begin = 1000003,
          .head_begin = 5,
          .global_heads = 37};
}

using CudaDTypes = ::testing::Types<float, bfloat16>;

/// For sums of products: what rounding allows, in norm.
template <typename T>
double norm_limit() {
  return std::is_same_v<T, float> ? 2e-5 : 8e-3;
}

}  // namespace weft
