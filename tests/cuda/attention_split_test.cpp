// Decoding on CUDA (kernels/cuda/attention_split.cu) against the CPU's: few queries over keys in a cache.
#include <algorithm>
#include <string>

#include "cuda_test.h"
#include "kernels/attention.h"

namespace weft {
namespace {

struct Length {
  int64_t queries = 1, keys = 1;
};

struct Case {
  std::vector<Length> lengths;
  int64_t num_heads = 1, num_kv_heads = 1, head_dim = 64;
  AttentionMask mask = {};
  bool has_bias = false;
  bool has_visible_keys = false;
  bool has_log_sum_exp = true;
  int64_t shift = 0;  // elements by which the caches begin behind an aligned address
};

int64_t total_queries(const Case& test) {
  int64_t sum = 0;
  for (const Length& one : test.lengths) sum += one.queries;
  return sum;
}

int64_t longest(const Case& test) {
  int64_t keys = 0;
  for (const Length& one : test.lengths) keys = std::max(keys, one.keys);
  return keys;
}

std::string describe(const Case& test) {
  std::string text = std::to_string(test.lengths.size()) + " sequences, the longest of " +
                     std::to_string(longest(test)) + ", heads " + std::to_string(test.num_heads) + "/" +
                     std::to_string(test.num_kv_heads) + " of " + std::to_string(test.head_dim);
  if (test.mask.soft_cap > 0) text += ", cap";
  if (test.mask.window > 0) text += ", window";
  if (!test.mask.causal) text += ", full";
  if (test.has_bias) text += ", bias";
  if (test.has_visible_keys) text += ", visible keys";
  return text;
}

/// Caches [sequence, Hk, capacity, D], of which only tokens that exist are numbers.
template <typename T>
class Problem {
 public:
  explicit Problem(const Case& test)
      : test_(test),
        capacity_(longest(test) + 3),
        rows_(total_queries(test)),
        q_(Twin<T>::random(rows_ * test.num_heads * test.head_dim, 1)),
        out_(rows_ * test.num_heads * test.head_dim),
        keys_(cache_size()),
        values_(cache_size()),
        log_sum_exp_(rows_ * test.num_heads),
        bias_(Twin<float>::random(test.num_heads * bias_stride(), 2)) {
    fill(keys_, 3);
    fill(values_, 4);
    for (const Length& one : test.lengths) {
      // Pairs of queries that see the same; the last sees all.
      std::vector<int32_t> visible;
      for (int64_t i = 0; i < one.queries; ++i)
        visible.push_back(static_cast<int32_t>(std::max<int64_t>(1, one.keys - (one.queries - 1 - i) / 2 * 9)));
      visible_.push_back(visible);
    }
  }

  void run_and_compare() {
    on_both([&](const Side& side) { run(side); });
    expect_near_in_norm(out_, norm_limit<T>(), "out");
    if (test_.has_log_sum_exp) expect_same(log_sum_exp_, 2e-5, 2e-5, "log_sum_exp");
  }

 private:
  int64_t head_stride() const { return capacity_ * test_.head_dim; }
  int64_t slot_stride() const { return test_.num_kv_heads * head_stride(); }
  int64_t cache_size() const { return static_cast<int64_t>(test_.lengths.size()) * slot_stride() + test_.shift; }
  int64_t bias_stride() const { return capacity_ + 2 * 8 + kAttentionBiasPadding; }

  void fill(Twin<T>& cache, uint32_t seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (size_t s = 0; s < test_.lengths.size(); ++s) {
      for (int64_t head = 0; head < test_.num_kv_heads; ++head) {
        int64_t first = test_.shift + static_cast<int64_t>(s) * slot_stride() + head * head_stride();
        for (int64_t i = 0; i < test_.lengths[s].keys * test_.head_dim; ++i)
          cache.host()[static_cast<size_t>(first + i)] = static_cast<T>(normal(generator));
      }
    }
    cache.send();
  }

