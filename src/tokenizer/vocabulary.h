// Tokens by id and by text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

/// Byte strings to numbers: open addressing over one arena.
class StringTable {
 public:
  explicit StringTable(size_t expected_entries = 0);

  /// Adds the entry or overwrites its value.
  void set(std::string_view key, int32_t value);
  /// -1 when absent. Values must not be negative.
  int32_t find(std::string_view key) const;
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint64_t hash;
    uint32_t offset;
    uint32_t length;
    int32_t value;
  };
  size_t slot_of(std::string_view key, uint64_t hash) const;
  void grow();

  std::vector<Entry> entries_;
  std::vector<int32_t> slots_;  // index of the entry; -1: free
  std::string arena_;
};

class Vocabulary {
 public:
  explicit Vocabulary(size_t expected_tokens = 0) : ids_(expected_tokens) {}

  /// The caller has bounded `id` (see check_token_id). A later token takes over the id or the text of an earlier one.
  void add(std::string_view token, int32_t id);
  /// -1 when absent.
  int32_t find(std::string_view token) const { return ids_.find(token); }
  bool contains(int32_t id) const { return id >= 0 && id < size() && tokens_[static_cast<size_t>(id)].is_used; }
  /// Empty for an id without a token.
  std::string_view token(int32_t id) const;
  /// One more than the largest id.
  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }

 private:
  struct Token {
    uint32_t offset = 0;
    uint32_t length : 31 = 0;
    uint32_t is_used : 1 = 0;
  };
  StringTable ids_;
  std::vector<Token> tokens_;
  std::string arena_;
};

/// Ids index tables, so a file with `num_tokens` tokens may leave only so many ids unused. Throws Error(bad_input)
/// naming `where`.
void check_token_id(int64_t id, size_t num_tokens, std::string_view token, const std::string& where);

}  // namespace weft
