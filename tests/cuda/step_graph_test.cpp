// Steps that run as graphs give what they give without, whatever changes from step to step.
#include <stdexcept>

#include "cuda/cuda_test.h"
#include "kernels/cuda/device.h"

namespace weft {
namespace {

constexpr int64_t kWidth = 256, kRows = 50;

/// y = relu(norm(table[ids]) · weightᵀ + bias): launches of which the first changes from step to step. Few rows are
/// multiplied by a kernel of ours, more by cuBLASLt.
class Step {
 public:
  Step()
      : table_(Twin<bfloat16>::random(kRows * kWidth, 1)),
        weight_(Twin<bfloat16>::random(kWidth * kWidth, 2, 0.1f)),
        scale_(Twin<bfloat16>::constant(kWidth, 1)),
        bias_(Twin<bfloat16>::random(kWidth, 3)),
        stream_{.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()} {}

  void run(const std::vector<int32_t>& ids) {
    Side side{DeviceType::cuda, stream_};
    auto rows = static_cast<int64_t>(ids.size());
    Tensor x = Tensor::empty(gpu(), {rows, kWidth}, DType::bf16), normed = Tensor::empty(gpu(), x.shape(), x.dtype());
    y_ = Tensor::empty(gpu(), {rows, kWidth}, DType::f32);
    const KernelTable& table = side.kernels();
    table.embedding.forward({.table = table_.on(side),
                             .ids = ids.data(),
                             .y = x.raw(),
                             .num_ids = rows,
                             .width = kWidth,
                             .rows = kRows,
                             .dtype = DType::bf16},
                            stream_);
    table.rms_norm.forward({.x = x.raw(),
                            .weight = scale_.on(side),
                            .y = normed.raw(),
                            .rows = rows,
                            .width = kWidth,
                            .dtype = DType::bf16},
                           stream_);
    LinearWeight weight{.weight = weight_.on(side), .bias = bias_.on(side), .y = y_.raw(), .out_features = kWidth};
    table.linear.forward({.x = normed.raw(),
                          .weights = {&weight, 1},
                          .rows = rows,
                          .in_features = kWidth,
                          .dtype = DType::bf16,
                          .y_dtype = DType::f32,
                          .activation = Activation::relu},
                         stream_);
  }

  std::vector<float> result() const { return to_floats(y_); }

 private:
  Twin<bfloat16> table_, weight_, scale_, bias_;
  Stream stream_;
  Tensor y_;
};

std::vector<int32_t> ids_of(int step, int64_t rows) {
  std::vector<int32_t> ids;
  for (int64_t row = 0; row < rows; ++row) ids.push_back(static_cast<int32_t>((7 * step + 3 * row) % kRows));
  return ids;
}

cuda::StepGraphs::Counts counts(uint64_t key) {
  return static_cast<cuda::CudaDevice&>(*gpu()).graphs().counts(key);
}

TEST(StepGraph, GivesTheSameAsTheStepItself) {
  WEFT_NEEDS_GPU();
  for (int64_t rows : {2, 16, 24, 50}) {
    Step step;
    uint64_t key = 110 + static_cast<uint64_t>(rows);
    for (int i = 0; i < 8; ++i) {
      step.run(ids_of(i, rows));
      std::vector<float> expected = step.result();
      gpu()->run_step(key, [&] { step.run(ids_of(i, rows)); });
      EXPECT_EQ(step.result(), expected) << "step " << i << ", rows " << rows;
    }
    // Of six steps that may be a graph's one or two are captured.
    EXPECT_GE(counts(key).replays, 4) << "rows " << rows;
  }
}

TEST(StepGraph, IsCapturedAgainWhereTheStepBecomesAnother) {
  WEFT_NEEDS_GPU();
  Step step;
  for (int i = 0; i < 12; ++i) {
    int64_t rows = i < 6 ? 1 : 3;
    step.run(ids_of(i, rows));
    std::vector<float> expected = step.result();
    gpu()->run_step(102, [&] { step.run(ids_of(i, rows)); });
    EXPECT_EQ(step.result(), expected) << "step " << i;
  }
}

TEST(StepGraph, IsGivenUpWhereNoStepIsLikeTheOneBefore) {
  WEFT_NEEDS_GPU();
  Step step;
  for (int i = 0; i < 30; ++i) {
    int64_t rows = 1 + i % 3 * 9;
    step.run(ids_of(i, rows));
    std::vector<float> expected = step.result();
    gpu()->run_step(104, [&] { step.run(ids_of(i, rows)); });
    EXPECT_EQ(step.result(), expected) << "step " << i;
  }
  EXPECT_EQ(counts(104).records, 8);
  EXPECT_EQ(counts(104).replays, 0);
}

TEST(StepGraph, AStepThatReadsItsResultRunsWithoutOne) {
  WEFT_NEEDS_GPU();
  Step step;
  for (int i = 0; i < 5; ++i) {
    step.run(ids_of(i, 1));
    std::vector<float> expected = step.result(), inside;
    gpu()->run_step(103, [&] {
      step.run(ids_of(i, 1));
      inside = step.result();
    });
    EXPECT_EQ(inside, expected) << "step " << i;
  }
  EXPECT_EQ(counts(103).records, 0);
}

TEST(StepGraph, AStepThatFailsInACaptureRunsWithoutOne) {
  WEFT_NEEDS_GPU();
  Step step;
  for (int i = 0; i < 5; ++i) {
    step.run(ids_of(i, 2));
    std::vector<float> expected = step.result();
    int calls = 0;
    gpu()->run_step(105, [&] {
      step.run(ids_of(i, 2));
      bool is_capture = static_cast<cuda::CudaDevice&>(*gpu()).graphs().is_recording();
      if (++calls == 1 && is_capture) throw std::runtime_error("not in a graph");
    });
    EXPECT_EQ(step.result(), expected) << "step " << i;
  }
  EXPECT_EQ(counts(105).records, 0);
}

}  // namespace
}  // namespace weft
