// The measurements behind `weft bench`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "generate/sampler.h"
#include "launcher/common.h"
#include "parallel/communicator.h"
#include "plan/memory_plan.h"

namespace weft {

/// Of `train`; the batch is the workload's.
struct TrainingWorkload {
  int64_t sequence_length = 256;  // of encode too
  int64_t lora_rank = 0;          // 0: all weights are trained
  int zero_stage = 0;
  std::string recompute = "none";
  bool has_masters = true;  // of bf16 weights, in f32; false: updates are rounded at random
};

struct BenchOptions {
  CommonOptions common;
  Workload workload;
  TrainingWorkload training;
  SamplerOptions sampling = {.greedy = false, .temperature = 0};  // decode only; temperature 0: greedy
  int64_t source_tokens = 64;                                     // seq2seq only
  int64_t num_beams = 1;                                          // seq2seq only; 1: greedy
  int repetitions = 0;                                            // resolved by the command
  TensorParallelPlace as_rank;  // load only: the share of rank `rank` of `size`; size 0: this launch's own
  std::string text_file;        // tokenize: empty: text of random tokens; encode: texts, one a line; empty: random ids
};

struct BenchResult {
  std::vector<double> values = {};  // one a repetition
  std::string unit;
  double bound = 0;     // what the machine allows, in the same unit
  std::string formula;  // of the bound
  std::vector<std::pair<std::string, double>> details = {};

  double median() const;
};

/// All ranks call these; the result is rank 0's.
BenchResult bench_load(const BenchOptions& options, MpiSession& session);
BenchResult bench_prefill(const BenchOptions& options, MpiSession& session);
BenchResult bench_decode(const BenchOptions& options, MpiSession& session);
BenchResult bench_tokenize(const BenchOptions& options, MpiSession& session);
BenchResult bench_encode(const BenchOptions& options, MpiSession& session);
BenchResult bench_seq2seq(const BenchOptions& options, MpiSession& session);
BenchResult bench_train(const BenchOptions& options, MpiSession& session);

/// A checkpoint, or a shape file with random weights.
std::unique_ptr<InferenceModel> make_bench_model(const BenchOptions& options, MpiSession& session);

/// Measured by all ranks at the same time, since they share the machine.
MachinePeaks measure_bench_peaks(const InferenceModel& loaded);

/// The slowest rank's bound holds for all.
double smallest_of_ranks(const InferenceModel& loaded, double value);

/// High-water mark of this process's resident memory in bytes, from the kernel.
int64_t peak_resident_bytes();

}  // namespace weft
