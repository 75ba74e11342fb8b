#include "generate/beam_slots.h"

#include <utility>

#include "core/error.h"

namespace weft {

BeamSlots::BeamSlots(std::vector<int64_t> slots)
    : slots_(std::move(slots)), places_(1, 0), common_(slots_.size() * slots_.size(), 0) {}

const std::vector<BeamSlots::Copy>& BeamSlots::follow(std::span<const int32_t> parents, int64_t length) {
  WEFT_ASSERT(parents.size() <= slots_.size(), "{} beams in {} slots", parents.size(), slots_.size());
  constexpr size_t kNowhere = SIZE_MAX;
  copies_.clear();
  next_places_.assign(parents.size(), kNowhere);
  is_taken_.assign(slots_.size(), false);
  for (size_t beam = 0; beam < parents.size(); ++beam) {
    size_t source = places_[static_cast<size_t>(parents[beam])];
    if (is_taken_[source]) continue;
    next_places_[beam] = source;
    is_taken_[source] = true;
  }
  for (size_t beam = 0; beam < parents.size(); ++beam) {
    if (next_places_[beam] != kNowhere) continue;
    size_t source = places_[static_cast<size_t>(parents[beam])];
    size_t target = free_place_like(source);
    next_places_[beam] = target;
    is_taken_[target] = true;
    copy(source, target, length);
  }
  places_.swap(next_places_);
  return copies_;
}

/// The free slot that shares the longest beginning with another one.
size_t BeamSlots::free_place_like(size_t source) const {
  size_t best = slots_.size();
  const int64_t* common = common_.data() + source * slots_.size();
  for (size_t place = 0; place < slots_.size(); ++place) {
    if (!is_taken_[place] && (best == slots_.size() || common[place] > common[best])) best = place;
  }
  WEFT_ASSERT(best < slots_.size());
  return best;
}

void BeamSlots::copy(size_t source, size_t target, int64_t length) {
  copies_.push_back({.from = slots_[source], .to = slots_[target], .begin = common(source, target), .end = length});
  for (size_t other = 0; other < slots_.size(); ++other) {
    common(target, other) = common(other, target) = common(source, other);
  }
  common(source, target) = common(target, source) = length;
}

}  // namespace weft
