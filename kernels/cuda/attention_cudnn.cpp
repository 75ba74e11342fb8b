// cuDNN's graphs for attention, built by its frontend's headers (NVIDIA/cudnn-frontend, Attention). The frontend's own
// exceptions and errors end here: a call that it cannot do is one for our own kernels.
#include "kernels/cuda/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <map>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "kernels/cuda/attention_batch.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/cudnn_library.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/elementwise_parts.h"

namespace weft::cuda {
namespace {

namespace frontend = cudnn_frontend;
using frontend::graph::Graph;
using Attributes = frontend::graph::Tensor_attributes;
using TensorPointer = std::shared_ptr<Attributes>;

/// Plans are kept for so many shapes; prompts of every length would otherwise pile up without end.
constexpr size_t kMaxPlans = 256;

/// The tensors' numbers, by which a graph is handed their addresses.
constexpr int64_t kQ = 1, kK = 2, kV = 3, kOut = 4, kStatistics = 5, kDOut = 6, kDQ = 7, kDK = 8, kDV = 9;

enum class Pass : uint8_t { forward, forward_with_statistics, backward, deterministic_backward };

struct PlanKey {
  Pass pass = Pass::forward;
  AttentionBatchShape shape;
  auto operator<=>(const PlanKey&) const = default;
};

/// Throws std::runtime_error with the frontend's words.
void expect_good(frontend::error_t status, const char* what) {
  if (!status.is_good()) throw std::runtime_error(fmt::format("{}: {}", what, status.get_message()));
}

/// The tensors of one pass and what its attributes say, in cuDNN's order of dimensions: batch, head, token, element.
class GraphBuilder {
 public:
  explicit GraphBuilder(const PlanKey& key) : key_(key), shape_(key_.shape), graph_(std::make_shared<Graph>()) {
    graph_->set_io_data_type(frontend::DataType_t::BFLOAT16)
        .set_intermediate_data_type(frontend::DataType_t::FLOAT)
        .set_compute_data_type(frontend::DataType_t::FLOAT);
  }

  std::shared_ptr<Graph> build() {
    if (key_.pass == Pass::forward || key_.pass == Pass::forward_with_statistics) {
      build_forward();
    } else {
      build_backward();
    }
    return graph_;
  }

 private:
  using Numbers = std::vector<int64_t>;

  Numbers query_sizes() const { return {shape_.batch, shape_.num_heads, shape_.query_count, shape_.head_dim}; }
  Numbers query_strides() const {
    int64_t row = shape_.num_heads * shape_.head_dim;
    return {shape_.query_step * row, shape_.head_dim, row, 1};
  }
  Numbers key_sizes() const { return {shape_.batch, shape_.num_kv_heads, shape_.key_count, shape_.head_dim}; }
  Numbers key_strides() const { return {shape_.key_batch_stride, shape_.key_head_stride, shape_.key_token_stride, 1}; }
  /// Head by head, the layout in which every one of cuDNN's kernels has them.
  Numbers statistics_sizes() const { return {shape_.batch, shape_.num_heads, shape_.query_count, 1}; }
  Numbers statistics_strides() const { return {shape_.num_heads * shape_.query_count, shape_.query_count, 1, 1}; }

  TensorPointer input(int64_t id, const char* name, const Numbers& sizes, const Numbers& strides) {
    Attributes tensor;
    tensor.set_name(name).set_uid(id).set_dim(sizes).set_stride(strides);
    if (id == kStatistics) tensor.set_data_type(frontend::DataType_t::FLOAT);
    return graph_->tensor(tensor);
  }
  TensorPointer query_input(int64_t id, const char* name) { return input(id, name, query_sizes(), query_strides()); }
  TensorPointer key_input(int64_t id, const char* name) { return input(id, name, key_sizes(), key_strides()); }
  static void output(const TensorPointer& tensor, int64_t id, const Numbers& sizes, const Numbers& strides) {
    tensor->set_output(true).set_uid(id).set_dim(sizes).set_stride(strides);
  }

  frontend::DiagonalAlignment_t alignment() const {
    return shape_.query_count == shape_.key_count ? frontend::DiagonalAlignment_t::TOP_LEFT
                                                  : frontend::DiagonalAlignment_t::BOTTOM_RIGHT;
  }
  bool has_diagonal() const { return shape_.causal || shape_.window > 0; }

  /// The frontend keeps the keys for which query - key < left bound, and those for which key - query <= right bound.
  template <typename Options>
  void set_mask(Options& options) {
    options.set_attn_scale(shape_.scale);
    if (shape_.soft_cap > 0) return set_soft_cap(options);
    if (!has_diagonal()) return;
    options.set_diagonal_alignment(alignment());
    if (shape_.causal) options.set_diagonal_band_right_bound(0);
    if (shape_.window > 0) options.set_diagonal_band_left_bound(shape_.window);
  }

