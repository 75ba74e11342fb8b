#include "checkpoint/safetensors_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

/// Values that need conversion pass through a buffer of so many elements.
constexpr int64_t kConvertElements = 64 << 10;

std::string_view storage_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::f64:
      return "F64";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
    case DType::u8:
      return "U8";
  }
  return "F32";
}

int64_t tensor_bytes(const OutputTensor& tensor) {
  return tensor.shape.num_elements() * static_cast<int64_t>(dtype_bytes(tensor.dtype));
}

/// The tensors of each file.
std::vector<std::vector<OutputTensor>> split_into_files(std::vector<OutputTensor> tensors, int64_t max_file_bytes) {
  std::vector<std::vector<OutputTensor>> files(1);
  int64_t bytes = 0;
  for (OutputTensor& tensor : tensors) {
    if (!files.back().empty() && bytes + tensor_bytes(tensor) > max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    bytes += tensor_bytes(tensor);
    files.back().push_back(std::move(tensor));
  }
  return files;
}

std::string header_bytes(const std::vector<OutputTensor>& tensors, const std::map<std::string, std::string>& metadata) {
  Json header = {{"__metadata__", metadata}};
  int64_t offset = 0;
  for (const OutputTensor& tensor : tensors) {
    int64_t end = offset + tensor_bytes(tensor);
    header[tensor.name] = {{"dtype", storage_name(tensor.dtype)},
                           {"shape", std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end())},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data are aligned
  uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + text;
}

std::string shard_name(const std::string& stem, size_t index, size_t count) {
  if (count == 1) return stem + ".safetensors";
  return fmt::format("{}-{:05}-of-{:05}.safetensors", stem, index + 1, count);
}

}  // namespace

SafetensorsLayout::SafetensorsLayout(std::string stem,
                                     std::vector<OutputTensor> tensors,
                                     int64_t max_file_bytes,
                                     const std::map<std::string, std::string>& metadata)
    : stem_(std::move(stem)) {
  // Wide elements first keep every tensor aligned to its own, as the format's own library does.
  std::stable_sort(tensors.begin(), tensors.end(), [](const OutputTensor& a, const OutputTensor& b) {
    return dtype_bytes(a.dtype) > dtype_bytes(b.dtype);
  });
  auto groups = split_into_files(std::move(tensors), max_file_bytes);
  for (size_t file = 0; file < groups.size(); ++file) {
    OutputShard shard{.name = shard_name(stem_, file, groups.size()), .header = header_bytes(groups[file], metadata)};
    shard.bytes = static_cast<int64_t>(shard.header.size());
    for (OutputTensor& tensor : groups[file]) {
      int64_t offset = shard.bytes;
      shard.bytes += tensor_bytes(tensor);
      total_bytes_ += tensor_bytes(tensor);
      std::string name = tensor.name;
      bool is_new = places_.emplace(name, Place{file, offset, std::move(tensor)}).second;
      WEFT_ASSERT(is_new, "{} occurs twice", name);
    }
    files_.push_back(std::move(shard));
  }
  if (files_.size() == 1) return;
  Json map = Json::object();
  for (const auto& [name, place] : places_) map[name] = files_[place.file].name;
  index_ = Json{{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", std::move(map)}}.dump(2) + "\n";
}

const SafetensorsLayout::Place& SafetensorsLayout::place(std::string_view name) const {
  auto found = places_.find(name);
  WEFT_ASSERT(found != places_.end(), "{} is not in the layout", name);
  return found->second;
}

void create_safetensors(const std::string& folder, const SafetensorsLayout& layout) {
  for (const SafetensorsLayout::OutputShard& shard : layout.files()) {
    OutputFile file = OutputFile::create(folder + "/" + shard.name, shard.bytes);
    file.write(0, shard.header.data(), static_cast<int64_t>(shard.header.size()));
  }
  if (!layout.index().empty()) write_whole_file(folder + "/" + layout.index_name(), layout.index());
}

SafetensorsWriter::SafetensorsWriter(const std::string& folder, std::shared_ptr<const SafetensorsLayout> layout)
    : layout_(std::move(layout)) {
  for (const SafetensorsLayout::OutputShard& shard : layout_->files()) {
    files_.push_back(OutputFile::open(folder + "/" + shard.name));
  }
}

void SafetensorsWriter::write_values(
    const SafetensorsLayout::Place& place, int64_t first, int64_t count, const void* values, DType dtype) {
  auto width = static_cast<int64_t>(dtype_bytes(place.tensor.dtype));
  const OutputFile& file = files_[place.file];
  if (dtype == place.tensor.dtype) return file.write(place.offset + first * width, values, count * width);
  converted_.resize(static_cast<size_t>(kConvertElements * width));
  for (int64_t begin = 0; begin < count; begin += kConvertElements) {
    int64_t part = std::min(kConvertElements, count - begin);
    const auto* source = static_cast<const std::byte*>(values) + static_cast<size_t>(begin) * dtype_bytes(dtype);
    convert_dtype(source, dtype, converted_.data(), place.tensor.dtype, part);
    file.write(place.offset + (first + begin) * width, converted_.data(), part * width);
  }
}

void SafetensorsWriter::write_run(
    std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) {
  const SafetensorsLayout::Place& place = layout_->place(name);
  WEFT_ASSERT(first >= 0 && count >= 0 && first + count <= place.tensor.shape.num_elements(), "{}", name);
  write_values(place, first, count, values, dtype);
}

void SafetensorsWriter::write_slice(
    std::string_view name, const TensorSlice& slice, int64_t begin, int64_t end, const void* values, DType dtype) {
  const SafetensorsLayout::Place& place = layout_->place(name);
  const auto* bytes = static_cast<const std::byte*>(values);
  for_each_run(place.tensor.shape, slice, begin, end, [&](int64_t first, int64_t local, int64_t count) {
    write_values(place, first, count, bytes + static_cast<size_t>(local - begin) * dtype_bytes(dtype), dtype);
  });
}

void SafetensorsWriter::sync() const {
  for (const OutputFile& file : files_) file.sync();
}

}  // namespace weft