  void run(const Side& side) {
    std::vector<AttentionSequence> sequences;
    int64_t row = 0;
    for (size_t s = 0; s < test_.lengths.size(); ++s) {
      int64_t slot = test_.shift + static_cast<int64_t>(s) * slot_stride();
      sequences.push_back({.query_begin = row,
                           .query_count = test_.lengths[s].queries,
                           .key_count = test_.lengths[s].keys,
                           .keys = keys_.on(side) + slot,
                           .values = values_.on(side) + slot,
                           .key_token_stride = test_.head_dim,
                           .key_head_stride = head_stride(),
                           .visible_keys = test_.has_visible_keys ? visible_[s].data() : nullptr,
                           .bias_origin = 8});
      row += test_.lengths[s].queries;
    }
    side.kernels().attention.forward(
        {.q = q_.on(side),
         .out = out_.on(side),
         .log_sum_exp = test_.has_log_sum_exp ? log_sum_exp_.on(side) : nullptr,
         .sequences = sequences,
         .num_heads = test_.num_heads,
         .num_kv_heads = test_.num_kv_heads,
         .head_dim = test_.head_dim,
         .mask = test_.mask,
         .bias = {.values = test_.has_bias ? bias_.on(side) : nullptr, .stride = bias_stride()},
         .dtype = DTypeOf<T>::value},
        side.stream);
  }

  Case test_;
  int64_t capacity_, rows_;
  Twin<T> q_, out_, keys_, values_;
  Twin<float> log_sum_exp_, bias_;
  std::vector<std::vector<int32_t>> visible_;
};

template <typename T>
class CudaAttentionSplit : public ::testing::Test {
 protected:
  void check(const std::vector<Case>& cases) {
    for (Case test : cases) {
      SCOPED_TRACE(describe(test));
      if (test.mask.scale == 1) test.mask.scale = 1 / std::sqrt(static_cast<float>(test.head_dim));
      Problem<T>(test).run_and_compare();
    }
  }
};
TYPED_TEST_SUITE(CudaAttentionSplit, CudaDTypes);

std::vector<Length> single_queries(std::initializer_list<int64_t> keys) {
  std::vector<Length> lengths;
  for (int64_t count : keys) lengths.push_back({1, count});
  return lengths;
}

TYPED_TEST(CudaAttentionSplit, one_query_of_every_head_dim) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (int64_t head_dim : {1, 8, 20, 33, 40, 64, 72, 80, 96, 100, 127, 128, 160, 192, 250, 256}) {
    cases.push_back(
        {.lengths = single_queries({1, 17, 64, 300}), .num_heads = 4, .num_kv_heads = 2, .head_dim = head_dim});
  }
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, query_heads_of_a_key_head_from_one_to_seventy_one) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (int64_t group : {1, 2, 3, 4, 5, 8, 9, 16, 17, 71}) {
    for (int64_t num_kv_heads : {1, 3}) {
      cases.push_back({.lengths = single_queries({5, 129, 260}),
                       .num_heads = group * num_kv_heads,
                       .num_kv_heads = num_kv_heads,
                       .head_dim = 64});
    }
  }
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, contexts_from_one_block_to_a_second_launch) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (int64_t keys : {1, 63, 64, 65, 128, 500, 511, 1025, 4096, 4097, 9001, 30000}) {
    cases.push_back({.lengths = single_queries({keys}), .num_heads = 4, .num_kv_heads = 1, .head_dim = 128});
  }
  cases.push_back({.lengths = single_queries({3000}), .num_heads = 12, .num_kv_heads = 3, .head_dim = 256});
  cases.push_back({.lengths = single_queries({9000}), .num_heads = 16, .num_kv_heads = 1, .head_dim = 256});
  cases.push_back({.lengths = single_queries({9000}), .num_heads = 40, .num_kv_heads = 2, .head_dim = 72});
  cases.push_back({.lengths = single_queries({20000, 70, 1, 5000}), .num_heads = 2, .num_kv_heads = 2, .head_dim = 64});
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, several_queries_see_their_own_keys) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (int64_t queries = 2; queries <= 8; ++queries) {
    cases.push_back({.lengths = {{queries, queries}, {queries, 64 + queries}, {1, 90}, {queries, 333}},
                     .num_heads = 6,
                     .num_kv_heads = 2,
                     .head_dim = 64});
  }
  cases.push_back({.lengths = {{8, 10000}}, .num_heads = 8, .num_kv_heads = 1, .head_dim = 128});
  cases.push_back({.lengths = {{8, 300}, {3, 77}}, .num_heads = 32, .num_kv_heads = 4, .head_dim = 80});
  cases.push_back(
      {.lengths = {{3, 40}, {1, 7}}, .num_heads = 4, .num_kv_heads = 4, .head_dim = 64, .mask = {.causal = false}});
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, windows_and_caps) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (int64_t window : {1, 5, 64, 700, 100000}) {
    for (float cap : {0.0f, 2.0f}) {
      cases.push_back({.lengths = {{1, 3}, {1, 900}, {4, 800}, {8, 8}, {2, 5000}},
                       .num_heads = 4,
                       .num_kv_heads = 2,
                       .head_dim = 128,
                       .mask = {.soft_cap = cap, .window = window}});
    }
  }
  cases.push_back({.lengths = {{1, 500}, {3, 100}},
                   .num_heads = 4,
                   .num_kv_heads = 4,
                   .head_dim = 40,
                   .mask = {.scale = -0.2f, .window = 30, .causal = false}});
  cases.push_back({.lengths = single_queries({6000}),
                   .num_heads = 4,
                   .num_kv_heads = 1,
                   .head_dim = 256,
                   .mask = {.scale = 0.5f, .soft_cap = 30, .window = 4000}});
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, biases_by_distance) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (bool causal : {true, false}) {
    cases.push_back({.lengths = {{1, 700}, {5, 200}, {8, 8}},
                     .num_heads = 6,
                     .num_kv_heads = 3,
                     .head_dim = 64,
                     .mask = {.scale = 0.7f, .causal = causal},
                     .has_bias = true});
    cases.push_back({.lengths = {{1, 9000}, {3, 4}},
                     .num_heads = 2,
                     .num_kv_heads = 2,
                     .head_dim = 33,
                     .mask = {.soft_cap = 3, .causal = causal},
                     .has_bias = true});
  }
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, visible_keys_replace_the_mask) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (int64_t head_dim : {64, 50}) {
    cases.push_back({.lengths = {{8, 100}, {1, 30}, {4, 4}, {7, 3000}},
                     .num_heads = 4,
                     .num_kv_heads = 2,
                     .head_dim = head_dim,
                     .mask = {.window = 10},
                     .has_visible_keys = true});
  }
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, more_sequences_than_fit_the_parameters) {
  WEFT_NEEDS_GPU();
  for (int64_t count : {31, 32, 33, 300}) {
    Case test{.lengths = {}, .num_heads = 8, .num_kv_heads = 2, .head_dim = 64};
    for (int64_t i = 0; i < count; ++i) test.lengths.push_back({1 + i % 3 / 2, 3 + i * 37 % 190});
    this->check({test});
  }
}

