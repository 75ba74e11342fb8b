#include "checkpoint/pickle_bytes.h"

#include <cstdint>
#include <string_view>

#include "core/error.h"

namespace weft {
namespace {

constexpr size_t kMaxPickleBytes = size_t{256} << 20;
constexpr size_t kMaxNameBytes = 1000;  // of a module or an object

class PickleTaker {
 public:
  PickleTaker(FileCursor& cursor, const std::string& path, const char* what)
      : cursor_(cursor), path_(path), what_(what) {}

  std::string take() {
    while (take_op()) {
      if (bytes_.size() > kMaxPickleBytes) {
        fail_input("{}: {} is larger than {} bytes; damaged file", printable(path_), what_, kMaxPickleBytes);
      }
    }
    return std::move(bytes_);
  }

 private:
  /// Takes an opcode and its arguments; false after the last.
  bool take_op() {
    auto op = static_cast<uint8_t>(take_value(1));
    switch (op) {
      case '.':
        return false;
      case '(':
      case ')':
      case 'N':
      case 'Q':
      case 'R':
      case ']':
      case 'a':
      case 'b':
      case 'e':
      case 's':
      case 't':
      case 'u':
      case '}':
      case 0x85:
      case 0x86:
      case 0x87:
      case 0x88:
      case 0x89:
      case 0x93:
      case 0x94:
        break;
      case 0x80:  // PROTO
      case 'K':
      case 'h':
      case 'q':
        take_value(1);
        break;
      case 'M':
        take_value(2);
        break;
      case 'J':
      case 'j':
      case 'r':
        take_value(4);
        break;
      case 'G':
      case 0x95:
        take_value(8);
        break;
      case 0x8a:
      case 0x8c:
        take_bytes(take_value(1));
        break;
      case 'X':
        take_bytes(take_value(4));
        break;
      case 'c':
        take_line();
        take_line();
        break;
      default:
        return false;
    }
    return true;
  }

  void take_bytes(uint64_t count) {
    if (count > kMaxPickleBytes) {
      fail_input("{}: {} has a text of {} bytes; damaged file", printable(path_), what_, count);
    }
    bytes_ += cursor_.read_string(count, what_);
  }

  /// Little-endian.
  uint64_t take_value(size_t size) {
    uint64_t value = 0;
    cursor_.read(&value, static_cast<int64_t>(size), what_);
    bytes_.append(reinterpret_cast<const char*>(&value), size);
    return value;
  }

  void take_line() {
    for (size_t i = 0; i < kMaxNameBytes; ++i) {
      if (take_value(1) == '\n') return;
    }
    fail_input("{}: {} holds a name without an end; damaged file", printable(path_), what_);
  }

  FileCursor& cursor_;
  const std::string& path_;
  const char* what_;
  std::string bytes_;
};

}  // namespace

std::string take_pickle(FileCursor& cursor, const std::string& path, const char* what) {
  return PickleTaker(cursor, path, what).take();
}

}  // namespace weft
