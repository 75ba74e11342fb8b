#include "kernels/cuda/blas.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <array>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <type_traits>

#include "core/error.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/device.h"

namespace weft::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
/// Plans are kept for so many shapes; prompts of every length would otherwise pile up without end.
constexpr size_t kMaxPlans = 4096;
constexpr int kBiasAlignment = 16;

/// The library and the functions of it that are called here.
struct Library {
  void* handle = nullptr;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetStatusString) status_string = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) find_algorithm = nullptr;
  decltype(&cublasLtMatmulDescCreate) create_operation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
};

[[noreturn]] void fail_library(const std::string& reason) {
  fail(ExitCode::failure,
       "CUDA: libcublasLt.so.13 cannot be loaded: {}; install the CUDA Toolkit's cuBLAS or set LD_LIBRARY_PATH",
       reason);
}

void* open_library() {
  std::string reason;
  for (const char* name : {"libcublasLt.so.13",
                           "libcublasLt.so.12",
                           "libcublasLt.so",
                           "/usr/local/cuda/lib64/libcublasLt.so",
                           "/usr/local/cuda/lib/libcublasLt.so"}) {
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL); handle != nullptr) return handle;
    const char* error = dlerror();
    if (reason.empty()) reason = error != nullptr ? error : "unknown error";
  }
  fail_library(reason);
}

template <typename Function>
void find_symbol(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr) fail_library(std::string("it has no function ") + name);
}

/// Never closed: the driver's state of a process does not outlive an unloading well.
Library load_library() {
  Library library;
  void* handle = library.handle = open_library();
  find_symbol(handle, "cublasLtCreate", library.create);
  find_symbol(handle, "cublasLtDestroy", library.destroy);
  find_symbol(handle, "cublasLtGetStatusString", library.status_string);
  find_symbol(handle, "cublasLtMatmul", library.matmul);
  find_symbol(handle, "cublasLtMatmulAlgoGetHeuristic", library.find_algorithm);
  find_symbol(handle, "cublasLtMatmulDescCreate", library.create_operation);
  find_symbol(handle, "cublasLtMatmulDescDestroy", library.destroy_operation);
  find_symbol(handle, "cublasLtMatmulDescSetAttribute", library.set_operation);
  find_symbol(handle, "cublasLtMatrixLayoutCreate", library.create_layout);
  find_symbol(handle, "cublasLtMatrixLayoutDestroy", library.destroy_layout);
  find_symbol(handle, "cublasLtMatmulPreferenceCreate", library.create_preference);
  find_symbol(handle, "cublasLtMatmulPreferenceDestroy", library.destroy_preference);
  find_symbol(handle, "cublasLtMatmulPreferenceSetAttribute", library.set_preference);
  return library;
}

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::f32) return CUDA_R_32F;
  if (dtype == DType::bf16) return CUDA_R_16BF;
  fail_dtype("matrix product", dtype);
}

/// The largest power of two, up to what any kernel asks for, on which the pointer lies.
uint32_t alignment_of(const void* pointer) {
  constexpr uintptr_t kLargest = 256;
  auto address = reinterpret_cast<uintptr_t>(pointer) | kLargest;
  return static_cast<uint32_t>(address & (~address + 1));
}

/// All that the choice of an algorithm depends on.
struct PlanKey {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  DType dtype, c_dtype;
  bool accumulate, bias;
  uint32_t a_alignment, b_alignment, c_alignment;

  auto tied() const {
    return std::tie(
        m, n, k, transpose_a, transpose_b, dtype, c_dtype, accumulate, bias, a_alignment, b_alignment, c_alignment);
  }
  bool operator<(const PlanKey& other) const { return tied() < other.tied(); }
};

PlanKey key_of(const Product& product) {
  return {.m = product.m,
          .n = product.n,
          .k = product.k,
          .transpose_a = product.transpose_a,
          .transpose_b = product.transpose_b,
          .dtype = product.dtype,
          .c_dtype = product.c_dtype,
          .accumulate = product.accumulate,
          .bias = product.bias != nullptr,
          .a_alignment = alignment_of(product.a),
          .b_alignment = alignment_of(product.b),
          .c_alignment = alignment_of(product.c)};
}

/// All that a product is in a step that runs as a graph.
void note(const Product& product, StepGraphs& graphs) {
  auto address = [](const void* pointer) { return static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer)); };
  auto number = [](auto value) { return static_cast<uint64_t>(value); };
  const std::array<uint64_t, 12> values = {address(product.a),
                                           address(product.b),
                                           address(product.c),
                                           address(product.bias),
                                           number(product.m),
                                           number(product.n),
                                           number(product.k),
                                           number(product.transpose_a),
                                           number(product.transpose_b),
                                           number(product.dtype),
                                           number(product.c_dtype),
                                           number(product.accumulate)};
  graphs.note_value(values);
}

/// Descriptors and algorithm of one kind of product. cuBLASLt knows columns first, and a row-major matrix read so is
/// its transpose: it is asked for Cᵀ = op(B)ᵀ · op(A)ᵀ, so that its first operand is our b.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

}  // namespace

bool bias_fits(const Product& product) {
  return product.dtype == product.c_dtype && reinterpret_cast<uintptr_t>(product.bias) % kBiasAlignment == 0;
}

