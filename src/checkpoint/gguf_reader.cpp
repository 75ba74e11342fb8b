#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/stored_checkpoint.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr uint64_t kMaxTensors = uint64_t{1} << 20;
constexpr uint64_t kMaxNameBytes = 1024;
constexpr uint32_t kMaxRank = 4;
constexpr int64_t kMinTensorEntryBytes = 8 + 4 + 4 + 8;
constexpr int64_t kDefaultAlignment = 32;

struct GgufType {
  uint32_t number;  // ggml's enum ggml_type
  StorageType storage;
};

constexpr std::array<GgufType, 12> kTypes = {{
    {0, {"F32", DType::f32, 1, 4}},
    {1, {"F16", DType::f16, 1, 2}},
    {28, {"F64", DType::f64, 1, 8}},
    {30, {"BF16", DType::bf16, 1, 2}},
    {2, {"Q4_0", DType::f32, kQuantBlock, 18, dequantize_q4_0}},
    {3, {"Q4_1", DType::f32, kQuantBlock, 20, dequantize_q4_1}},
    {6, {"Q5_0", DType::f32, kQuantBlock, 22, dequantize_q5_0}},
    {7, {"Q5_1", DType::f32, kQuantBlock, 24, dequantize_q5_1}},
    {8, {"Q8_0", DType::f32, kQuantBlock, 34, dequantize_q8_0}},
    {12, {"Q4_K", DType::f32, kQuantSuperBlock, 144, dequantize_q4_k}},
    {13, {"Q5_K", DType::f32, kQuantSuperBlock, 176, dequantize_q5_k}},
    {14, {"Q6_K", DType::f32, kQuantSuperBlock, 210, dequantize_q6_k}},
}};

// The types that Weft can't read, by name for messages.
std::string unsupported_type_name(uint32_t number) {
  constexpr std::array<std::pair<uint32_t, std::string_view>, 20> kNames = {
      {{9, "Q8_1"},   {10, "Q2_K"},   {11, "Q3_K"},  {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
       {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"},  {24, "I8"},     {25, "I16"},
       {26, "I32"},   {27, "I64"},    {29, "IQ1_M"}, {34, "TQ1_0"}, {35, "TQ2_0"},   {39, "MXFP4"}}};
  auto found = std::find_if(kNames.begin(), kNames.end(), [&](const auto& entry) { return entry.first == number; });
  return found == kNames.end() ? fmt::format("number {}", number) : std::string(found->second);
}

const StorageType* find_type(uint32_t number) {
  auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const GgufType& type) { return type.number == number; });
  return found == kTypes.end() ? nullptr : &found->storage;
}

class TensorTableParser {
 public:
  TensorTableParser(FileCursor& cursor, const std::string& path) : cursor_(cursor), path_(path) {}

  // Offsets are still relative to the data section, whose start is known only after the last entry.
  StoredTensor parse_entry() {
    uint64_t length = cursor_.read_value<uint64_t>("length of a tensor name");
    if (length > kMaxNameBytes) fail_input("{}: a tensor name of {} bytes; damaged file", printable(path_), length);
    StoredTensor tensor;
    tensor.info.file = path_;
    tensor.info.name = cursor_.read_string(length, "tensor name");
    tensor.info.shape = parse_shape(tensor.info.name);
    uint32_t type = cursor_.read_value<uint32_t>("tensor type");
    tensor.type = find_type(type);
    if (!tensor.type) {
      fail_input(
          "{}: tensor {} is of type {}, which Weft doesn't read; expected F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, "
          "Q5_1, Q4_K, Q5_K or Q6_K",
          printable(path_),
          printable(tensor.info.name),
          unsupported_type_name(type));
    }
    tensor.info.dtype = tensor.type->dtype;
    tensor.info.storage_type = tensor.type->name;
    set_size(tensor);
    tensor.offset = parse_offset(tensor.info.name);
    return tensor;
  }

