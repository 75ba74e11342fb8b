#include "kernels/cuda/step_graph.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "kernels/cuda/check.h"

namespace weft::cuda {
namespace {

constexpr size_t kVaryingBytes = size_t{4} << 20;
/// Before a step is captured it has run so often: buffers have found their places, libraries are loaded.
constexpr int kRunsBefore = 2;
/// A step that is captured more often than a few times has to be replayed so often for each, else captures cost more
/// than they save.
constexpr int kFewRecords = 8, kReplaysOfRecord = 4;
/// Kinds of steps that are graphs at a time, each of which takes some of the device's memory.
constexpr int kMostGraphs = 256;

size_t count_kernels(cudaGraph_t graph) {
  size_t count = 0;
  if (cudaGraphGetNodes(graph, nullptr, &count) != cudaSuccess) return 0;
  std::vector<cudaGraphNode_t> nodes(count);
  if (cudaGraphGetNodes(graph, nodes.data(), &count) != cudaSuccess) return 0;
  return static_cast<size_t>(std::count_if(nodes.begin(), nodes.end(), [](cudaGraphNode_t node) {
    cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
    return cudaGraphNodeGetType(node, &type) == cudaSuccess && type == cudaGraphNodeTypeKernel;
  }));
}

}  // namespace

StepGraphs::~StepGraphs() {
  for (auto& [key, graph] : graphs_) discard(graph);
  if (copied_ != nullptr) cudaEventDestroy(copied_);
  if (varying_host_ != nullptr) cudaFreeHost(varying_host_);
  if (varying_device_ != nullptr) cudaFree(varying_device_);
}

void StepGraphs::discard(Graph& graph) {
  if (graph.executable != nullptr) {
    cudaGraphExecDestroy(graph.executable);
    --num_executables_;
  }
  for (void* memory : graph.kept) cudaFreeHost(memory);
  graph.executable = nullptr;
  graph.kept.clear();
}

void StepGraphs::note(const void* bytes, size_t count) {
  hash_ = XXH3_64bits_withSeed(bytes, count, hash_);
}

const void* StepGraphs::varying(const void* bytes, size_t count) {
  if (mode_ == Mode::off) return nullptr;
  size_t place = (varying_used_ + 15) / 16 * 16;
  if (place + count > kVaryingBytes) {
    refuse();
    return varying_device_;
  }
  std::memcpy(varying_host_ + place, bytes, count);
  varying_used_ = place + count;
  return varying_device_ + place;
}

const void* StepGraphs::keep(const void* bytes, size_t count) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, count), "allocating pinned memory");
  std::memcpy(memory, bytes, count);
  current_->kept.push_back(memory);
  return memory;
}

/// Kernels that the graph has by now which is being captured.
size_t StepGraphs::count_captured() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  check(cudaStreamGetCaptureInfo(stream_, &status, nullptr, &graph), "looking at a step's graph");
  return status == cudaStreamCaptureStatusActive && graph != nullptr ? count_kernels(graph) : 0;
}

void StepGraphs::record_launches(const std::function<void()>& launches) {
  size_t before = count_captured();
  launches();
  num_launches_ += count_captured() - before;
}

void StepGraphs::begin(Mode mode) {
  if (varying_host_ == nullptr) {
    check(cudaMallocHost(reinterpret_cast<void**>(&varying_host_), kVaryingBytes), "allocating pinned memory");
    check(cudaMalloc(reinterpret_cast<void**>(&varying_device_), kVaryingBytes), "allocating a step's arguments");
    check(cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming), "making an event");
    check(cudaEventRecord(copied_, stream_), "recording an event");
  }
  // The last start may not have read its numbers yet.
  check(cudaEventSynchronize(copied_), "waiting for a step's arguments");
  mode_ = mode;
  is_refused_ = false;
  hash_ = 0;
  num_launches_ = 0;
  varying_used_ = 0;
}

/// Leaves the stream as it was; false if the step cannot be a graph, be it that it fails while it is captured.
bool StepGraphs::record(Graph& graph, const std::function<void()>& step) {
  discard(graph);
  current_ = &graph;
  begin(Mode::recording);
  cudaGraph_t captured = nullptr;
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "capturing a step");
  try {
    step();
  } catch (...) {
    mode_ = Mode::off;
    cudaStreamEndCapture(stream_, &captured);
    if (captured != nullptr) cudaGraphDestroy(captured);
    cudaGetLastError();
    discard(graph);
    return false;
  }
  mode_ = Mode::off;
  cudaError_t status = cudaStreamEndCapture(stream_, &captured);
  // Launches that a replay would not know of would run beside the graph.
  if (status == cudaSuccess && count_kernels(captured) != num_launches_) refuse();
  if (status == cudaSuccess && !is_refused_) status = cudaGraphInstantiate(&graph.executable, captured, 0);
  if (captured != nullptr) cudaGraphDestroy(captured);
  cudaGetLastError();
  graph.hash = hash_;
  graph.varying_bytes = varying_used_;
  if (status != cudaSuccess) graph.executable = nullptr;
  if (graph.executable == nullptr) {
    discard(graph);
    return false;
  }
  ++num_executables_;
  return true;
}

bool StepGraphs::replay(Graph& graph, const std::function<void()>& step) {
  begin(Mode::replaying);
  try {
    step();
  } catch (...) {
    mode_ = Mode::off;
    throw;
  }
  mode_ = Mode::off;
  return !is_refused_ && hash_ == graph.hash && varying_used_ == graph.varying_bytes;
}

void StepGraphs::start(Graph& graph) {
  if (graph.varying_bytes > 0) {
    check(cudaMemcpyAsync(varying_device_, varying_host_, graph.varying_bytes, cudaMemcpyHostToDevice, stream_),
          "copying a step's arguments");
    check(cudaEventRecord(copied_, stream_), "recording an event");
  }
  check(cudaGraphLaunch(graph.executable, stream_), "starting a step");
}

StepGraphs::Counts StepGraphs::counts(uint64_t key) const {
  auto found = graphs_.find(key);
  return found == graphs_.end() ? Counts{} : found->second.counts;
}

void StepGraphs::run(uint64_t key, const std::function<void()>& step) {
  Graph& graph = graphs_[key];
  if (graph.is_refused || graph.num_runs++ < kRunsBefore) return step();
  if (graph.executable != nullptr && replay(graph, step)) {
    ++graph.counts.replays;
    return start(graph);
  }
  if (graph.executable == nullptr && num_executables_ >= kMostGraphs) return step();
  Counts& counts = graph.counts;
  bool is_steady = counts.records < kFewRecords || counts.replays >= kReplaysOfRecord * counts.records;
  if (is_steady && record(graph, step)) {
    ++counts.records;
    return start(graph);
  }
  discard(graph);
  graph.is_refused = true;
  step();
}

}  // namespace weft::cuda
