// A golden file verified on ranks that are threads, for the tests of all families.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "kernels/guarded.h"
#include "parallel/staged_communicator.h"
#include "parallel/thread_communicator.h"
#include "support/paths.h"
#include "verify/verifier.h"

namespace weft::testing {

/// The case of this name in tests/data: golden.h5 in its folder, weights there or in `weights` below it.
struct GoldenCase {
  std::string name;
  std::string weights = {};  // a folder or file; empty: the case's folder
  std::string folder() const { return test_data() + "/" + name; }
  std::string weights_path() const { return weights.empty() ? folder() : folder() + "/" + weights; }
  /// Of a parameterised test.
  std::string test_name() const {
    std::string text = name + (weights.empty() ? "" : "_" + weights);
    std::replace_if(
        text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
    return text;
  }
};

inline OpenedModel open_case(const GoldenCase& one, const GoldenFile& golden) {
  return open_model(with_golden_options({.path = one.weights_path(), .family = {}, .compat = {}}, golden));
}

struct RankFiles {
  GoldenFile golden;
  OpenedModel model;
};

/// Opened before any rank runs: reading HDF5 forks, and GCC 12's address sanitizer may deadlock in the child of a
/// process whose other threads are allocating.
inline std::vector<RankFiles> open_for_ranks(const GoldenCase& one, int num_ranks) {
  std::vector<RankFiles> files;
  for (int rank = 0; rank < num_ranks; ++rank) {
    GoldenFile golden(one.folder() + "/golden.h5");
    OpenedModel model = open_case(one, golden);
    files.push_back({.golden = std::move(golden), .model = std::move(model)});
  }
  return files;
}

/// On the CPU, or on guarded memory, where the host may not touch a tensor's elements (kernels/guarded.h).
inline VerifyReport verify_on_ranks(const GoldenCase& one,
                                    int num_ranks,
                                    DType dtype,
                                    DeviceType device = DeviceType::cpu) {
  std::vector<RankFiles> files = open_for_ranks(one, num_ranks);
  VerifyReport report;
  run_thread_ranks(num_ranks, [&](const std::shared_ptr<Communicator>& communicator) {
    bool is_guarded = device == DeviceType::guarded;
    Context context = is_guarded ? make_context(make_guarded_allocator(), 1) : make_cpu_context(1);
    std::shared_ptr<Communicator> ranks = is_guarded ? make_staged_communicator(communicator) : communicator;
    context.tensor_parallel = ranks.get();
    RankFiles& mine = files[static_cast<size_t>(communicator->rank())];
    VerifyReport found = verify_model(context, mine.model, mine.golden, {.dtype = dtype, .tolerance = {}});
    if (communicator->rank() == 0) report = std::move(found);
  });
  return report;
}

}  // namespace weft::testing
