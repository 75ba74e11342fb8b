#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>

#include "core/error.h"
#include "kernels/cuda/attention_cudnn.h"
#include "kernels/cuda/device.h"

namespace weft::cuda {
namespace {

AttentionChoice read_choice() {
  const char* value = std::getenv("WEFT_ATTENTION");
  if (value == nullptr || *value == '\0') return AttentionChoice::own;
  std::string_view word = value;
  if (word == "own") return AttentionChoice::own;
  if (word == "cudnn") return AttentionChoice::cudnn;
  if (word == "cudnn_deterministic") return AttentionChoice::cudnn_deterministic;
  fail(ExitCode::usage, "WEFT_ATTENTION={}: expected own, cudnn or cudnn_deterministic", printable(word));
}

CudnnAttention* chosen(CudaDevice& device) {
  if (attention_choice() == AttentionChoice::own) return nullptr;
  if (device.graphs().is_recording() || device.graphs().is_replaying()) return nullptr;
  CudnnAttention& cudnn = cudnn_attention(device);
  if (cudnn.is_available()) return &cudnn;
  fail(ExitCode::failure, "WEFT_ATTENTION asks for cuDNN: {}", cudnn.reason());
}

}  // namespace

AttentionChoice attention_choice() {
  static const AttentionChoice choice = read_choice();
  return choice;
}

CudnnAttention& cudnn_attention(CudaDevice& device) {
  static std::mutex mutex;
  static std::map<int, CudnnAttention*>& by_gpu = *new std::map<int, CudnnAttention*>;
  std::lock_guard lock(mutex);
  device.make_current();
  CudnnAttention*& one = by_gpu[device.device().index];
  if (one == nullptr) one = new CudnnAttention;
  return *one;
}

bool attention_forward_chosen(const AttentionForwardArgs& args, CudaDevice& device) {
  CudnnAttention* cudnn = chosen(device);
  return cudnn != nullptr && cudnn->forward(args, device);
}

bool attention_backward_chosen(const AttentionBackwardArgs& args, CudaDevice& device) {
  CudnnAttention* cudnn = chosen(device);
  return cudnn != nullptr && cudnn->backward(args, attention_choice() == AttentionChoice::cudnn_deterministic, device);
}

}  // namespace weft::cuda
