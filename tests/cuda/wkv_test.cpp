// RWKV-6's recurrence on CUDA (kernels/cuda/wkv.cu) against the CPU's.
#include "kernels/wkv.h"

#include <numeric>
#include <string>

#include "cuda_test.h"

namespace weft {
namespace {

struct Case {
  std::vector<int64_t> lengths;
  int64_t num_heads = 2, head_size = 64;
  bool has_states = true;
  std::vector<float> log_rates = {};  // one of these for each w; empty: random as in trained models
};

const std::vector<float> kExtremes = {-1e9f, -100, -20, -6, -1, 0, 1.5f, 3, 4.6f, 5, 20, 100, 1e9f};

std::string describe(const Case& test) {
  std::string text = std::to_string(test.num_heads) + " heads of " + std::to_string(test.head_size) + ", " +
                     std::to_string(test.log_rates.size()) + " rates, " + std::to_string(test.lengths.size()) +
                     " sequences, lengths";
  for (size_t i = 0; i < test.lengths.size() && i < 10; ++i) text += " " + std::to_string(test.lengths[i]);
  return text;
}

/// Within f32's error of sums as large as the largest element, and one rounding to T.
template <typename T>
void expect_values(Twin<T>& twin, const char* what, double error = 1e-5) {
  double largest = 0;
  for (T value : twin.host()) largest = std::max(largest, std::abs(static_cast<double>(as_float(value))));
  expect_same(twin, std::is_same_v<T, float> ? 0 : 1.0 / 128, error * largest, what);
}

template <typename T>
class Problem {
 public:
  explicit Problem(const Case& test)
      : test_(test),
        channels_(test.num_heads * test.head_size),
        tokens_(std::accumulate(test.lengths.begin(), test.lengths.end(), int64_t{0})),
        state_size_(channels_ * test.head_size),
        num_sequences_(static_cast<int64_t>(test.lengths.size())),
        r_(Twin<T>::random(tokens_ * channels_, 1)),
        k_(Twin<T>::random(tokens_ * channels_, 2)),
        v_(Twin<T>::random(tokens_ * channels_, 3)),
        u_(Twin<T>::random(channels_, 4)),
        w_(Twin<float>::random(tokens_ * channels_, 5, 2, -3)),
        initial_(Twin<float>::random(num_sequences_ * state_size_, 6)),
        final_(num_sequences_ * state_size_),
        y_(tokens_ * channels_),
        boundary_states_(boundaries() * state_size_) {
    if (test.log_rates.empty()) return;
    std::mt19937 generator(7);
    std::uniform_int_distribution<size_t> which(0, test.log_rates.size() - 1);
    for (float& rate : w_.host()) rate = test.log_rates[which(generator)];
    w_.send();
  }

  void compare_recurrent() {
    on_both([&](const Side& side) {
      std::vector<WkvSequence> sequences = sequences_on(side);
      side.kernels().wkv.recurrent(forward_args(side, sequences, false), side.stream);
    });
    expect_values(y_, "recurrent y");
    expect_values(final_, "recurrent state");
  }

  void compare_forward(bool has_boundaries) {
    on_both([&](const Side& side) {
      std::vector<WkvSequence> sequences = sequences_on(side);
      side.kernels().wkv.forward(forward_args(side, sequences, has_boundaries), side.stream);
    });
    expect_values(y_, "y");
    expect_values(final_, "state");
    if (has_boundaries) expect_values(boundary_states_, "boundary states");
  }

  /// After compare_forward(true). `is_bare`: without what may be null.
  void compare_backward(bool is_bare) {
    Twin<T> dy = Twin<T>::random(tokens_ * channels_, 8);
    Twin<float> dfinal = Twin<float>::random(final_.size(), 9), du = Twin<float>::random(channels_, 10);
    Twin<T> dr(dy.size()), dk(dy.size()), dv(dy.size());
    Twin<float> dw(dy.size()), dinitial(final_.size());
    on_both([&](const Side& side) {
      std::vector<WkvSequence> sequences = sequences_on(side);
      side.kernels().wkv.backward({.forward = forward_args(side, sequences, true),
                                   .dy = dy.on(side),
                                   .dfinal_states = is_bare ? nullptr : dfinal.on(side),
                                   .dr = dr.on(side),
                                   .dk = dk.on(side),
                                   .dv = dv.on(side),
                                   .dw = dw.on(side),
                                   .du = is_bare ? nullptr : du.on(side),
                                   .dinitial_states = is_bare ? nullptr : dinitial.on(side)},
                                  side.stream);
    });
    expect_values(dr, "dr");
    expect_values(dk, "dk");
    expect_values(dv, "dv");
    expect_values(dw, "dw");
    if (is_bare) return;
    expect_values(du, "du", 2e-5);
    expect_values(dinitial, "dinitial");
  }

 private:
  int64_t boundaries() const {
    int64_t count = 0;
    for (int64_t length : test_.lengths) count += wkv_boundaries(length);
    return count;
  }

  std::vector<WkvSequence> sequences_on(const Side& side) {
    std::vector<WkvSequence> sequences;
    int64_t begin = 0, boundary = 0, state = 0;
    for (int64_t length : test_.lengths) {
      sequences.push_back({.begin = begin,
                           .length = length,
                           .initial_state = test_.has_states ? initial_.on(side) + state : nullptr,
                           .final_state = final_.on(side) + state,
                           .first_boundary = boundary});
      begin += length;
      boundary += wkv_boundaries(length);
      state += state_size_;
    }
    return sequences;
  }

