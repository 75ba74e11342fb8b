#include "kernels/activation.h"

#include <limits>

#include "cuda/cuda_test.h"

namespace weft {
namespace {

constexpr Activation kActivations[] = {Activation::silu,
                                       Activation::gelu_tanh,
                                       Activation::gelu_erf,
                                       Activation::relu,
                                       Activation::identity,
                                       Activation::tanh,
                                       Activation::sigmoid,
                                       Activation::squared_relu};

/// Elements, and how many the arrays begin after an aligned address.
struct Place {
  int64_t count, offset;
};
constexpr Place kPlaces[] = {{1, 0}, {7, 0}, {1024, 0}, {3000, 1}, {70003, 0}, {70003, 3}};

/// Normal numbers between large ones, zeros and a NaN.
template <typename T>
Twin<T> inputs(int64_t count, uint32_t seed) {
  auto twin = Twin<T>::random(count, seed, 3);
  constexpr float kSpecial[] = {0.0f, -0.0f, 30.0f, -30.0f, 88.0f, -88.0f, 200.0f, -200.0f, 1e-6f, -1e-6f};
  size_t place = 2;
  for (float value : kSpecial) {
    if (place < twin.host().size()) twin.host()[place] = static_cast<T>(value);
    place += 37;
  }
  if (place < twin.host().size()) twin.host()[place] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  twin.send();
  return twin;
}

/// The CPU's Φ is within 2e-7 absolute. Slopes hold x·(1 − s) with s next to 1, of which one unit in the last place is
/// 6e-8, times some 30, times products of normal numbers.
constexpr double kValueLimit = 1e-5, kSlopeLimit = 3e-5;

template <typename T>
void expect_equal(Twin<T>& twin, double absolute, const char* what) {
  expect_same(twin, std::is_same_v<T, float> ? 3e-6 : 0.0079, absolute, what);
}

template <typename T>
class CudaActivation : public ::testing::Test {};
TYPED_TEST_SUITE(CudaActivation, CudaDTypes);

template <typename Body>
void for_each_case(const Body& body) {
  for (Activation activation : kActivations) {
    for (Place place : kPlaces) {
      SCOPED_TRACE(::testing::Message() << "activation " << static_cast<int>(activation) << ", " << place.count
                                        << " elements from " << place.offset);
      body(activation, place);
    }
  }
}

TYPED_TEST(CudaActivation, Forward) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for_each_case([](Activation activation, Place place) {
    auto x = inputs<T>(place.count + place.offset, 1);
    Twin<T> y(place.count + place.offset);
    on_both([&](const Side& side) {
      side.kernels().activation.forward({.x = x.on(side) + place.offset,
                                         .y = y.on(side) + place.offset,
                                         .count = place.count,
                                         .activation = activation,
                                         .dtype = DTypeOf<T>::value},
                                        side.stream);
    });
    expect_equal(y, kValueLimit, "y");
    on_both([&](const Side& side) {
      T* in_place = x.on(side) + place.offset;
      side.kernels().activation.forward(
          {.x = in_place, .y = in_place, .count = place.count, .activation = activation, .dtype = DTypeOf<T>::value},
          side.stream);
    });
    expect_equal(x, kValueLimit, "y over x");
  });
}

TYPED_TEST(CudaActivation, Backward) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for_each_case([](Activation activation, Place place) {
    auto x = inputs<T>(place.count + place.offset, 1);
    auto dy = Twin<T>::random(place.count + place.offset, 2);
    on_both([&](const Side& side) {
      T* in_place = dy.on(side) + place.offset;
      side.kernels().activation.backward({.x = x.on(side) + place.offset,
                                          .dy = in_place,
                                          .dx = in_place,
                                          .count = place.count,
                                          .activation = activation,
                                          .dtype = DTypeOf<T>::value},
                                         side.stream);
    });
    expect_equal(dy, kSlopeLimit, "dx");
  });
}

TYPED_TEST(CudaActivation, GatedForward) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for_each_case([](Activation activation, Place place) {
    auto gate = inputs<T>(place.count + place.offset, 1);
    auto up = Twin<T>::random(place.count + place.offset, 2);
    Twin<T> y(place.count + place.offset);
    on_both([&](const Side& side) {
      side.kernels().activation.gated_forward({.gate = gate.on(side) + place.offset,
                                               .up = up.on(side) + place.offset,
                                               .y = y.on(side) + place.offset,
                                               .count = place.count,
                                               .activation = activation,
                                               .dtype = DTypeOf<T>::value},
                                              side.stream);
    });
    expect_equal(y, kValueLimit, "y");
  });
}

TYPED_TEST(CudaActivation, GatedBackwardOfEitherOrBoth) {
  WEFT_NEEDS_GPU();
  using T = TypeParam;
  for_each_case([](Activation activation, Place place) {
    auto gate = inputs<T>(place.count + place.offset, 1);
    auto up = Twin<T>::random(place.count + place.offset, 2);
    auto dy = Twin<T>::random(place.count + place.offset, 3);
    for (int wanted = 1; wanted <= 3; ++wanted) {
      Twin<T> dgate(place.count + place.offset), dup(place.count + place.offset);
      on_both([&](const Side& side) {
        side.kernels().activation.gated_backward({.gate = gate.on(side) + place.offset,
                                                  .up = up.on(side) + place.offset,
                                                  .dy = dy.on(side) + place.offset,
                                                  .dgate = (wanted & 1) != 0 ? dgate.on(side) + place.offset : nullptr,
                                                  .dup = (wanted & 2) != 0 ? dup.on(side) + place.offset : nullptr,
                                                  .count = place.count,
                                                  .activation = activation,
                                                  .dtype = DTypeOf<T>::value},
                                                 side.stream);
      });
      expect_equal(dgate, kSlopeLimit, "dgate");
      expect_equal(dup, kValueLimit, "dup");
    }
  });
}

TEST(CudaActivationEdges, NothingIsDoneToNoElements) {
  WEFT_NEEDS_GPU();
  on_both([](const Side& side) {
    side.kernels().activation.forward({}, side.stream);
    side.kernels().activation.backward({}, side.stream);
    side.kernels().activation.gated_forward({}, side.stream);
    side.kernels().activation.gated_backward({}, side.stream);
  });
}

}  // namespace
}  // namespace weft
