#include "report/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "core/crc32c.h"
#include "core/paths.h"
#include "report/tensorboard_event.pb.h"

namespace weft {
namespace {

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : std::string("localhost");
}

/// TensorBoard looks for "tfevents" and sorts by name.
std::string new_file_name(const std::string& directory) {
  auto base = fmt::format("{}/events.out.tfevents.{:010}.{}.{}",
                          directory,
                          static_cast<int64_t>(seconds_since_1970()),
                          host_name(),
                          getpid());
  int index = 0;
  while (path_exists(fmt::format("{}.{}", base, index))) ++index;
  return fmt::format("{}.{}", base, index);
}

template <typename T>
void append_little_endian(std::string& bytes, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
}

uint32_t masked_crc32c(std::string_view bytes) {
  uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}

/// length, its checksum, the bytes, their checksum.
std::string frame_record(std::string_view bytes) {
  std::string record;
  append_little_endian<uint64_t>(record, bytes.size());
  append_little_endian<uint32_t>(record, masked_crc32c(record));
  record += bytes;
  append_little_endian<uint32_t>(record, masked_crc32c(bytes));
  return record;
}

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::string& directory, int64_t first_step, WriteWarning& warning) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  file_ = std::make_unique<LogFile>(new_file_name(directory), -1, warning);
  tensorboard::Event version;
  version.set_wall_time(seconds_since_1970());
  version.set_file_version("brain.Event:2");
  append_record(version.SerializeAsString());
  tensorboard::Event start;
  start.set_wall_time(seconds_since_1970());
  start.set_step(first_step);
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  append_record(start.SerializeAsString());
}

TensorBoardWriter::~TensorBoardWriter() = default;

void TensorBoardWriter::add_scalars(int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  tensorboard::Event event;
  event.set_wall_time(seconds_since_1970());
  event.set_step(step);
  for (const auto& [tag, value] : scalars) {
    tensorboard::Summary::Value* scalar = event.mutable_summary()->add_value();
    scalar->set_tag(tag);
    scalar->set_simple_value(static_cast<float>(value));
  }
  append_record(event.SerializeAsString());
}

void TensorBoardWriter::append_record(const std::string& event) {
  file_->append(frame_record(event));
}

}  // namespace weft