 private:
  // The file lists the fastest dimension first.
  Shape parse_shape(const std::string& name) {
    uint32_t rank = cursor_.read_value<uint32_t>("number of dimensions");
    if (rank > kMaxRank) {
      fail_input(
          "{}: tensor {} has {} dimensions, at most {} expected", printable(path_), printable(name), rank, kMaxRank);
    }
    std::array<int64_t, kMaxRank> dims{};
    for (uint32_t i = 0; i < rank; ++i) dims[rank - 1 - i] = cursor_.read_value<int64_t>("dimension");
    if (std::any_of(dims.begin(), dims.begin() + rank, [](int64_t dim) { return dim < 1; })) {
      fail_input("{}: tensor {} has a dimension below 1; damaged file", printable(path_), printable(name));
    }
    return Shape(dims.data(), dims.data() + rank);
  }

  void set_size(StoredTensor& tensor) {
    const Shape& shape = tensor.info.shape;
    std::optional<int64_t> bytes = stored_bytes({shape.begin(), shape.end()}, *tensor.type);
    if (!bytes) {
      fail_input(
          "{}: tensor {} of type {} can't have shape {}: rows of {} values, no more than 2^63 bytes; damaged file",
          printable(path_),
          printable(tensor.info.name),
          tensor.type->name,
          to_string(shape),
          tensor.type->block_elements);
    }
    tensor.info.stored_bytes = *bytes;
  }

  int64_t parse_offset(const std::string& name) {
    uint64_t offset = cursor_.read_value<uint64_t>("tensor offset");
    if (offset > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail_input("{}: tensor {} lies at offset {}, beyond any file", printable(path_), printable(name), offset);
    }
    return static_cast<int64_t>(offset);
  }

  FileCursor& cursor_;
  const std::string& path_;
};

int64_t read_alignment(const GgufMetadata& metadata) {
  int64_t alignment = metadata.get_int("general.alignment").value_or(kDefaultAlignment);
  if (alignment < 1 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0) {
    fail_input("{}: general.alignment is {}, expected a power of two up to 2^20", printable(metadata.path), alignment);
  }
  return alignment;
}

std::vector<StoredTensor> parse_tensor_table(const File& file) {
  FileCursor cursor(file);
  GgufMetadata metadata;
  metadata.path = file.path();
  uint64_t num_tensors = parse_gguf_metadata(cursor, metadata);
  if (num_tensors > std::min(kMaxTensors, static_cast<uint64_t>(cursor.remaining() / kMinTensorEntryBytes))) {
    fail_input("{}: says it has {} tensors in {} bytes; damaged or truncated",
               printable(file.path()),
               num_tensors,
               cursor.remaining());
  }
  int64_t num_parts = metadata.get_int("split.count").value_or(1);
  if (num_parts > 1) {
    fail_input("{}: one of {} parts of a split GGUF; merge them with llama-gguf-split --merge",
               printable(file.path()),
               num_parts);
  }
  int64_t alignment = read_alignment(metadata);
  std::vector<StoredTensor> tensors;
  TensorTableParser parser(cursor, file.path());
  for (uint64_t i = 0; i < num_tensors; ++i) tensors.push_back(parser.parse_entry());
  int64_t data_begin = (cursor.position() + alignment - 1) / alignment * alignment;
  for (StoredTensor& tensor : tensors) {
    if (tensor.offset % alignment != 0 || tensor.offset > file.size()) {
      fail_input("{}: tensor {} lies at offset {}, expected a multiple of {} within the file; damaged or truncated",
                 printable(file.path()),
                 printable(tensor.info.name),
                 tensor.offset,
                 alignment);
    }
    tensor.offset += data_begin;
  }
  check_stored_tensors(file, data_begin, file.size(), tensors);
  return tensors;
}

}  // namespace

std::unique_ptr<CheckpointReader> open_gguf(const std::string& path) {
  std::vector<std::unique_ptr<File>> files;
  files.push_back(std::make_unique<File>(path));
  std::vector<StoredTensor> tensors = parse_tensor_table(*files[0]);
  return std::make_unique<StoredCheckpoint>("gguf", path, std::move(files), std::move(tensors));
}

}  // namespace weft