  /// A modifier of scores stands in place of all masks, so that it has to bring them.
  template <typename Options>
  void set_soft_cap(Options& options) {
    auto soft_cap = std::make_shared<frontend::graph::attn::score_modifiers::Softcap>();
    TensorPointer cap = graph_->tensor(shape_.soft_cap);
    options.set_score_mod([=, this_alignment = alignment(), masked = has_diagonal(), shape = shape_](
                              const std::shared_ptr<Graph>& graph, const TensorPointer& score) {
      TensorPointer capped = soft_cap->forward(graph, score, cap);
      if (!masked) return capped;
      std::optional<int64_t> left, right;
      if (shape.window > 0) left = shape.window;
      if (shape.causal) right = 0;
      return frontend::graph::attn::score_modifiers::sliding_window_mask(
          graph, capped, this_alignment, left, right, shape.query_count, shape.key_count, nullptr, nullptr);
    });
    if constexpr (std::is_same_v<Options, frontend::graph::SDPA_backward_attributes>) {
      options.set_score_mod_bprop([=](const std::shared_ptr<Graph>& graph, const TensorPointer& gradient) {
        return soft_cap->backward(graph, gradient, cap);
      });
    }
  }

  void build_forward() {
    TensorPointer q = query_input(kQ, "q"), k = key_input(kK, "k"), v = key_input(kV, "v");
    bool has_statistics = key_.pass == Pass::forward_with_statistics;
    frontend::graph::SDPA_attributes options;
    options.set_name("attention").set_generate_stats(has_statistics);
    set_mask(options);
    auto [out, statistics] = graph_->sdpa(q, k, v, options);
    output(out, kOut, query_sizes(), query_strides());
    if (!has_statistics) return;
    output(statistics, kStatistics, statistics_sizes(), statistics_strides());
    statistics->set_data_type(frontend::DataType_t::FLOAT);
  }

  void build_backward() {
    TensorPointer q = query_input(kQ, "q"), k = key_input(kK, "k"), v = key_input(kV, "v");
    TensorPointer out = query_input(kOut, "out"), dout = query_input(kDOut, "dout");
    TensorPointer statistics = input(kStatistics, "statistics", statistics_sizes(), statistics_strides());
    frontend::graph::SDPA_backward_attributes options;
    options.set_name("attention_backward").set_deterministic_algorithm(key_.pass == Pass::deterministic_backward);
    set_mask(options);
    auto [dq, dk, dv] = graph_->sdpa_backward(q, k, v, out, dout, statistics, options);
    output(dq, kDQ, query_sizes(), query_strides());
    output(dk, kDK, key_sizes(), key_strides());
    output(dv, kDV, key_sizes(), key_strides());
  }

  const PlanKey key_;
  const AttentionBatchShape& shape_;
  std::shared_ptr<Graph> graph_;
};

using Pointers = std::unordered_map<int64_t, void*>;

/// The base of a batch's rows in an array [T, heads, elements].
void* rows_of(const void* array, const AttentionBatch& batch) {
  int64_t row = batch.shape.num_heads * batch.shape.head_dim;
  return static_cast<char*>(const_cast<void*>(array)) + batch.query_begin * row * 2;
}

}  // namespace

class CudnnAttention::Implementation {
 public:
  Implementation() : reason_(cudnn_library().reason) {
    if (cudnn_library().handle == nullptr) return;
    try {
      if (frontend::detail::create_handle(&handle_) == CUDNN_STATUS_SUCCESS) return;
      reason_ = "cuDNN cannot be started on this GPU";
    } catch (const std::exception& error) {
      reason_ = fmt::format("cuDNN cannot be started: {}", printable(error.what(), 300));
    }
    handle_ = nullptr;
  }

  Implementation(const Implementation&) = delete;
  Implementation& operator=(const Implementation&) = delete;

  bool is_available() const { return handle_ != nullptr; }
  std::string reason() const {
    std::lock_guard lock(mutex_);
    return reason_;
  }

  bool forward(const AttentionForwardArgs& args, CudaDevice& device) {
    AttentionBatch batch;
    if (!is_available() || !takes(find_batch(args, batch))) return false;
    bool has_statistics = args.log_sum_exp != nullptr;
    DeviceBuffer<float> statistics(device, has_statistics ? num_statistics(batch) : 1);
    Pointers pointers = {{kQ, rows_of(args.q, batch)},
                         {kK, const_cast<void*>(batch.keys)},
                         {kV, const_cast<void*>(batch.values)},
                         {kOut, rows_of(args.out, batch)}};
    if (has_statistics) pointers[kStatistics] = statistics.data();
    Pass pass = has_statistics ? Pass::forward_with_statistics : Pass::forward;
    if (!run({.pass = pass, .shape = batch.shape}, pointers, device)) return false;
    if (has_statistics) copy_statistics(batch, statistics.data(), static_cast<float*>(args.log_sum_exp), true, device);
    return true;
  }

