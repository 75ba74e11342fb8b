// Where the keys and values of a search's beams lie.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace weft {

/// The cache slots of one request's beams. A beam that goes on in one way stays in its slot. One that goes on in
/// several is copied for all but the first of them, into slots of beams that ended here, and only from where the two
/// parted: as every beam keeps its parent's slot, no copy is in another's way.
class BeamSlots {
 public:
  /// Tokens [begin, end) from a cache slot to another.
  struct Copy {
    int64_t from = 0;
    int64_t to = 0;
    int64_t begin = 0;
    int64_t end = 0;
  };

  /// There is one beam at first, in the first of the slots.
  explicit BeamSlots(std::vector<int64_t> slots);

  /// The next beams, by their parents among the present ones; at most as many as there are slots. Every present beam
  /// has `length` tokens in the cache. Returns what has to be copied, in any order, before they go on.
  const std::vector<Copy>& follow(std::span<const int32_t> parents, int64_t length);

  int64_t slot(size_t beam) const { return slots_[places_[beam]]; }
  const std::vector<int64_t>& slots() const { return slots_; }

 private:
  size_t free_place_like(size_t source) const;
  void copy(size_t source, size_t target, int64_t length);
  int64_t& common(size_t a, size_t b) { return common_[a * slots_.size() + b]; }

  std::vector<int64_t> slots_;
  std::vector<size_t> places_;   // of each beam, among slots_
  std::vector<int64_t> common_;  // [slots, slots]: so many tokens at the beginning are the same in both, at least
  std::vector<Copy> copies_;
  std::vector<size_t> next_places_;
  std::vector<bool> is_taken_;
};

}  // namespace weft
