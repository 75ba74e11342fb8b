#include "checkpoint/tensorflow_index.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "checkpoint/file.h"
#include "core/crc32c.h"
#include "core/error.h"

namespace weft {
namespace {

constexpr uint64_t kMagic = 0xdb4775248b80fb57;
constexpr int64_t kFooterBytes = 48;
constexpr int64_t kTrailerBytes = 5;  // compression type and checksum
constexpr int64_t kMaxIndexBytes = int64_t{1} << 30;
constexpr size_t kBlockBytes = 256 << 10;
constexpr int kRestartInterval = 16;
/// Every sixteenth name is written whole, and none is much longer than its neighbours.
constexpr int64_t kMaxKeyBytesPerByte = 64;

using Entries = std::vector<std::pair<std::string, std::string>>;

/// Bytes read from the front.
class Reading {
 public:
  explicit Reading(std::string_view bytes) : bytes_(bytes) {}
  bool is_done() const { return bytes_.empty(); }
  size_t remaining() const { return bytes_.size(); }

  std::optional<uint64_t> varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      auto byte = static_cast<unsigned char>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return std::nullopt;
  }

  std::optional<std::string_view> take(uint64_t count) {
    if (count > bytes_.size()) return std::nullopt;
    std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }

 private:
  std::string_view bytes_;
};

struct Handle {
  int64_t offset = 0, size = 0;
};

class IndexFile {
 public:
  explicit IndexFile(const std::string& path) : file_(path) {
    if (file_.size() < kFooterBytes) damaged("is shorter than its footer");
    if (file_.size() > kMaxIndexBytes) damaged("is larger than any index");
  }

  Entries entries() const {
    std::string footer = read(file_.size() - kFooterBytes, kFooterBytes);
    uint64_t magic = 0;
    std::memcpy(&magic, footer.data() + kFooterBytes - 8, 8);
    if (magic != kMagic) damaged("does not end as the index of a TensorFlow checkpoint does");
    Reading handles(std::string_view(footer).substr(0, kFooterBytes - 8));
    block(handle(handles));  // the meta index, which holds nothing
    Entries result;
    int64_t previous_end = 0;
    for (const auto& [last_key, value] : block(handle(handles))) {
      Reading reading(value);
      Handle place = handle(reading);
      // Blocks that were read again and again could take any time.
      if (place.offset < previous_end) damaged("has blocks that overlap");
      previous_end = place.offset + place.size + kTrailerBytes;
      for (auto& entry : block(place)) {
        if (!result.empty() && entry.first <= result.back().first) damaged("has keys out of order");
        result.push_back(std::move(entry));
      }
    }
    return result;
  }

 private:
  [[noreturn]] void damaged(std::string_view what) const {
    fail_input("{}: {}; damaged, truncated, or no TensorFlow checkpoint", printable(file_.path()), what);
  }

  std::string read(int64_t offset, int64_t count) const {
    std::string bytes(static_cast<size_t>(count), '\0');
    file_.read(offset, bytes.data(), count);
    return bytes;
  }

  Handle handle(Reading& reading) const {
    std::optional<uint64_t> offset = reading.varint();
    std::optional<uint64_t> size = reading.varint();
    auto limit = static_cast<uint64_t>(file_.size());
    if (!offset || !size || *offset > limit || *size > limit || *offset + *size + kTrailerBytes > limit) {
      damaged("has a block that lies outside of it");
    }
    return {static_cast<int64_t>(*offset), static_cast<int64_t>(*size)};
  }

  Entries block(Handle place) const {
    std::string bytes = read(place.offset, place.size + kTrailerBytes);
    std::string_view covered = std::string_view(bytes).substr(0, static_cast<size_t>(place.size) + 1);
    uint32_t stored = 0;
    std::memcpy(&stored, bytes.data() + place.size + 1, 4);
    if (masked_crc32c(crc32c(covered)) != stored) damaged("has a block whose checksum is wrong");
    if (covered.back() == 1) damaged("is compressed, which TensorFlow does not do");
    if (covered.back() != 0) damaged("has a block of an unknown kind");
    return decode(covered.substr(0, covered.size() - 1));
  }

  Entries decode(std::string_view contents) const {
    uint32_t num_restarts = 0;
    if (contents.size() < 4) damaged("has a block without its end");
    std::memcpy(&num_restarts, contents.data() + contents.size() - 4, 4);
    if (num_restarts > (contents.size() - 4) / 4) damaged("has a block with more restarts than bytes");
    size_t entries_size = contents.size() - 4 - 4 * size_t{num_restarts};
    std::vector<uint32_t> restarts(num_restarts);
    // An empty vector has no address that memcpy may be given.
    if (num_restarts > 0) std::memcpy(restarts.data(), contents.data() + entries_size, 4 * size_t{num_restarts});
    return decode_entries(contents.substr(0, entries_size), restarts);
  }

