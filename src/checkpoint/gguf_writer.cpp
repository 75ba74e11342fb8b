#include "checkpoint/gguf_writer.h"

#include <map>
#include <type_traits>

#include "checkpoint/output_file.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr uint64_t kAlignment = 32;

// Numbers of value types and tensor types in docs/gguf.md.
enum class ValueType : uint32_t { u32 = 4, i32 = 5, f32 = 6, boolean = 7, string = 8, array = 9 };
enum class TensorType : uint32_t { f32 = 0, f16 = 1, bf16 = 30 };

TensorType tensor_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return TensorType::f32;
    case DType::f16:
      return TensorType::f16;
    case DType::bf16:
      return TensorType::bf16;
    default:
      fail_input("a GGUF file cannot hold tensors of {} as they are; write bf16 or f32", dtype_name(dtype));
  }
}

uint64_t aligned(uint64_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

class Header {
 public:
  template <typename T>
  void add(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void add_string(const std::string& text) {
    add(static_cast<uint64_t>(text.size()));
    bytes += text;
  }
  void add_entry(const std::string& key, const GgufValue& value) {
    add_string(key);
    std::visit([this](const auto& one) { add_value(one); }, value);
  }

  std::string bytes;

 private:
  void add_value(int64_t value) {
    add(value < 0 ? ValueType::i32 : ValueType::u32);
    add(static_cast<uint32_t>(value));
  }
  void add_value(double value) {
    add(ValueType::f32);
    add(static_cast<float>(value));
  }
  void add_value(bool value) {
    add(ValueType::boolean);
    add(static_cast<uint8_t>(value));
  }
  void add_value(const std::string& value) {
    add(ValueType::string);
    add_string(value);
  }
  template <typename T>
  void add_value(const std::vector<T>& values) {
    constexpr bool is_string = std::is_same_v<T, std::string>;
    add(ValueType::array);
    add(is_string                   ? ValueType::string
        : std::is_same_v<T, double> ? ValueType::f32
        : std::is_same_v<T, bool>   ? ValueType::boolean
                                    : ValueType::i32);
    add(static_cast<uint64_t>(values.size()));
    for (const auto& value : values) {
      if constexpr (is_string) {
        add_string(value);
      } else if constexpr (std::is_same_v<T, double>) {
        add(static_cast<float>(value));
      } else if constexpr (std::is_same_v<T, bool>) {
        add(static_cast<uint8_t>(value));
      } else {
        add(static_cast<int32_t>(value));
      }
    }
  }
};

class GgufWriter final : public CheckpointWriter {
 public:
  GgufWriter(const std::string& path, const GgufEntries& metadata, const std::vector<OutputTensor>& tensors) {
    Header header;
    header.bytes = "GGUF";
    header.add(uint32_t{3});
    header.add(static_cast<uint64_t>(tensors.size()));
    header.add(static_cast<uint64_t>(metadata.size()));
    for (const auto& [key, value] : metadata) header.add_entry(key, value);
    uint64_t offset = 0;
    for (const OutputTensor& tensor : tensors) {
      header.add_string(tensor.name);
      header.add(static_cast<uint32_t>(tensor.shape.rank()));
      // From the dimension whose neighbours lie side by side to the outermost one.
      for (int dim = tensor.shape.rank() - 1; dim >= 0; --dim) header.add(static_cast<uint64_t>(tensor.shape[dim]));
      header.add(tensor_type(tensor.dtype));
      header.add(offset);
      places_.emplace(tensor.name, Place{tensor.dtype, static_cast<int64_t>(offset)});
      offset += aligned(static_cast<uint64_t>(tensor.shape.num_elements()) * dtype_bytes(tensor.dtype));
    }
    header.bytes.resize(aligned(header.bytes.size()));
    data_begin_ = std::ssize(header.bytes);
    file_ = std::make_unique<OutputFile>(OutputFile::create(path, data_begin_ + static_cast<int64_t>(offset)));
    file_->write(0, header.bytes.data(), data_begin_);
  }

  void write(std::string_view name, int64_t first, int64_t count, const void* values, DType dtype) override {
    const Place& place = places_.at(std::string(name));
    auto size = static_cast<int64_t>(dtype_bytes(place.dtype));
    for_each_converted(values, dtype, count, place.dtype, [&](int64_t at, const void* piece, int64_t elements) {
      file_->write(data_begin_ + place.offset + (first + at) * size, piece, elements * size);
    });
  }
  void finish() override { file_->sync(); }

 private:
  struct Place {
    DType dtype;
    int64_t offset;
  };

  std::map<std::string, Place> places_;
  int64_t data_begin_ = 0;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace

std::unique_ptr<CheckpointWriter> make_gguf_writer(const std::string& path,
                                                   const GgufEntries& metadata,
                                                   const std::vector<OutputTensor>& tensors) {
  return std::make_unique<GgufWriter>(path, metadata, tensors);
}

}  // namespace weft
