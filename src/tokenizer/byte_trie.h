// Byte strings to numbers, found a byte at a time: the longest one that a text starts with.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/hash.h"

namespace weft {

/// Several tries in one table of edges. Nodes are numbered from 0, the roots first; a number has 24 bits, so all keys
/// together must stay below 2^24 bytes.
class ByteTrie {
 public:
  struct Match {
    int32_t value = -1;
    size_t length = 0;  // 0: none
  };

  explicit ByteTrie(uint32_t num_roots = 1) : values_(num_roots, -1), edges_(size_t{1} << 10) {}

  /// Adds the key or overwrites its value, which is not negative. An empty key is passed over.
  void insert(uint32_t root, std::string_view key, int32_t value);

  /// 0, which is nobody's child, where no key goes on so.
  uint32_t child(uint32_t node, unsigned char byte) const { return edges_[slot_of(node << 8 | byte)].child; }
  /// Of the key that ends at the node; -1: none does.
  int32_t value(uint32_t node) const { return values_[node]; }
  Match longest_match(uint32_t root, std::string_view text) const;

 private:
  struct Edge {
    uint32_t key = 0;    // parent << 8 | byte
    uint32_t child = 0;  // 0: free
  };

  size_t slot_of(uint32_t key) const {
    const size_t mask = edges_.size() - 1;
    size_t slot = mix_hash(key, 1) & mask;
    while (edges_[slot].child != 0 && edges_[slot].key != key) slot = (slot + 1) & mask;
    return slot;
  }
  void grow();

  std::vector<int32_t> values_;  // by node
  std::vector<Edge> edges_;      // open addressing
  size_t num_edges_ = 0;
};

}  // namespace weft
