#include "kernels/cpu/onednn_matmul.h"

#if defined(_OPENMP)
#include <omp.h>

#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

namespace weft {
namespace {

using dnnl::memory;

/// oneDNN asks OpenMP how many threads to use, both when it plans a product and when it runs it.
class ThreadLimit {
 public:
  explicit ThreadLimit(int num_threads) : previous_(omp_get_max_threads()) { omp_set_num_threads(num_threads); }
  ~ThreadLimit() { omp_set_num_threads(previous_); }
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;

 private:
  int previous_;
};

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::desc describe(int64_t rows, int64_t columns, const MatrixView& view) {
  return {{rows, columns}, memory::data_type::f32, memory::dims{view.row_stride, view.column_stride}};
}

struct Plan {
  memory::desc a, b, bias, c;
  dnnl::matmul matmul;
};

Plan make_plan(const MatrixProduct& product) {
  Plan plan;
  plan.a = describe(product.m, product.k, product.a);
  plan.b = describe(product.k, product.n, product.b);
  plan.c = describe(product.m, product.n, {.row_stride = product.n, .column_stride = 1});
  dnnl::primitive_attr attributes;
  dnnl::post_ops behind;
  if (product.accumulate) behind.append_sum();
  attributes.set_post_ops(behind);
  if (product.bias != nullptr) {
    plan.bias = {{1, product.n}, memory::data_type::f32, memory::format_tag::ab};
    plan.matmul = dnnl::matmul({{plan.a, plan.b, plan.bias, plan.c}, attributes, cpu_engine()});
  } else {
    plan.matmul = dnnl::matmul({{plan.a, plan.b, plan.c}, attributes, cpu_engine()});
  }
  return plan;
}

/// Planning takes longer than a small product. Shapes repeat from layer to layer, but their number has no bound (the
/// rows are a prompt's tokens), so that a full cache starts anew. A cache a thread: Debian's oneDNN ties the scratch
/// memory of a primitive to the thread that made it, so that ranks that are threads must not share one.
Plan cached_plan(const MatrixProduct& product, int num_threads) {
  using Key = std::array<int64_t, 10>;
  constexpr size_t kMaxPlans = 256;
  static thread_local std::map<Key, Plan> plans;
  Key key = {product.m,
             product.n,
             product.k,
             product.a.row_stride,
             product.a.column_stride,
             product.b.row_stride,
             product.b.column_stride,
             product.bias != nullptr,
             product.accumulate,
             num_threads};
  auto found = plans.find(key);
  if (found != plans.end()) return found->second;
  if (plans.size() >= kMaxPlans) plans.clear();
  return plans.emplace(key, make_plan(product)).first->second;
}

memory wrap(const memory::desc& description, const float* data) {
  return memory(description, cpu_engine(), const_cast<float*>(data));
}

}  // namespace

void onednn_matmul(const MatrixProduct& product, int num_threads) {
  ThreadLimit limit(num_threads);
  Plan plan = cached_plan(product, num_threads);
  std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, wrap(plan.a, product.a.data)},
                                               {DNNL_ARG_WEIGHTS, wrap(plan.b, product.b.data)},
                                               {DNNL_ARG_DST, wrap(plan.c, product.c)}};
  if (product.bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, wrap(plan.bias, product.bias));
  dnnl::stream stream(cpu_engine());
  plan.matmul.execute(stream, arguments);
  stream.wait();
}

}  // namespace weft
#endif
