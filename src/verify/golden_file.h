// A golden file: inputs and what a reference implementation computed from them (docs/golden-files.md). Keeps account of
// what was read, so that no dataset goes unmentioned.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/hdf5_file.h"
#include "verify/comparison.h"

namespace weft {

/// Token ids or masks of a batch, [rows, length].
struct GoldenIds {
  int64_t rows = 0;
  int64_t length = 0;
  std::vector<int32_t> values;

  int32_t at(int64_t row, int64_t position) const { return values[static_cast<size_t>(row * length + position)]; }
  /// The first `count` ids of a row.
  std::vector<int32_t> prefix(int64_t row, int64_t count) const;
};

/// A floating-point dataset. The last dimension is the width; what stands before it counts rows.
struct GoldenTensor {
  Shape shape;
  std::vector<float> values;

  int64_t width() const { return shape.rank() == 0 ? 1 : shape[-1]; }
  std::span<const float> row(int64_t index) const {
    return {values.data() + index * width(), static_cast<size_t>(width())};
  }
};

class GoldenFile {
 public:
  /// Throws Error(bad_input) when the file cannot be read.
  explicit GoldenFile(const std::string& path);

  const std::string& path() const { return file_->path(); }
  bool has(std::string_view dataset) const { return file_->find(dataset) != nullptr; }
  bool has_group(std::string_view group) const;
  /// Paths of the datasets under a group ("outputs"), sorted.
  std::vector<std::string> datasets_under(std::string_view group) const;

  /// Each marks the dataset as read. They throw Error(bad_input) when it is missing or holds something else; of ids all
  /// dimensions but the last count rows.
  GoldenIds ids(std::string_view dataset);
  GoldenTensor tensor(std::string_view dataset);
  double scalar(std::string_view dataset);
  /// Without reading it.
  Shape shape(std::string_view dataset);

  /// Attributes; `dataset` "" is the file's root. An empty string or `fallback` when absent or of another type.
  std::string text_attribute(std::string_view dataset, std::string_view name) const;
  double number_attribute(std::string_view dataset, std::string_view name, double fallback) const;
  /// Throws Error(bad_input) for a number that is no 32-bit integer.
  int32_t integer_attribute(std::string_view dataset, std::string_view name, int32_t fallback) const;
  std::vector<int32_t> integers_attribute(std::string_view dataset, std::string_view name) const;
  std::vector<double> numbers_attribute(std::string_view dataset, std::string_view name) const;

  /// Notes why a dataset, or all of a group, is not compared.
  void skip(std::string_view dataset_or_group, const std::string& reason);
  /// What was skipped, and whatever nobody read.
  std::vector<NotCompared> not_compared() const;

 private:
  const Hdf5Dataset& dataset(std::string_view path);

  std::shared_ptr<const Hdf5File> file_;
  std::set<std::string, std::less<>> read_;
  std::map<std::string, std::string, std::less<>> skipped_;
};

}  // namespace weft
