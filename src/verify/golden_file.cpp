#include "verify/golden_file.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>

#include "core/error.h"

namespace weft {
namespace {

bool lies_in(std::string_view path, std::string_view group) {
  return path.size() > group.size() && path.substr(0, group.size()) == group && path[group.size()] == '/';
}

const Hdf5Attribute* find_attribute(const Hdf5Attributes& attributes, std::string_view name) {
  auto found = attributes.find(name);
  return found == attributes.end() ? nullptr : &found->second;
}

std::vector<double> to_numbers(const Hdf5Attribute& attribute) {
  if (const auto* value = std::get_if<double>(&attribute)) return {*value};
  if (const auto* value = std::get_if<int64_t>(&attribute)) return {static_cast<double>(*value)};
  if (const auto* values = std::get_if<std::vector<double>>(&attribute)) return *values;
  if (const auto* values = std::get_if<std::vector<int64_t>>(&attribute)) return {values->begin(), values->end()};
  return {};
}

}  // namespace

std::vector<int32_t> GoldenIds::prefix(int64_t row, int64_t count) const {
  auto begin = values.begin() + row * length;
  return {begin, begin + count};
}

GoldenFile::GoldenFile(const std::string& path) : file_(Hdf5File::open(path)) {}

bool GoldenFile::has_group(std::string_view group) const {
  return std::any_of(file_->datasets().begin(), file_->datasets().end(), [&](const Hdf5Dataset& entry) {
    return lies_in(entry.path, group);
  });
}

std::vector<std::string> GoldenFile::datasets_under(std::string_view group) const {
  std::vector<std::string> paths;
  for (const Hdf5Dataset& entry : file_->datasets()) {
    if (lies_in(entry.path, group)) paths.push_back(entry.path);
  }
  return paths;
}

const Hdf5Dataset& GoldenFile::dataset(std::string_view path) {
  const Hdf5Dataset* found = file_->find(path);
  if (found == nullptr) fail_input("golden file {}: dataset {} is missing", file_->path(), path);
  read_.emplace(path);
  return *found;
}

GoldenIds GoldenFile::ids(std::string_view path) {
  const Hdf5Dataset& entry = dataset(path);
  if (entry.shape.rank() == 0) {
    fail_input("golden file {}: {} is a single number, expected [rows, length]", file_->path(), path);
  }
  if (entry.shape.num_elements() == 0) fail_input("golden file {}: {} is empty", file_->path(), path);
  GoldenIds result;
  result.length = entry.shape[-1];
  result.rows = entry.shape.num_elements() / result.length;
  for (int64_t value : file_->read_all<int64_t>(entry)) {
    if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max()) {
      fail_input("golden file {}: {} holds {}, which is no token id", file_->path(), path, value);
    }
    result.values.push_back(static_cast<int32_t>(value));
  }
  return result;
}

Shape GoldenFile::shape(std::string_view path) {
  return dataset(path).shape;
}

GoldenTensor GoldenFile::tensor(std::string_view path) {
  const Hdf5Dataset& entry = dataset(path);
  return {.shape = entry.shape, .values = file_->read_all<float>(entry)};
}

double GoldenFile::scalar(std::string_view path) {
  const Hdf5Dataset& entry = dataset(path);
  if (entry.shape.num_elements() != 1) {
    fail_input("golden file {}: {} is {}, expected one number", file_->path(), path, to_string(entry.shape));
  }
  return file_->read_all<double>(entry)[0];
}

std::string GoldenFile::text_attribute(std::string_view path, std::string_view name) const {
  const Hdf5Attribute* attribute = find_attribute(file_->attributes(path), name);
  const auto* text = attribute == nullptr ? nullptr : std::get_if<std::string>(attribute);
  return text == nullptr ? std::string() : *text;
}

double GoldenFile::number_attribute(std::string_view path, std::string_view name, double fallback) const {
  std::vector<double> numbers = numbers_attribute(path, name);
  return numbers.empty() ? fallback : numbers[0];
}

int32_t GoldenFile::integer_attribute(std::string_view path, std::string_view name, int32_t fallback) const {
  std::vector<int32_t> integers = integers_attribute(path, name);
  return integers.empty() ? fallback : integers[0];
}

std::vector<int32_t> GoldenFile::integers_attribute(std::string_view path, std::string_view name) const {
  std::vector<int32_t> integers;
  for (double number : numbers_attribute(path, name)) {
    bool is_integer = number >= std::numeric_limits<int32_t>::min() && number <= std::numeric_limits<int32_t>::max() &&
                      number == std::floor(number);
    if (!is_integer) {
      fail_input("golden file {}: attribute {} of {} is {}, expected an integer", file_->path(), name, path, number);
    }
    integers.push_back(static_cast<int32_t>(number));
  }
  return integers;
}

std::vector<double> GoldenFile::numbers_attribute(std::string_view path, std::string_view name) const {
  const Hdf5Attribute* attribute = find_attribute(file_->attributes(path), name);
  return attribute == nullptr ? std::vector<double>() : to_numbers(*attribute);
}

void GoldenFile::skip(std::string_view dataset_or_group, const std::string& reason) {
  for (const Hdf5Dataset& entry : file_->datasets()) {
    if (entry.path == dataset_or_group || lies_in(entry.path, dataset_or_group)) skipped_[entry.path] = reason;
  }
}

std::vector<NotCompared> GoldenFile::not_compared() const {
  std::vector<NotCompared> result;
  for (const Hdf5Dataset& entry : file_->datasets()) {
    auto skipped = skipped_.find(entry.path);
    if (skipped != skipped_.end()) {
      result.push_back({entry.path, skipped->second});
    } else if (read_.find(entry.path) == read_.end()) {
      result.push_back({entry.path, "no part of a layout that Weft knows (docs/golden-files.md)"});
    }
  }
  return result;
}

}  // namespace weft
