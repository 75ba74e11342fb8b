// A step that is the same every time but for a few numbers, as a CUDA graph: captured once, then started by one call.
//
// The step's code runs each time, so that nothing above the kernels knows of graphs. While it is captured, kernels go
// into the graph; what changes from step to step (ids, positions, lengths) they read from memory that is written anew
// before each start. While it is replayed, kernels are not launched: what they would have been launched with is hashed
// and compared with what was captured. If that differs (a longer context needs another split, a buffer lies elsewhere),
// nothing has run yet, and the step is captured again.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace weft::cuda {

class StepGraphs {
 public:
  StepGraphs() = default;
  ~StepGraphs();
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  /// To be called once, before the first run.
  void use(cudaStream_t stream) { stream_ = stream; }

  /// Runs `step`, whose kinds are told apart by `key`, by a graph where that is possible.
  void run(uint64_t key, const std::function<void()>& step);

  /// How often steps of a kind were captured, and done by what was captured before.
  struct Counts {
    int records = 0, replays = 0;
  };
  Counts counts(uint64_t key) const;

  /// Whether the step is one of a graph's.
  bool is_active() const { return mode_ != Mode::off; }
  bool is_recording() const { return mode_ == Mode::recording; }
  /// Whether work is to be left out, since the graph does it: the caller hands what it would have done to `note`.
  bool is_replaying() const { return mode_ == Mode::replaying; }

  /// Adds to the hash of the step, while it is recorded and replayed.
  void note(const void* bytes, size_t count);
  template <typename T>
  void note_value(const T& value) {
    note(&value, sizeof(T));
  }

  /// Counts a launch that was noted: a graph with others in it is not used.
  void note_launch() { ++num_launches_; }

  /// Runs `launches` of a library, which are what the caller noted, while the step is recorded: counts them.
  void record_launches(const std::function<void()>& launches);

  /// Memory on the device where a replay finds this step's bytes; null when steps are neither recorded nor replayed.
  const void* varying(const void* bytes, size_t count);

  /// Something that no graph can hold: the step runs without one from now on.
  void refuse() { is_refused_ = true; }

  /// Host memory that stays as long as the graph that is recorded now, with a copy of these bytes.
  const void* keep(const void* bytes, size_t count);

 private:
  enum class Mode : uint8_t { off, recording, replaying };

  struct Graph {
    cudaGraphExec_t executable = nullptr;
    uint64_t hash = 0;
    size_t varying_bytes = 0;
    std::vector<void*> kept;  // pinned
    int num_runs = 0;
    Counts counts;
    bool is_refused = false;
  };

  void begin(Mode mode);
  size_t count_captured() const;
  bool record(Graph& graph, const std::function<void()>& step);
  bool replay(Graph& graph, const std::function<void()>& step);
  void start(Graph& graph);
  void discard(Graph& graph);

  cudaStream_t stream_ = nullptr;
  Mode mode_ = Mode::off;
  bool is_refused_ = false;
  uint64_t hash_ = 0;
  size_t num_launches_ = 0;
  std::byte* varying_host_ = nullptr;  // pinned
  std::byte* varying_device_ = nullptr;
  size_t varying_used_ = 0;
  cudaEvent_t copied_ = nullptr;
  Graph* current_ = nullptr;
  int num_executables_ = 0;
  std::map<uint64_t, Graph> graphs_;
};

}  // namespace weft::cuda
