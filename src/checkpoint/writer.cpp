#include "checkpoint/writer.h"

#include <algorithm>

#include "checkpoint/keras_hdf5_writer.h"
#include "checkpoint/tensorflow_bundle.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr int64_t kPieceElements = 64 << 10;

class SafetensorsCheckpoint final : public CheckpointWriter {
 public:
  SafetensorsCheckpoint(const std::string& folder, const std::vector<OutputTensor>& tensors)
      : layout_(std::make_shared<const SafetensorsLayout>("model", tensors)) {
    create_safetensors(folder, *layout_);
    writer_ = std::make_unique<SafetensorsWriter>(folder, layout_);
  }
  void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) override {
    writer_->write_run(name, first, count, values, dtype);
  }
  void finish() override { writer_->sync(); }

 private:
  std::shared_ptr<const SafetensorsLayout> layout_;
  std::unique_ptr<SafetensorsWriter> writer_;
};

}  // namespace

std::unique_ptr<CheckpointWriter> make_safetensors_writer(const std::string& folder,
                                                          const std::vector<OutputTensor>& tensors) {
  return std::make_unique<SafetensorsCheckpoint>(folder, tensors);
}

std::unique_ptr<CheckpointWriter> make_checkpoint_writer(std::string_view format,
                                                         const std::string& folder,
                                                         const std::vector<OutputTensor>& tensors) {
  if (format == "safetensors") return make_safetensors_writer(folder, tensors);
  if (format == "keras_hdf5") return make_keras_hdf5_writer(folder + "/model.weights.h5", tensors);
  WEFT_ASSERT(format == "tensorflow", "{} cannot be written", format);
  return make_tensorflow_writer(folder + "/model.ckpt", tensors);
}

void for_each_converted(const void* values,
                        DType dtype,
                        int64_t count,
                        DType to,
                        const std::function<void(int64_t at, const void* piece, int64_t size)>& take) {
  if (dtype == to) return take(0, values, count);
  std::vector<std::byte> converted(static_cast<size_t>(std::min(count, kPieceElements)) * dtype_bytes(to));
  for (int64_t at = 0; at < count; at += kPieceElements) {
    int64_t size = std::min(kPieceElements, count - at);
    const auto* source = static_cast<const std::byte*>(values) + static_cast<size_t>(at) * dtype_bytes(dtype);
    convert_dtype(source, dtype, converted.data(), to, size);
    take(at, converted.data(), size);
  }
}

}  // namespace weft
