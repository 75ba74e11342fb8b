// Working memory that concurrent calls take and give back.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

namespace weft {

template <typename Scratch>
class ScratchPool {
 public:
  /// One that nobody uses, or what `make` returns.
  template <typename Make>
  std::unique_ptr<Scratch> take(const Make& make) {
    {
      const std::scoped_lock lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<Scratch> scratch = std::move(free_.back());
        free_.pop_back();
        return scratch;
      }
    }
    return make();
  }

  void give_back(std::unique_ptr<Scratch> scratch) {
    const std::scoped_lock lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace weft