class BlasHandle::Implementation {
 public:
  Implementation() : library_(load_library()) {
    check_status(library_.create(&handle_), "cublasLtCreate");
    check(cudaMalloc(&workspace_, kWorkspaceBytes), "allocation of cuBLASLt's workspace");
  }

  ~Implementation() {
    forget_plans();
    cudaFree(workspace_);
    library_.destroy(handle_);
  }
  Implementation(const Implementation&) = delete;
  Implementation& operator=(const Implementation&) = delete;

  void multiply(const Product& product, CudaDevice& device) {
    StepGraphs& graphs = device.graphs();
    if (graphs.is_active()) note(product, graphs);
    if (graphs.is_replaying()) return;
    std::lock_guard lock(mutex_);
    if (!graphs.is_recording()) return launch(product, device);
    graphs.record_launches([&] { launch(product, device); });
  }

 private:
  void launch(const Product& product, CudaDevice& device) {
    const Plan& plan = plan_for(product);
    if (product.bias != nullptr) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
    float one = 1, beta = product.accumulate ? 1 : 0;
    check_status(library_.matmul(handle_,
                                 plan.operation,
                                 &one,
                                 product.b,
                                 plan.b,
                                 product.a,
                                 plan.a,
                                 &beta,
                                 product.c,
                                 plan.c,
                                 product.c,
                                 plan.c,
                                 &plan.algorithm,
                                 workspace_,
                                 kWorkspaceBytes,
                                 device.stream()),
                 "cublasLtMatmul");
  }

  void check_status(cublasStatus_t status, const char* what) const {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    fail(ExitCode::failure, "CUDA: {} failed: {}", what, library_.status_string(status));
  }

  template <typename Value>
  void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const Value& value) const {
    check_status(library_.set_operation(operation, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  }
  template <typename Value>
  void set(cublasLtMatmulPreference_t preference,
           cublasLtMatmulPreferenceAttributes_t attribute,
           const Value& value) const {
    check_status(library_.set_preference(preference, attribute, &value, sizeof(value)),
                 "cublasLtMatmulPreferenceSetAttribute");
  }

  const Plan& plan_for(const Product& product) {
    PlanKey key = key_of(product);
    auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    if (plans_.size() >= kMaxPlans) forget_plans();
    Plan plan;
    try {
      describe(product, plan);
      choose_algorithm(key, product, plan);
    } catch (...) {
      destroy(plan);
      throw;
    }
    return plans_.emplace(key, plan).first->second;
  }

  void describe(const Product& product, Plan& plan) {
    check_status(library_.create_operation(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate");
    cublasOperation_t first = product.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = product.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, first);
    set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, second);
    if (product.bias != nullptr) {
      cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
    }
    plan.a =
        layout(product.dtype, product.transpose_a ? product.k : product.m, product.transpose_a ? product.m : product.k);
    plan.b =
        layout(product.dtype, product.transpose_b ? product.n : product.k, product.transpose_b ? product.k : product.n);
    plan.c = layout(product.c_dtype, product.m, product.n);
  }

  /// A row-major matrix [rows, columns], which has `columns` rows in the eyes of cuBLASLt.
  cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns) const {
    cublasLtMatrixLayout_t layout = nullptr;
    check_status(library_.create_layout(
                     &layout, data_type(dtype), static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), columns),
                 "cublasLtMatrixLayoutCreate");
    return layout;
  }

  void choose_algorithm(const PlanKey& key, const Product& product, Plan& plan) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_status(library_.create_preference(&preference), "cublasLtMatmulPreferenceCreate");
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, decltype(library_.destroy_preference)> owner(
        preference, library_.destroy_preference);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment);
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    // Sums that are split should be joined in f32, not in a bf16 result, and always in the same order.
    for (cublasLtReductionScheme_t mask : {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_MASK}) {
      set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(mask));
      cublasLtMatmulHeuristicResult_t result{};
      int count = 0;
      status = library_.find_algorithm(
          handle_, plan.operation, plan.b, plan.a, plan.c, plan.c, preference, 1, &result, &count);
      if (status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS) {
        plan.algorithm = result.algo;
        return;
      }
    }
    fail(ExitCode::failure,
         "CUDA: cuBLASLt has no algorithm for the product [{}, {}] x [{}, {}] in {}: {}",
         product.m,
         product.k,
         product.k,
         product.n,
         dtype_name(product.dtype),
         library_.status_string(status == CUBLAS_STATUS_SUCCESS ? CUBLAS_STATUS_NOT_SUPPORTED : status));
  }

  void destroy(const Plan& plan) const {
    for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.c}) {
      if (layout != nullptr) library_.destroy_layout(layout);
    }
    if (plan.operation != nullptr) library_.destroy_operation(plan.operation);
  }
  void forget_plans() {
    for (const auto& [key, plan] : plans_) destroy(plan);
    plans_.clear();
  }

  Library library_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::mutex mutex_;
  std::map<PlanKey, Plan> plans_;
};

BlasHandle::BlasHandle() : implementation_(std::make_unique<Implementation>()) {}
BlasHandle::~BlasHandle() = default;

void BlasHandle::multiply(const Product& product, CudaDevice& device) {
  implementation_->multiply(product, device);
}

}  // namespace weft::cuda