  Entries decode_entries(std::string_view contents, const std::vector<uint32_t>& restarts) const {
    Reading reading(contents);
    Entries entries;
    std::string key;
    size_t num_restarts = 0;
    while (!reading.is_done()) {
      bool is_restart =
          num_restarts < restarts.size() && restarts[num_restarts] == contents.size() - reading.remaining();
      num_restarts += is_restart ? 1 : 0;
      std::optional<uint64_t> shared = reading.varint();
      std::optional<uint64_t> unshared = reading.varint();
      std::optional<uint64_t> value_length = reading.varint();
      if (!shared || !unshared || !value_length || *shared > key.size()) damaged("has an entry that cannot be");
      if (is_restart && *shared != 0) damaged("has a restart inside of a name");
      std::optional<std::string_view> rest = reading.take(*unshared);
      std::optional<std::string_view> value = rest ? reading.take(*value_length) : std::nullopt;
      if (!value) damaged("has an entry that is longer than its block");
      key.resize(*shared);
      key += *rest;
      // Keys that repeat each other's beginnings could make far more bytes than the file has.
      key_bytes_ += static_cast<int64_t>(key.size());
      if (key_bytes_ > kMaxKeyBytesPerByte * file_.size()) damaged("has names that are too long");
      entries.emplace_back(key, *value);
    }
    // A block without entries has one restart all the same.
    if (num_restarts != restarts.size() && !entries.empty()) damaged("has a restart that is no entry's start");
    return entries;
  }

  File file_;
  mutable int64_t key_bytes_ = 0;
};

void put_varint(std::string& to, uint64_t value) {
  while (value >= 0x80) {
    to.push_back(static_cast<char>((value & 0x7F) | 0x80));
    value >>= 7;
  }
  to.push_back(static_cast<char>(value));
}

void put_u32(std::string& to, uint32_t value) {
  for (int i = 0; i < 4; ++i) to.push_back(static_cast<char>(value >> (8 * i)));
}

class BlockWriter {
 public:
  explicit BlockWriter(int restart_interval) : restart_interval_(restart_interval) {}

  void add(const std::string& key, std::string_view value) {
    size_t shared = 0;
    if (count_ % restart_interval_ == 0) {
      restarts_.push_back(static_cast<uint32_t>(bytes_.size()));
    } else {
      while (shared < std::min(key.size(), last_key_.size()) && key[shared] == last_key_[shared]) ++shared;
    }
    put_varint(bytes_, shared);
    put_varint(bytes_, key.size() - shared);
    put_varint(bytes_, value.size());
    bytes_.append(key, shared);
    bytes_ += value;
    last_key_ = key;
    ++count_;
  }

  bool is_empty() const { return count_ == 0; }
  size_t estimated_bytes() const { return bytes_.size() + 4 * restarts_.size() + 4; }
  const std::string& last_key() const { return last_key_; }

  /// Appends the finished block to a file's bytes; returns its handle.
  std::string finish(std::string& file) {
    if (restarts_.empty()) restarts_.push_back(0);
    for (uint32_t restart : restarts_) put_u32(bytes_, restart);
    put_u32(bytes_, static_cast<uint32_t>(restarts_.size()));
    std::string handle;
    put_varint(handle, file.size());
    put_varint(handle, bytes_.size());
    bytes_.push_back(0);
    file += bytes_;
    put_u32(file, masked_crc32c(crc32c(bytes_)));
    *this = BlockWriter(restart_interval_);
    return handle;
  }

 private:
  int restart_interval_;
  int count_ = 0;
  std::string bytes_;
  std::string last_key_;
  std::vector<uint32_t> restarts_;
};

/// A short key at or above `key` and below `next` (LevelDB's FindShortestSeparator).
std::string separator(const std::string& key, const std::string& next) {
  size_t common = 0;
  while (common < std::min(key.size(), next.size()) && key[common] == next[common]) ++common;
  if (common >= std::min(key.size(), next.size())) return key;
  auto byte = static_cast<unsigned char>(key[common]);
  if (byte == 0xFF || byte + 1 >= static_cast<unsigned char>(next[common])) return key;
  return key.substr(0, common) + static_cast<char>(byte + 1);
}

/// A short key at or above all (LevelDB's FindShortSuccessor).
std::string successor(const std::string& key) {
  for (size_t i = 0; i < key.size(); ++i) {
    auto byte = static_cast<unsigned char>(key[i]);
    if (byte != 0xFF) return key.substr(0, i) + static_cast<char>(byte + 1);
  }
  return key;
}

}  // namespace

Entries read_tensorflow_index(const std::string& path) {
  return IndexFile(path).entries();
}

std::string tensorflow_index_bytes(const Entries& entries) {
  std::string file;
  BlockWriter data(kRestartInterval);
  BlockWriter index(1);
  for (size_t i = 0; i < entries.size(); ++i) {
    data.add(entries[i].first, entries[i].second);
    bool is_last = i + 1 == entries.size();
    if (data.estimated_bytes() < kBlockBytes && !is_last) continue;
    std::string key = is_last ? successor(entries[i].first) : separator(entries[i].first, entries[i + 1].first);
    index.add(key, data.finish(file));
  }
  BlockWriter meta(1);
  std::string footer = meta.finish(file);
  footer += index.finish(file);
  footer.resize(kFooterBytes - 8, '\0');
  put_u32(footer, static_cast<uint32_t>(kMagic));
  put_u32(footer, static_cast<uint32_t>(kMagic >> 32));
  return file + footer;
}

}  // namespace weft
