#include "launcher/vector_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "checkpoint/keras_hdf5_writer.h"
#include "checkpoint/output_file.h"

namespace weft {
namespace {

void write_at_once(const std::string& path, std::string_view bytes) {
  write_whole_file(path + ".partial", bytes);
  rename_durably(path + ".partial", path);
}

/// NumPy's format, version 1.0 (numpy.lib.format): a header padded to 64 bytes, then the values.
void write_npy(const std::string& path, std::span<const float> values, const std::vector<int64_t>& shape) {
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", fmt::join(shape, ", "));
  constexpr size_t kPreamble = 10;
  header.resize((kPreamble + header.size() + 1 + 63) / 64 * 64 - kPreamble - 1, ' ');
  header.push_back('\n');
  std::string bytes = "\x93NUMPY";
  bytes += '\1';
  bytes += '\0';
  bytes.push_back(static_cast<char>(header.size() & 0xFF));
  bytes.push_back(static_cast<char>(header.size() >> 8));
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  write_at_once(path, bytes);
}

void write_padded_npy(const std::string& path, const TextVectors& vectors) {
  size_t longest = 0;
  for (const std::vector<int32_t>& ids : vectors.ids) longest = std::max(longest, ids.size());
  auto width = static_cast<size_t>(vectors.width);
  std::vector<float> padded(vectors.ids.size() * longest * width);
  auto from = vectors.values.begin();
  for (size_t text = 0; text < vectors.ids.size(); ++text) {
    auto count = static_cast<std::ptrdiff_t>(vectors.ids[text].size() * width);
    std::copy_n(from, count, padded.begin() + static_cast<std::ptrdiff_t>(text * longest * width));
    from += count;
  }
  write_npy(path, padded, {static_cast<int64_t>(vectors.ids.size()), static_cast<int64_t>(longest), vectors.width});
}

void write_hdf5(const std::string& path, const TextVectors& vectors) {
  int64_t rows = static_cast<int64_t>(vectors.values.size()) / vectors.width;
  std::vector<OutputTensor> tensors = {{.name = "vectors", .shape = {rows, vectors.width}, .dtype = DType::f32}};
  std::vector<int32_t> ids, lengths;
  if (vectors.is_of_tokens) {
    for (const std::vector<int32_t>& of_text : vectors.ids) {
      ids.insert(ids.end(), of_text.begin(), of_text.end());
      lengths.push_back(static_cast<int32_t>(of_text.size()));
    }
    tensors.push_back({.name = "ids", .shape = {rows}, .dtype = DType::i32});
    tensors.push_back({.name = "lengths", .shape = {static_cast<int64_t>(lengths.size())}, .dtype = DType::i32});
  }
  auto writer = make_keras_hdf5_writer(path, tensors);
  writer->write("vectors", 0, rows * vectors.width, vectors.values.data(), DType::f32);
  if (vectors.is_of_tokens) {
    writer->write("ids", 0, rows, ids.data(), DType::i32);
    writer->write("lengths", 0, static_cast<int64_t>(lengths.size()), lengths.data(), DType::i32);
  }
  writer->finish();
}

/// Rows from `values` on as JSON lists.
void append_rows(std::span<const float> values, size_t width, std::string_view separator, std::string& lines) {
  for (size_t row = 0; row < values.size(); row += width) {
    if (row > 0) lines += separator;
    fmt::format_to(std::back_inserter(lines), "[{}]", fmt::join(values.subspan(row, width), ","));
  }
}

std::string json_lines(const TextVectors& vectors) {
  std::string lines;
  auto width = static_cast<size_t>(vectors.width);
  std::span<const float> values = vectors.values;
  if (!vectors.is_of_tokens) {
    append_rows(values, width, "\n", lines);
    return lines + "\n";
  }
  for (size_t text = 0; text < vectors.ids.size(); ++text) {
    const std::vector<int32_t>& ids = vectors.ids[text];
    std::string tokens =
        nlohmann::json(vectors.tokens[text]).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    fmt::format_to(
        std::back_inserter(lines), "{{\"ids\":[{}],\"tokens\":{},\"vectors\":[", fmt::join(ids, ","), tokens);
    append_rows(values.first(ids.size() * width), width, ",", lines);
    lines += "]}\n";
    values = values.subspan(ids.size() * width);
  }
  return lines;
}

}  // namespace

void write_vectors(const std::string& path, const TextVectors& vectors) {
  if (path.ends_with(".npy")) {
    if (vectors.is_of_tokens) return write_padded_npy(path, vectors);
    return write_npy(
        path, vectors.values, {static_cast<int64_t>(vectors.values.size()) / vectors.width, vectors.width});
  }
  if (path.ends_with(".h5") || path.ends_with(".hdf5")) return write_hdf5(path, vectors);
  std::string lines = json_lines(vectors);
  if (path.empty()) {
    std::fwrite(lines.data(), 1, lines.size(), stdout);
  } else {
    write_at_once(path, lines);
  }
}

}  // namespace weft