  WkvForwardArgs forward_args(const Side& side, std::span<const WkvSequence> sequences, bool has_boundaries) {
    return {.r = r_.on(side),
            .k = k_.on(side),
            .v = v_.on(side),
            .w = w_.on(side),
            .u = u_.on(side),
            .y = y_.on(side),
            .sequences = sequences,
            .boundary_states = has_boundaries ? boundary_states_.on(side) : nullptr,
            .num_heads = test_.num_heads,
            .head_size = test_.head_size,
            .dtype = DTypeOf<T>::value};
  }

  Case test_;
  int64_t channels_, tokens_, state_size_, num_sequences_;
  Twin<T> r_, k_, v_, u_;
  Twin<float> w_, initial_, final_;
  Twin<T> y_;
  Twin<float> boundary_states_;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {.lengths = {1}},
      {.lengths = {2}, .has_states = false},
      {.lengths = {15}},
      {.lengths = {16}},
      {.lengths = {17}, .has_states = false},
      {.lengths = {3, 0, 1, 33, 8, 256, 7}},
      {.lengths = {257, 40}, .has_states = false},
      {.lengths = {30, 530}, .num_heads = 3},
      {.lengths = {50, 300}, .head_size = 32},
      {.lengths = {50, 270}, .head_size = 128},
      {.lengths = {50, 5}, .num_heads = 1, .head_size = 96},
      {.lengths = {40, 4}, .num_heads = 3, .head_size = 1},
      {.lengths = {40, 4}, .num_heads = 3, .head_size = 7},
      {.lengths = {40, 4}, .num_heads = 3, .head_size = 37},
      {.lengths = {100, 7, 300}, .log_rates = kExtremes},
      {.lengths = {100, 7}, .head_size = 16, .log_rates = {-1e9f}},
      {.lengths = {100, 7}, .head_size = 16, .log_rates = {20}},
      {.lengths = {100, 7}, .head_size = 16, .log_rates = {-1e9f, 20}},
      {.lengths = {100, 7}, .log_rates = {2, 2.5f, 3, 3.5f}},
  };
  return all;
}

template <typename T>
class CudaWkv : public ::testing::Test {};
TYPED_TEST_SUITE(CudaWkv, CudaDTypes);

TYPED_TEST(CudaWkv, forward_and_backward) {
  WEFT_NEEDS_GPU();
  for (const Case& test : cases()) {
    SCOPED_TRACE(describe(test));
    Problem<TypeParam> problem(test);
    problem.compare_recurrent();
    problem.compare_forward(false);
    problem.compare_forward(true);
    problem.compare_backward(false);
    problem.compare_backward(true);
  }
}

/// More sequences than fit the parameters, and more heads of them than blocks run at a time.
TYPED_TEST(CudaWkv, many_sequences) {
  WEFT_NEEDS_GPU();
  for (int64_t count : {32, 33, 200}) {
    Case test{.lengths = {}, .num_heads = 2, .head_size = 32};
    for (int64_t i = 0; i < count; ++i) test.lengths.push_back(i * 7 % 23);
    SCOPED_TRACE(describe(test));
    Problem<TypeParam> problem(test);
    problem.compare_recurrent();
    problem.compare_forward(true);
    problem.compare_backward(false);
  }
}

/// In place, in parts that chunks do not divide.
TYPED_TEST(CudaWkv, the_state_handed_on_in_place) {
  WEFT_NEEDS_GPU();
  constexpr int64_t kHeads = 3, kSize = 64, kTokens = 60, kChannels = kHeads * kSize;
  auto r = Twin<TypeParam>::random(kTokens * kChannels, 1), k = Twin<TypeParam>::random(kTokens * kChannels, 2),
       v = Twin<TypeParam>::random(kTokens * kChannels, 3), u = Twin<TypeParam>::random(kChannels, 4);
  auto w = Twin<float>::random(kTokens * kChannels, 5, 2, -3), state = Twin<float>::random(kChannels * kSize, 6);
  Twin<TypeParam> y(kTokens * kChannels);
  on_both([&](const Side& side) {
    int64_t begin = 0;
    for (int64_t length : {16, 1, 20, 1, 22}) {
      std::vector<WkvSequence> part = {{.begin = begin,
                                        .length = length,
                                        .initial_state = state.on(side),
                                        .final_state = state.on(side),
                                        .first_boundary = 0}};
      side.kernels().wkv.forward({.r = r.on(side),
                                  .k = k.on(side),
                                  .v = v.on(side),
                                  .w = w.on(side),
                                  .u = u.on(side),
                                  .y = y.on(side),
                                  .sequences = part,
                                  .num_heads = kHeads,
                                  .head_size = kSize,
                                  .dtype = DTypeOf<TypeParam>::value},
                                 side.stream);
      begin += length;
    }
  });
  expect_values(y, "y");
  expect_values(state, "state");
}

TYPED_TEST(CudaWkv, no_sequences_do_nothing) {
  WEFT_NEEDS_GPU();
  on_both([&](const Side& side) {
    WkvForwardArgs args{.sequences = {}, .num_heads = 2, .head_size = 64, .dtype = DTypeOf<TypeParam>::value};
    side.kernels().wkv.forward(args, side.stream);
    side.kernels().wkv.recurrent(args, side.stream);
  });
}

}  // namespace
}  // namespace weft