  bool backward(const AttentionBackwardArgs& args, bool is_deterministic, CudaDevice& device) {
    AttentionBatch batch;
    if (!is_available() || !takes(find_batch(args, batch))) return false;
    PlanKey key{.pass = is_deterministic ? Pass::deterministic_backward : Pass::backward, .shape = batch.shape};
    DeviceBuffer<float> statistics(device, num_statistics(batch));
    // Ours are only read.
    auto* log_sum_exp = static_cast<float*>(const_cast<void*>(args.log_sum_exp));
    copy_statistics(batch, statistics.data(), log_sum_exp, false, device);
    Pointers pointers = {{kQ, rows_of(args.q, batch)},
                         {kK, const_cast<void*>(args.k)},
                         {kV, const_cast<void*>(args.v)},
                         {kOut, rows_of(args.out, batch)},
                         {kDOut, rows_of(args.dout, batch)},
                         {kStatistics, statistics.data()},
                         {kDQ, rows_of(args.dq, batch)},
                         {kDK, args.dk},
                         {kDV, args.dv}};
    return run(key, pointers, device);
  }

 private:
  /// A graph that is ready to run; one without was tried and cannot be.
  struct Plan {
    std::shared_ptr<Graph> graph;
    int64_t workspace_bytes = 0;
    std::string reason;
  };

  bool takes(const char* obstacle) {
    std::lock_guard lock(mutex_);
    if (obstacle != nullptr) reason_ = fmt::format("cuDNN is not asked for {}", obstacle);
    return obstacle == nullptr;
  }

  static int64_t num_statistics(const AttentionBatch& batch) {
    return batch.shape.batch * batch.shape.num_heads * batch.shape.query_count;
  }

  /// Between cuDNN's order of a batch's log-sum-exps, head by head, and ours, row by row.
  static void copy_statistics(
      const AttentionBatch& batch, float* of_heads, float* of_rows, bool is_from_heads, CudaDevice& device) {
    int64_t heads = batch.shape.num_heads, queries = batch.shape.query_count;
    Stream stream{.device = device.device(), .num_threads = 1, .workspace = &device};
    for (int64_t b = 0; b < batch.shape.batch; ++b) {
      float* heads_first = of_heads + b * heads * queries;
      float* rows_first = of_rows + (batch.query_begin + b * batch.shape.query_step) * heads;
      if (is_from_heads) {
        transpose({.x = heads_first, .y = rows_first, .rows = heads, .columns = queries}, stream);
      } else {
        transpose({.x = rows_first, .y = heads_first, .rows = queries, .columns = heads}, stream);
      }
    }
  }

  bool run(const PlanKey& key, Pointers& pointers, CudaDevice& device) {
    std::lock_guard lock(mutex_);
    Plan& plan = plan_for(key, device);
    if (plan.graph != nullptr) {
      // At least a byte: there is no buffer of none.
      DeviceBuffer<std::byte> workspace(device, std::max<int64_t>(plan.workspace_bytes, 1));
      try {
        if (frontend::detail::set_stream(handle_, device.stream()) != CUDNN_STATUS_SUCCESS)
          throw std::runtime_error("the stream is refused");
        expect_good(plan.graph->execute(handle_, pointers, workspace.data()), "running");
        return true;
      } catch (const std::exception& error) {
        give_up(plan, error);
      }
    }
    reason_ = plan.reason;
    return false;
  }

  Plan& plan_for(const PlanKey& key, const CudaDevice& device) {
    auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    if (plans_.size() >= kMaxPlans) plans_.clear();
    Plan& plan = plans_[key];
    try {
      plan.graph = GraphBuilder(key).build();
      plan.graph->set_sm_version(device.architecture());
      expect_good(plan.graph->build(handle_, {frontend::HeurMode_t::A}), "planning");
      expect_good(plan.graph->get_workspace_size(plan.workspace_bytes), "planning");
    } catch (const std::exception& error) {
      give_up(plan, error);
    }
    return plan;
  }

  static void give_up(Plan& plan, const std::exception& error) {
    plan.graph = nullptr;
    plan.reason = fmt::format("cuDNN has no attention of this shape: {}", printable(error.what(), 300));
  }

  cudnnHandle_t handle_ = nullptr;
  std::string reason_;
  mutable std::mutex mutex_;
  std::map<PlanKey, Plan> plans_;
};

CudnnAttention::CudnnAttention() : implementation_(new Implementation) {}

bool CudnnAttention::is_available() const {
  return implementation_->is_available();
}

bool CudnnAttention::forward(const AttentionForwardArgs& args, CudaDevice& device) {
  return implementation_->forward(args, device);
}

bool CudnnAttention::backward(const AttentionBackwardArgs& args, bool is_deterministic, CudaDevice& device) {
  return implementation_->backward(args, is_deterministic, device);
}

std::string CudnnAttention::reason() const {
  return implementation_->reason();
}

}  // namespace weft::cuda
