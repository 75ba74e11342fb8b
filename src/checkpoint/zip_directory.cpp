#include "checkpoint/zip_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace weft {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kDirectoryHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr int64_t kLocalHeaderBytes = 30;
constexpr size_t kDirectoryHeaderBytes = 46;
constexpr int64_t kEndBytes = 22;
constexpr int64_t kEnd64LocatorBytes = 20;
constexpr int64_t kEnd64Bytes = 56;
constexpr uint16_t kSizes64Field = 1;
constexpr uint32_t kIn64Bits = 0xFFFFFFFF;  // the value is too large and stands elsewhere
constexpr uint16_t kIsEncrypted = 1;

/// A little-endian value at `offset`, which the caller has checked.
template <typename T>
T value_at(std::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

/// Where the directory lies, as the records at the file's end say.
struct Place {
  uint64_t num_records = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};

/// A record and what its local header is held against.
struct Entry {
  ZipRecord record;
  int64_t header_offset = 0;
  uint16_t flags = 0;
};

class DirectoryReading {
 public:
  explicit DirectoryReading(const File& file) : file_(file) {}

  std::vector<ZipRecord> records() {
    Place place = find_directory();
    parse(read(directory_begin_, static_cast<int64_t>(place.size)), place.num_records);
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      return a.header_offset < b.header_offset;
    });
    for (size_t i = 0; i < entries_.size(); ++i) {
      locate(entries_[i], i + 1 < entries_.size() ? entries_[i + 1].header_offset : directory_begin_);
    }
    return sorted();
  }

 private:
  [[noreturn]] void damaged(std::string_view what) const {
    fail_input("{}: {}; damaged, truncated, or no torch archive", printable(file_.path()), what);
  }

  [[noreturn]] void damaged(const ZipRecord& record, std::string_view what) const {
    fail_input("{}: {} {}; damaged archive", printable(file_.path()), printable(record.name), what);
  }

  std::string read(int64_t offset, int64_t count) const {
    std::string bytes(static_cast<size_t>(count), '\0');
    file_.read(offset, bytes.data(), count);
    return bytes;
  }

  /// Sets directory_begin_. The directory ends where the records begin that say where it lies.
  Place find_directory() {
    if (file_.size() < kEndBytes) damaged(fmt::format("{} bytes are no zip archive", file_.size()));
    int64_t end = file_.size() - kEndBytes;
    std::string bytes = read(end, kEndBytes);
    if (value_at<uint32_t>(bytes, 0) != kEnd || value_at<uint16_t>(bytes, 20) != 0) {
      damaged("does not end as an archive of torch.save does");
    }
    if (value_at<uint32_t>(bytes, 4) != 0) damaged("says that it has several disks");
    Place place{value_at<uint16_t>(bytes, 10), value_at<uint32_t>(bytes, 12), value_at<uint32_t>(bytes, 16)};
    if (value_at<uint16_t>(bytes, 8) != place.num_records) damaged("says that it has several disks");
    if (has_end64(end)) {
      end -= kEnd64LocatorBytes + kEnd64Bytes;
      place = find_directory64(end, place);
    }
    auto limit = static_cast<uint64_t>(end);
    if (place.size > limit || place.offset != limit - place.size) damaged("has a directory that is not before its end");
    if (place.num_records > place.size / kDirectoryHeaderBytes) {
      damaged(fmt::format("says its directory of {} bytes has {} entries", place.size, place.num_records));
    }
    directory_begin_ = static_cast<int64_t>(place.offset);
    return place;
  }

  bool has_end64(int64_t end) const {
    if (end < kEnd64LocatorBytes + kEnd64Bytes) return false;
    return value_at<uint32_t>(read(end - kEnd64LocatorBytes, 4), 0) == kEnd64Locator;
  }

  Place find_directory64(int64_t begin, const Place& narrow) const {
    std::string bytes = read(begin, kEnd64Bytes + kEnd64LocatorBytes);
    bool is_located = value_at<uint32_t>(bytes, kEnd64Bytes + 4) == 0 &&
                      value_at<uint64_t>(bytes, kEnd64Bytes + 8) == static_cast<uint64_t>(begin) &&
                      value_at<uint32_t>(bytes, kEnd64Bytes + 16) <= 1;
    if (!is_located || value_at<uint32_t>(bytes, 0) != kEnd64 || value_at<uint64_t>(bytes, 4) != kEnd64Bytes - 12) {
      damaged("has no 64-bit end where it says");
    }
    if (value_at<uint64_t>(bytes, 16) != 0) damaged("says that it has several disks");
    Place place{value_at<uint64_t>(bytes, 32), value_at<uint64_t>(bytes, 40), value_at<uint64_t>(bytes, 48)};
    auto agree = [](uint64_t narrow_value, uint64_t value, uint64_t in_64_bits) {
      return narrow_value == value || narrow_value == in_64_bits;
    };
    if (value_at<uint64_t>(bytes, 24) != place.num_records || !agree(narrow.num_records, place.num_records, 0xFFFF) ||
        !agree(narrow.size, place.size, kIn64Bits) || !agree(narrow.offset, place.offset, kIn64Bits)) {
      damaged("has two ends that disagree");
    }
    return place;
  }

  void parse(std::string_view directory, uint64_t num_records) {
    for (uint64_t i = 0; i < num_records; ++i) {
      if (directory.size() < kDirectoryHeaderBytes || value_at<uint32_t>(directory, 0) != kDirectoryHeader) {
        damaged(fmt::format("has a directory whose entry {} cannot be read", i));
      }
      size_t name_bytes = value_at<uint16_t>(directory, 28);
      size_t extra_bytes = value_at<uint16_t>(directory, 30);
      size_t comment_bytes = value_at<uint16_t>(directory, 32);
      if (directory.size() - kDirectoryHeaderBytes < name_bytes + extra_bytes + comment_bytes) {
        damaged(fmt::format("has a directory whose entry {} is longer than the directory", i));
      }
      entries_.push_back(parse_entry(directory,
                                     directory.substr(kDirectoryHeaderBytes, name_bytes),
                                     directory.substr(kDirectoryHeaderBytes + name_bytes, extra_bytes)));
      directory.remove_prefix(kDirectoryHeaderBytes + name_bytes + extra_bytes + comment_bytes);
    }
    if (!directory.empty()) damaged("has a directory with something behind its entries");
  }

  Entry parse_entry(std::string_view header, std::string_view name, std::string_view extra) const {
    Entry entry{.record = {.name = std::string(name), .crc32 = value_at<uint32_t>(header, 16)},
                .flags = value_at<uint16_t>(header, 8)};
    if ((entry.flags & kIsEncrypted) != 0) damaged(entry.record, "is encrypted");
    if (value_at<uint16_t>(header, 10) != 0) {
      fail_input("{}: {} is compressed, which torch.save does not do; save the file again with torch.save",
                 printable(file_.path()),
                 printable(name));
    }
    if (value_at<uint16_t>(header, 34) != 0) damaged(entry.record, "lies on another disk");
    // In the order in which their 64-bit forms follow each other.
    uint64_t size = value_at<uint32_t>(header, 24);
    uint64_t packed_size = value_at<uint32_t>(header, 20);
    uint64_t offset = value_at<uint32_t>(header, 42);
    std::string_view wide = sizes64(extra);
    for (uint64_t* value : {&size, &packed_size, &offset}) {
      if (*value != kIn64Bits) continue;
      if (wide.size() < 8) damaged(entry.record, "lacks a 64-bit size");
      *value = value_at<uint64_t>(wide, 0);
      wide.remove_prefix(8);
    }
    auto limit = static_cast<uint64_t>(directory_begin_);
    if (size != packed_size) damaged(entry.record, "has two sizes");
    if (offset > limit || size > limit) damaged(entry.record, "lies outside of the file");
    entry.record.size = static_cast<int64_t>(size);
    entry.header_offset = static_cast<int64_t>(offset);
    return entry;
  }

  /// The extra field with 64-bit sizes; empty when there is none.
  static std::string_view sizes64(std::string_view extra) {
    while (extra.size() >= 4) {
      auto kind = value_at<uint16_t>(extra, 0);
      size_t bytes = std::min<size_t>(value_at<uint16_t>(extra, 2), extra.size() - 4);
      if (kind == kSizes64Field) return extra.substr(4, bytes);
      extra.remove_prefix(4 + bytes);
    }
    return {};
  }

  /// Finds the record's bytes behind its local header. They end before `limit`.
  void locate(Entry& entry, int64_t limit) const {
    ZipRecord& record = entry.record;
    auto name_bytes = static_cast<int64_t>(record.name.size());
    int64_t room = limit - entry.header_offset;
    if (room < kLocalHeaderBytes + name_bytes) damaged(record, "shares bytes with another record");
    std::string header = read(entry.header_offset, kLocalHeaderBytes + name_bytes);
    bool is_same = value_at<uint32_t>(header, 0) == kLocalHeader && value_at<uint16_t>(header, 6) == entry.flags &&
                   value_at<uint16_t>(header, 8) == 0 && value_at<uint16_t>(header, 26) == record.name.size() &&
                   header.compare(kLocalHeaderBytes, std::string::npos, record.name) == 0 &&
                   is_size_of(record, value_at<uint32_t>(header, 18)) &&
                   is_size_of(record, value_at<uint32_t>(header, 22));
    if (!is_same) damaged(record, "has a header that says something else than the directory");
    int64_t header_bytes = kLocalHeaderBytes + name_bytes + value_at<uint16_t>(header, 28);
    if (room < header_bytes || record.size > room - header_bytes) damaged(record, "shares bytes with another record");
    record.offset = entry.header_offset + header_bytes;
  }

  /// The size in a local header is 0 where it follows the bytes.
  static bool is_size_of(const ZipRecord& record, uint32_t size) {
    return size == 0 || size == kIn64Bits || static_cast<int64_t>(size) == record.size;
  }

  std::vector<ZipRecord> sorted() {
    std::vector<ZipRecord> records;
    records.reserve(entries_.size());
    for (Entry& entry : entries_) records.push_back(std::move(entry.record));
    std::sort(records.begin(), records.end(), [](const ZipRecord& a, const ZipRecord& b) { return a.name < b.name; });
    for (size_t i = 1; i < records.size(); ++i) {
      if (records[i].name == records[i - 1].name) damaged(records[i], "is there twice");
    }
    return records;
  }

  const File& file_;
  int64_t directory_begin_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace

std::vector<ZipRecord> read_zip_directory(const File& file) {
  return DirectoryReading(file).records();
}

const ZipRecord* find_zip_record(const std::vector<ZipRecord>& records, std::string_view name) {
  auto found =
      std::lower_bound(records.begin(), records.end(), name, [](const ZipRecord& record, std::string_view key) {
        return record.name < key;
      });
  return found == records.end() || found->name != name ? nullptr : &*found;
}

}  // namespace weft
