#include "kernels/wkv.h"

#include <algorithm>

#include "kernel_test.h"

namespace weft {
namespace {

template <typename T>
class WkvOfDType : public ::testing::Test {};
TYPED_TEST_SUITE(WkvOfDType, KernelDTypes);

struct Case {
  std::vector<int64_t> lengths;
  int64_t num_heads = 2, head_size = 16;
  bool has_states = true;
  std::vector<double> log_rates = {};  // one of these for each w; empty: random as in trained models
};

const std::vector<double> kExtremes = {-1e9, -100, -20, -6, -1, 0, 1.5, 3, 4.6, 5, 20, 100, 1e9};

template <typename T>
struct Problem {
  using R = SumOf<T>;

  explicit Problem(const Case& test_case)
      : test(test_case),
        channels(test.num_heads * test.head_size),
        tokens(std::accumulate(test.lengths.begin(), test.lengths.end(), int64_t{0})),
        num_sequences(static_cast<int64_t>(test.lengths.size())),
        state_size(channels * test.head_size),
        r(tokens * channels, 1),
        k(tokens * channels, 2),
        v(tokens * channels, 3),
        y(tokens * channels, 1),
        dy(tokens * channels, 1),
        u(channels, 1),
        w(tokens * channels, 1),
        initial(num_sequences * state_size, 1),
        final(num_sequences * state_size, 3),
        dfinal(num_sequences * state_size, 1) {
    fill_random(r, 1);
    fill_random(k, 2);
    fill_random(v, 3);
    fill_random(dy, 4);
    fill_random(u, 5);
    fill_random(initial, 6);
    fill_random(dfinal, 7);
    fill_log_rates();
    int64_t begin = 0;
    for (int64_t length : test.lengths) {
      int64_t state = static_cast<int64_t>(sequences.size()) * state_size;
      sequences.push_back({.begin = begin,
                           .length = length,
                           .initial_state = test.has_states ? initial.data() + state : nullptr,
                           .final_state = final.data() + state,
                           .first_boundary = boundaries});
      begin += length;
      boundaries += wkv_boundaries(length);
    }
  }

  void fill_log_rates() {
    std::mt19937 generator(8);
    std::normal_distribution<double> normal(-3, 2);
    std::uniform_int_distribution<size_t> which(0, test.log_rates.empty() ? 0 : test.log_rates.size() - 1);
    for (int64_t i = 0; i < w.size(); ++i) {
      w[i] = static_cast<R>(test.log_rates.empty() ? normal(generator) : test.log_rates[which(generator)]);
    }
  }

  WkvForwardArgs args() {
    return {.r = r.data(),
            .k = k.data(),
            .v = v.data(),
            .w = w.data(),
            .u = u.data(),
            .y = y.data(),
            .sequences = sequences,
            .num_heads = test.num_heads,
            .head_size = test.head_size,
            .dtype = DTypeOf<T>::value};
  }

  Case test;
  int64_t channels, tokens, num_sequences, state_size, boundaries = 0;
  Guarded<T> r, k, v, y, dy, u;
  Guarded<R> w, initial, final, dfinal;
  std::vector<WkvSequence> sequences;
};

double decay_of(double w) {
  return std::exp(-std::exp(w));
}

/// The recurrence and its reverse as they are written, in double.
template <typename T>
struct Reference {
  using Values = std::vector<double>;

  explicit Reference(const Problem<T>& problem) : p(problem), size(problem.test.head_size) {
    for (Values* rows : {&y, &dr, &dk, &dv, &dw}) rows->resize(static_cast<size_t>(p.tokens * p.channels));
    du.resize(static_cast<size_t>(p.channels));
    final.resize(static_cast<size_t>(p.num_sequences * p.state_size));
    dinitial.resize(final.size());
    for (int64_t sequence = 0; sequence < p.num_sequences; ++sequence) {
      for (int64_t head = 0; head < p.test.num_heads; ++head) run_head(sequence, head);
    }
  }

