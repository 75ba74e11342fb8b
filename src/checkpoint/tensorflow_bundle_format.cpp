#include "checkpoint/tensorflow_bundle_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "checkpoint/tensor_bundle.pb.h"

namespace weft {
namespace {

struct BundleType {
  int number;
  StorageType storage;
};

constexpr BundleType kTypes[] = {
    {1, {"F32", DType::f32, 1, 4}},
    {2, {"F64", DType::f64, 1, 8}},
    {3, {"I32", DType::i32, 1, 4}},
    {4, {"U8", DType::u8, 1, 1}},
    {9, {"I64", DType::i64, 1, 8}},
    {10, {"BOOL", DType::u8, 1, 1}},
    {14, {"BF16", DType::bf16, 1, 2}},
    {19, {"F16", DType::f16, 1, 2}},
};

struct TypeName {
  int number;
  std::string_view name;
};

constexpr TypeName kUnreadTypes[] = {
    {5, "I16"},
    {6, "I8"},
    {7, "STRING"},
    {8, "COMPLEX64"},
    {17, "U16"},
    {18, "COMPLEX128"},
    {22, "U32"},
    {23, "U64"},
};

/// TensorFlow's ordered code: bytes that compare as the values do. A string ends with 0 1, a byte 0 in it is 0 FF and
/// a byte FF is FF 0.
void put_ordered_string(std::string& to, std::string_view text) {
  for (char byte : text) {
    to.push_back(byte);
    if (byte == '\0') to.push_back('\xFF');
    if (byte == '\xFF') to.push_back('\0');
  }
  to += std::string_view("\0\1", 2);
}

/// A count of bytes, then these, high ones first.
void put_ordered_count(std::string& to, uint64_t value) {
  int count = (static_cast<int>(std::bit_width(value)) + 7) / 8;
  to.push_back(static_cast<char>(count));
  for (int i = count; i-- > 0;) to.push_back(static_cast<char>(value >> (8 * i)));
}

/// `count` bytes, high ones first, of seven bits each: the first `count` bits, which tell how many bytes there are, and
/// one more are the sign (inverted in what tells the count).
void put_ordered_integer(std::string& to, int64_t value) {
  uint64_t magnitude = static_cast<uint64_t>(value < 0 ? ~value : value);
  int count = static_cast<int>(std::bit_width(magnitude)) / 7 + 1;
  std::string bytes;
  for (int i = count; i-- > 0;) bytes.push_back(static_cast<char>(i >= 8 ? (value < 0 ? -1 : 0) : value >> (8 * i)));
  uint32_t header = 0xFFFFu << (16 - count);
  bytes[0] ^= static_cast<char>(header >> 8);
  if (count > 1) bytes[1] ^= static_cast<char>(header);
  to += bytes;
}

}  // namespace

const StorageType* bundle_storage_type(int number) {
  const auto* found =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const BundleType& type) { return type.number == number; });
  return found == std::end(kTypes) ? nullptr : &found->storage;
}

std::string bundle_type_name(int number) {
  if (const StorageType* type = bundle_storage_type(number)) return std::string(type->name);
  for (const TypeName& type : kUnreadTypes) {
    if (type.number == number) return std::string(type.name);
  }
  return fmt::format("type {}", number);
}

int bundle_type_number(DType dtype) {
  return std::find_if(
             std::begin(kTypes), std::end(kTypes), [&](const BundleType& type) { return type.storage.dtype == dtype; })
      ->number;
}

std::string bundle_shard_path(std::string_view prefix, int shard, int num_shards) {
  return fmt::format("{}.data-{:05}-of-{:05}", prefix, shard, num_shards);
}

std::string bundle_slice_key(std::string_view name, const tensor_bundle::TensorSlice& slice) {
  std::string key;
  put_ordered_count(key, 0);
  put_ordered_string(key, name);
  put_ordered_count(key, static_cast<uint64_t>(slice.extent_size()));
  for (const tensor_bundle::Extent& extent : slice.extent()) {
    put_ordered_integer(key, extent.has_length() ? extent.start() : 0);
    put_ordered_integer(key, extent.has_length() ? extent.length() : -1);
  }
  return key;
}

}  // namespace weft