TYPED_TEST(CudaAttentionSplit, odd_addresses_and_no_log_sum_exp) {
  WEFT_NEEDS_GPU();
  std::vector<Case> cases;
  for (int64_t shift : {1, 2, 4}) {
    cases.push_back({.lengths = {{1, 700}, {2, 90}},
                     .num_heads = 8,
                     .num_kv_heads = 1,
                     .head_dim = 128,
                     .has_log_sum_exp = false,
                     .shift = shift});
  }
  this->check(cases);
}

TYPED_TEST(CudaAttentionSplit, no_queries_do_nothing) {
  WEFT_NEEDS_GPU();
  for (bool is_empty : {true, false}) {
    std::vector<AttentionSequence> sequences(is_empty ? 0 : 2);
    Twin<TypeParam> out = Twin<TypeParam>::constant(64, 7);
    on_both([&](const Side& side) {
      side.kernels().attention.forward({.q = out.on(side),
                                        .out = out.on(side),
                                        .sequences = sequences,
                                        .num_heads = 1,
                                        .num_kv_heads = 1,
                                        .head_dim = 64,
                                        .mask = {},
                                        .dtype = DTypeOf<TypeParam>::value},
                                       side.stream);
    });
    expect_same(out, 0, 0);
  }
}

}  // namespace
}  // namespace weft