  void run_head(int64_t sequence, int64_t head) {
    int64_t state_at = sequence * p.state_size + head * size * size;
    Values state(static_cast<size_t>(size * size)), dstate(state.size());
    for (int64_t i = 0; i < size * size; ++i) {
      if (p.test.has_states) state[static_cast<size_t>(i)] = p.initial[state_at + i];
      dstate[static_cast<size_t>(i)] = p.dfinal[state_at + i];
    }
    std::vector<Values> states;
    const WkvSequence& span = p.sequences[static_cast<size_t>(sequence)];
    for (int64_t t = span.begin; t < span.begin + span.length; ++t) {
      states.push_back(state);
      step(t * p.channels + head * size, head * size, state);
    }
    std::copy(state.begin(), state.end(), final.begin() + state_at);
    for (int64_t t = span.begin + span.length - 1; t >= span.begin; --t) {
      step_back(t * p.channels + head * size, head * size, states.back(), dstate);
      states.pop_back();
    }
    std::copy(dstate.begin(), dstate.end(), dinitial.begin() + state_at);
  }

  void step(int64_t at, int64_t channel, Values& state) {
    for (int64_t n = 0; n < size; ++n) {
      double r = to_double(p.r[at + n]), k = to_double(p.k[at + n]), u = to_double(p.u[channel + n]);
      double a = decay_of(p.w[at + n]);
      for (int64_t m = 0; m < size; ++m) {
        double& s = state[static_cast<size_t>(n * size + m)];
        double kv = k * to_double(p.v[at + m]);
        y[static_cast<size_t>(at + m)] += r * (u * kv + s);
        s = a * s + kv;
      }
    }
  }

  void step_back(int64_t at, int64_t channel, const Values& state, Values& dstate) {
    for (int64_t n = 0; n < size; ++n) {
      double r = to_double(p.r[at + n]), k = to_double(p.k[at + n]), u = to_double(p.u[channel + n]);
      double a = decay_of(p.w[at + n]), da = 0;
      for (int64_t m = 0; m < size; ++m) {
        double v = to_double(p.v[at + m]), dy = to_double(p.dy[at + m]);
        double s = state[static_cast<size_t>(n * size + m)];
        double& ds = dstate[static_cast<size_t>(n * size + m)];
        dr[static_cast<size_t>(at + n)] += dy * (u * k * v + s);
        dk[static_cast<size_t>(at + n)] += dy * r * u * v + ds * v;
        dv[static_cast<size_t>(at + m)] += dy * r * u * k + ds * k;
        du[static_cast<size_t>(channel + n)] += dy * r * k * v;
        da += ds * s;
        ds = a * ds + r * dy;
      }
      dw[static_cast<size_t>(at + n)] = a == 0 ? 0 : -std::exp(p.w[at + n]) * a * da;
    }
  }

