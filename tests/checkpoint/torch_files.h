// Builders for PyTorch checkpoints written by hand: zip archives and pickles.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/test_files.h"
#include "core/crc32c.h"

namespace weft {

/// A record of a zip archive, with what may be said of it that is not true.
struct ZipPart {
  std::string name;
  std::string bytes = {};
  uint16_t method = 0;
  uint16_t flags = 0x0808;
  std::optional<uint32_t> size = std::nullopt;    // in the directory
  std::optional<uint32_t> offset = std::nullopt;  // of the local header, in the directory
  std::optional<std::string> local_name = std::nullopt;
  std::optional<uint32_t> local_size = std::nullopt;
  std::string extra = {};  // of the directory's entry
  uint32_t crc_error = 0;
};

/// What the end of the archive says, where it isn't true.
struct ZipEnd {
  std::optional<uint16_t> num_records = std::nullopt;
  std::optional<uint32_t> size = std::nullopt;
  std::optional<uint32_t> offset = std::nullopt;
  std::string behind_directory = {};
  std::string comment = {};
};

inline std::string zip_bytes(const std::vector<ZipPart>& parts, const ZipEnd& end = {}) {
  ByteWriter file, directory;
  for (const ZipPart& part : parts) {
    auto begin = static_cast<uint32_t>(file.bytes().size());
    auto size = static_cast<uint32_t>(part.bytes.size());
    std::string local_name = part.local_name.value_or(part.name);
    file.put<uint32_t>(0x04034b50).put<uint16_t>(0).put(part.flags).put(part.method).put<uint32_t>(0);
    file.put<uint32_t>(0).put(part.local_size.value_or(0)).put(part.local_size.value_or(0));
    file.put(static_cast<uint16_t>(local_name.size())).put<uint16_t>(0).raw(local_name).raw(part.bytes);
    directory.put<uint32_t>(0x02014b50).put<uint32_t>(0).put(part.flags).put(part.method).put<uint32_t>(0);
    directory.put(extend_crc32(0, part.bytes.data(), part.bytes.size()) ^ part.crc_error);
    directory.put(part.size.value_or(size)).put(part.size.value_or(size));
    directory.put(static_cast<uint16_t>(part.name.size())).put(static_cast<uint16_t>(part.extra.size()));
    directory.put<uint16_t>(0).put<uint16_t>(0).put<uint16_t>(0).put<uint32_t>(0).put(part.offset.value_or(begin));
    directory.raw(part.name).raw(part.extra);
  }
  auto num_records = static_cast<uint16_t>(parts.size());
  ByteWriter tail;
  tail.put<uint32_t>(0x06054b50).put<uint32_t>(0);
  tail.put(end.num_records.value_or(num_records)).put(end.num_records.value_or(num_records));
  tail.put(end.size.value_or(static_cast<uint32_t>(directory.bytes().size())));
  tail.put(end.offset.value_or(static_cast<uint32_t>(file.bytes().size())));
  tail.put(static_cast<uint16_t>(end.comment.size())).raw(end.comment);
  return file.raw(directory.bytes()).raw(end.behind_directory).raw(tail.bytes()).bytes();
}

/// The 64-bit end of an archive and what points to it, for ZipEnd::behind_directory.
struct ZipEnd64 {
  uint64_t position = 0;
  uint64_t num_records = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};

inline std::string zip_end64(const ZipEnd64& end) {
  ByteWriter bytes;
  bytes.put<uint32_t>(0x06064b50).put<uint64_t>(44).put<uint32_t>(0).put<uint64_t>(0);
  bytes.put(end.num_records).put(end.num_records).put(end.size).put(end.offset);
  return bytes.put<uint32_t>(0x07064b50).put<uint32_t>(0).put(end.position).put<uint32_t>(1).bytes();
}

inline std::string pickled_text(std::string_view text) {
  return ByteWriter().raw("X").put(static_cast<uint32_t>(text.size())).raw(text).bytes();
}

/// LONG1 of 8 bytes.
inline std::string pickled_number(int64_t number) {
  return ByteWriter().raw("\x8a\x08").put(number).bytes();
}

inline std::string pickled_numbers(const std::vector<int64_t>& numbers) {
  std::string bytes = "(";
  for (int64_t number : numbers) bytes += pickled_number(number);
  return bytes + "t";
}

struct PickledForm {
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  int64_t offset = 0;
  int64_t storage_elements = 4;
  std::string storage = "0";
  std::string type = "FloatStorage";
};

inline std::string pickled_tensor(const PickledForm& form) {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled_text("storage") + "ctorch\n" + form.type + "\n" +
         pickled_text(form.storage) + pickled_text("cpu") + pickled_number(form.storage_elements) + "tQ" +
         pickled_number(form.offset) + pickled_numbers(form.shape) + pickled_numbers(form.strides) +
         "\x89"
         "ccollections\nOrderedDict\n)RtR";
}

/// A dict with one item.
inline std::string pickled_dict(std::string_view name, const std::string& value) {
  return "}" + pickled_text(name) + value + "s";
}

inline std::string pickle_of(const std::string& ops) {
  return "\x80\x02" + ops + ".";
}

/// An archive as torch.save writes it, whose storage data/0 is [0, 1, 2, 3].
inline std::vector<ZipPart> torch_parts(const std::string& pickle) {
  return {{.name = "x/data.pkl", .bytes = pickle},
          {.name = "x/byteorder", .bytes = "little"},
          {.name = "x/data/0", .bytes = bytes_of<float>({0, 1, 2, 3})},
          {.name = "x/version", .bytes = "3\n"}};
}

}  // namespace weft
