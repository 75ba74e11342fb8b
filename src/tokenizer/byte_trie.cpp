#include "tokenizer/byte_trie.h"

#include <utility>

namespace weft {

void ByteTrie::insert(uint32_t root, std::string_view key, int32_t value) {
  if (key.empty()) return;
  uint32_t node = root;
  for (const char byte : key) {
    const uint32_t edge_key = node << 8 | static_cast<unsigned char>(byte);
    const size_t slot = slot_of(edge_key);
    if (edges_[slot].child != 0) {
      node = edges_[slot].child;
      continue;
    }
    node = static_cast<uint32_t>(values_.size());
    values_.push_back(-1);
    edges_[slot] = {.key = edge_key, .child = node};
    if (++num_edges_ * 2 > edges_.size()) grow();
  }
  values_[node] = value;
}

void ByteTrie::grow() {
  std::vector<Edge> old(edges_.size() * 2);
  std::swap(old, edges_);
  for (const Edge& edge : old) {
    if (edge.child != 0) edges_[slot_of(edge.key)] = edge;
  }
}

ByteTrie::Match ByteTrie::longest_match(uint32_t root, std::string_view text) const {
  Match match;
  uint32_t node = root;
  for (size_t length = 1; length <= text.size(); ++length) {
    node = child(node, static_cast<unsigned char>(text[length - 1]));
    if (node == 0) break;
    if (values_[node] >= 0) match = {.value = values_[node], .length = length};
  }
  return match;
}

}  // namespace weft