  const Problem<T>& p;
  int64_t size;
  Values y, final, dr, dk, dv, dw, du, dinitial;
};

template <typename R>
double rounding() {
  return std::is_same_v<R, double> ? 1e-12 : 1e-5;
}

/// Within f32's (f64's) error of sums as large as the largest element, and one rounding to T.
template <typename R, typename T>
void expect_values(const char* what,
                   const Guarded<T>& actual,
                   const std::vector<double>& expected,
                   double error = rounding<R>()) {
  SCOPED_TRACE(what);
  double largest = 0;
  for (double value : expected) largest = std::max(largest, std::abs(value));
  expect_close(actual, expected, {.relative = tolerance<T>().relative, .absolute = error}, largest);
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {.lengths = {1}},
      {.lengths = {2}, .has_states = false},
      {.lengths = {15}},
      {.lengths = {16}},
      {.lengths = {17}, .has_states = false},
      {.lengths = {100}},
      {.lengths = {3, 0, 1, 33, 8, 256, 7}},
      {.lengths = {257, 40}, .has_states = false},
      {.lengths = {30, 520}},
      {.lengths = {50, 5}, .head_size = 64},
      {.lengths = {50, 5}, .num_heads = 1, .head_size = 96},
      {.lengths = {40, 4}, .num_heads = 3, .head_size = 1},
      {.lengths = {40, 4}, .num_heads = 3, .head_size = 7},
      {.lengths = {40, 4}, .num_heads = 3, .head_size = 37},
      {.lengths = {100, 7, 300}, .log_rates = kExtremes},
      {.lengths = {100, 7}, .log_rates = {-1e9}},
      {.lengths = {100, 7}, .log_rates = {20}},
      {.lengths = {100, 7}, .log_rates = {-1e9, 20}},
      {.lengths = {100, 7}, .head_size = 64, .log_rates = {2, 2.5, 3, 3.5}},
  };
  return all;
}

std::string describe(const Case& test) {
  std::string text = std::to_string(test.num_heads) + " heads of " + std::to_string(test.head_size) + ", " +
                     std::to_string(test.log_rates.size()) + " rates, lengths";
  for (int64_t length : test.lengths) text += " " + std::to_string(length);
  return text;
}

TYPED_TEST(WkvOfDType, ForwardOfEitherFormEqualsTheRecurrence) {
  using R = SumOf<TypeParam>;
  for (const Case& test : cases()) {
    SCOPED_TRACE(describe(test));
    Problem<TypeParam> problem(test);
    Reference<TypeParam> reference(problem);
    for_each_isa([&](const Stream& stream) {
      WkvForwardArgs args = problem.args();
      cpu().wkv.recurrent(args, stream);
      expect_values<R>("recurrent y", problem.y, reference.y);
      expect_values<R>("recurrent state", problem.final, reference.final);
      cpu().wkv.forward(args, stream);
      expect_values<R>("y", problem.y, reference.y);
      expect_values<R>("state", problem.final, reference.final);
      Guarded<R> boundaries(problem.boundaries * problem.state_size);
      args.boundary_states = boundaries.data();  // chunks also of few tokens
      cpu().wkv.forward(args, stream);
      expect_values<R>("chunked y", problem.y, reference.y);
      expect_values<R>("chunked state", problem.final, reference.final);
    });
  }
}

TYPED_TEST(WkvOfDType, BackwardEqualsThatOfTheRecurrence) {
  using R = SumOf<TypeParam>;
  for (const Case& test : cases()) {
    SCOPED_TRACE(describe(test));
    Problem<TypeParam> problem(test);
    Reference<TypeParam> reference(problem);
    for_each_isa([&](const Stream& stream) {
      int64_t count = problem.tokens * problem.channels;
      Guarded<R> boundaries(problem.boundaries * problem.state_size);
      Guarded<TypeParam> dr(count, 1), dk(count, 2), dv(count, 3);
      Guarded<R> dw(count, 1), du(problem.channels), dinitial(problem.num_sequences * problem.state_size, 1);
      WkvForwardArgs forward = problem.args();
      forward.boundary_states = boundaries.data();
      cpu().wkv.forward(forward, stream);
      cpu().wkv.backward({.forward = forward,
                          .dy = problem.dy.data(),
                          .dfinal_states = problem.dfinal.data(),
                          .dr = dr.data(),
                          .dk = dk.data(),
                          .dv = dv.data(),
                          .dw = dw.data(),
                          .du = du.data(),
                          .dinitial_states = dinitial.data()},
                         stream);
      expect_values<R>("dr", dr, reference.dr);
      expect_values<R>("dk", dk, reference.dk);
      expect_values<R>("dv", dv, reference.dv);
      expect_values<R>("dw", dw, reference.dw);
      expect_values<R>("du", du, reference.du);
      expect_values<R>("dinitial", dinitial, reference.dinitial);
    });
  }
}

/// With each other to 1e-5; with double less, as a decay near 1 keeps few digits of its distance from 1 in f32.
TEST(Wkv, FormsAgreeOver4096Tokens) {
  for (const std::vector<double>& rates : {std::vector<double>{}, kExtremes, std::vector<double>{-8, -9}}) {
    Problem<float> problem({.lengths = {4096}, .num_heads = 1, .head_size = 64, .log_rates = rates});
    Reference<float> reference(problem);
    for_each_isa([&](const Stream& stream) {
      cpu().wkv.recurrent(problem.args(), stream);
      expect_values<float>("recurrent y", problem.y, reference.y, 1e-4);
      std::vector<double> recurrent = problem.y.values(), state = problem.final.values();
      cpu().wkv.forward(problem.args(), stream);
      expect_values<float>("y", problem.y, recurrent);
      expect_values<float>("state", problem.final, state);
    });
  }
}

/// In place, in parts that chunks do not divide.
TEST(Wkv, PartsThatHandTheStateOnEqualTheWhole) {
  Problem<float> problem({.lengths = {200}, .head_size = 24});
  Reference<float> reference(problem);
  for_each_isa([&](const Stream& stream) {
    Guarded<float> state(problem.state_size, 1);
    std::copy_n(problem.initial.data(), problem.state_size, state.data());
    std::fill_n(problem.y.data(), problem.y.size(), 0.0f);
    int64_t begin = 0;
    for (int64_t length : {16, 1, 100, 1, 5, 77}) {
      std::vector<WkvSequence> part = {
          {.begin = begin, .length = length, .initial_state = state.data(), .final_state = state.data()}};
      WkvForwardArgs args = problem.args();
      args.sequences = part;
      cpu().wkv.forward(args, stream);
      begin += length;
    }
    expect_values<float>("y", problem.y, reference.y);
    expect_values<float>("state", state, reference.final);
  });
}

/// Without subnormal rests or NaN: what a decay of 0 cuts off has no gradient at all.
TEST(Wkv, ADecayOfZeroForgetsExactly) {
  Problem<float> problem({.lengths = {40}, .head_size = 16, .has_states = true, .log_rates = {30}});
  for_each_isa([&](const Stream& stream) {
    Guarded<float> boundaries(problem.state_size), rows(problem.tokens * problem.channels),
        dw(problem.tokens * problem.channels, 0, 1.0f), dinitial(problem.state_size, 0, 1.0f);
    WkvForwardArgs forward = problem.args();
    forward.boundary_states = boundaries.data();
    cpu().wkv.forward(forward, stream);
    cpu().wkv.backward({.forward = forward,
                        .dy = problem.dy.data(),
                        .dr = rows.data(),
                        .dk = rows.data(),
                        .dv = rows.data(),
                        .dw = dw.data(),
                        .dinitial_states = dinitial.data()},
                       stream);
    EXPECT_EQ(dw.values(), std::vector<double>(static_cast<size_t>(dw.size()), 0.0));
    int64_t last = (problem.tokens - 1) * problem.channels;
    for (int64_t n = 0; n < 16; ++n) {
      for (int64_t m = 0; m < 16; ++m) {
        EXPECT_EQ(problem.final[n * 16 + m], problem.k[last + n] * problem.v[last + m]);
      }
    }
  });
}

TEST(Wkv, GradientsHaveTheSameBitsAtEveryNumberOfThreads) {
  Problem<float> problem({.lengths = {40, 3, 300, 90, 17}, .num_heads = 3, .head_size = 20});
  std::vector<std::vector<double>> results;
  for (int threads : {1, 2, 5}) {
    Stream stream{.device = {}, .num_threads = threads};
    int64_t count = problem.tokens * problem.channels;
    Guarded<float> boundaries(problem.boundaries * problem.state_size), dr(count), dk(count), dv(count), dw(count),
        du(problem.channels);
    WkvForwardArgs forward = problem.args();
    forward.boundary_states = boundaries.data();
    cpu().wkv.forward(forward, stream);
    cpu().wkv.backward({.forward = forward,
                        .dy = problem.dy.data(),
                        .dr = dr.data(),
                        .dk = dk.data(),
                        .dv = dv.data(),
                        .dw = dw.data(),
                        .du = du.data()},
                       stream);
    std::vector<double> all = problem.y.values();
    for (const Guarded<float>* gradient : {&dr, &dk, &dv, &dw, &du}) {
      for (double value : gradient->values()) all.push_back(value);
    }
    results.push_back(std::move(all));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace
}  // namespace weft
