// Event files read back by a reader that shares nothing with the writer: framing, checksums and wire format by hand.
#include "report/tensorboard.h"

#include <gmock/gmock.h>

#include <cstring>
#include <map>

#include "core/crc32c.h"
#include "report/temporary_directory.h"

namespace weft {
namespace {

/// Bit by bit, from the definition: reflected polynomial 0x1EDC6F41.
uint32_t plain_crc32c(const std::string& bytes) {
  uint32_t crc = ~0u;
  for (unsigned char byte : bytes) {
    crc ^= byte;
    for (int i = 0; i < 8; ++i) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
  }
  return ~crc;
}

template <typename T>
T little_endian(const std::string& bytes, size_t at) {
  T value = 0;
  std::memcpy(&value, bytes.substr(at, sizeof(T)).data(), sizeof(T));  // the tests run on little-endian machines
  return value;
}

uint32_t unmask(uint32_t masked) {
  uint32_t rotated = masked - 0xa282ead8u;
  return (rotated >> 17) | (rotated << 15);
}

std::vector<std::string> read_records(const std::string& file) {
  std::vector<std::string> records;
  size_t at = 0;
  while (at < file.size()) {
    auto length = little_endian<uint64_t>(file, at);
    EXPECT_EQ(unmask(little_endian<uint32_t>(file, at + 8)), plain_crc32c(file.substr(at, 8)));
    std::string record = file.substr(at + 12, length);
    EXPECT_EQ(record.size(), length);
    EXPECT_EQ(unmask(little_endian<uint32_t>(file, at + 12 + length)), plain_crc32c(record));
    records.push_back(record);
    at += 16 + length;
  }
  EXPECT_EQ(at, file.size());
  return records;
}

/// Fields of a Protobuf message by number: varints and fixed numbers as their bytes, the rest as it is.
std::multimap<uint64_t, std::string> read_fields(const std::string& message) {
  std::multimap<uint64_t, std::string> fields;
  size_t at = 0;
  auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < message.size(); shift += 7) {
      auto byte = static_cast<unsigned char>(message[at++]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < message.size()) {
    uint64_t key = varint();
    uint64_t size = 0;
    if ((key & 7) == 0) {
      uint64_t value = varint();
      fields.emplace(key >> 3, std::string(reinterpret_cast<const char*>(&value), sizeof(value)));
      continue;
    }
    size = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : varint();
    fields.emplace(key >> 3, message.substr(at, size));
    at += size;
  }
  return fields;
}

std::string field(const std::multimap<uint64_t, std::string>& fields, uint64_t number) {
  auto found = fields.find(number);
  EXPECT_NE(found, fields.end()) << "no field " << number;
  return found == fields.end() ? std::string(8, '\0') : found->second;
}

std::vector<std::string> event_files(const TemporaryDirectory& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
    names.push_back(entry.path().filename().string());
  return names;
}

WriteWarning fail_on_warning() {
  return WriteWarning([](const std::string& text) { ADD_FAILURE() << text; });
}

TEST(TensorBoard, crc32c_equals_the_published_values) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);    // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);  // likewise
}

TEST(TensorBoard, an_independent_reader_finds_the_scalars) {
  TemporaryDirectory directory;
  WriteWarning warning = fail_on_warning();
  {
    TensorBoardWriter writer(directory.path(), 11, warning);
    writer.add_scalars(300, {{"train/loss", 2.5}, {"train/learning_rate", 1e-4}});
  }
  std::vector<std::string> files = event_files(directory);
  ASSERT_EQ(files.size(), 1u);
  EXPECT_THAT(files[0], testing::HasSubstr("tfevents"));
  std::vector<std::string> records = read_records(directory.read(files[0]));
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(field(read_fields(records[0]), 3), "brain.Event:2");

  auto start = read_fields(records[1]);
  EXPECT_EQ(little_endian<int64_t>(field(start, 2), 0), 11);
  EXPECT_EQ(little_endian<int64_t>(field(read_fields(field(start, 7)), 1), 0), 1);

  auto event = read_fields(records[2]);
  EXPECT_EQ(little_endian<int64_t>(field(event, 2), 0), 300);
  std::map<std::string, float> scalars;
  auto values = read_fields(field(event, 5));
  for (auto [value, end] = values.equal_range(1); value != end; ++value) {
    auto scalar = read_fields(value->second);
    float number = 0;
    std::memcpy(&number, field(scalar, 2).data(), sizeof(number));
    scalars[field(scalar, 1)] = number;
  }
  EXPECT_THAT(
      scalars,
      testing::UnorderedElementsAre(testing::Pair("train/loss", 2.5F), testing::Pair("train/learning_rate", 1e-4F)));
}

TEST(TensorBoard, every_start_has_a_file_of_its_own) {
  TemporaryDirectory directory;
  WriteWarning warning = fail_on_warning();
  TensorBoardWriter first(directory.path(), 0, warning);
  TensorBoardWriter second(directory.path(), 5, warning);
  EXPECT_EQ(event_files(directory).size(), 2u);
}

}  // namespace
}  // namespace weft
