#include "plan/memory_ledger.h"

#include <algorithm>

namespace weft {

void MemoryLedger::add(MemoryTag tag, int64_t bytes) {
  auto index = static_cast<size_t>(tag);
  current_[index] += bytes;
  total_ += bytes;
  peaks_[index] = std::max(peaks_[index], current_[index]);
  if (total_ <= peak_total_) return;
  peak_total_ = total_;
  peak_moment_ = moment_;
  at_peak_ = current_;
}

class PlannedMemory::Held {
 public:
  Held(MemoryLedger& ledger, MemoryTag tag, int64_t size) : bytes(size), ledger_(ledger), tag_(tag) {
    ledger_.add(tag_, bytes);
  }
  ~Held() { ledger_.add(tag_, -bytes); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  const int64_t bytes;

 private:
  MemoryLedger& ledger_;
  MemoryTag tag_;
};

PlannedMemory::PlannedMemory(MemoryLedger& ledger, MemoryTag tag, int64_t bytes)
    : held_(std::make_shared<const Held>(ledger, tag, bytes)) {}

int64_t PlannedMemory::bytes() const {
  return held_ == nullptr ? 0 : held_->bytes;
}

}  // namespace weft
