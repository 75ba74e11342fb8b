// Small collectives between the ranks of one node, through shared memory: every rank shows its bytes to all others.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/call_signature.h"

namespace weft {

/// An exchange is: show(), then read the others with payload(). Each rank has two slots and uses them in turn. Since an
/// exchange ends only when all have shown, a rank that shows number n + 2 knows that everyone has finished reading
/// number n: one wait an exchange suffices.
class NodeExchange {
 public:
  static constexpr size_t kSlotBytes = size_t{256} << 10;

  /// Creates the named region (shm_open) with room for `size` ranks; null if the system has no room for it.
  static std::unique_ptr<NodeExchange> create(const std::string& name, int size);
  /// Maps what `create` made in another process; null if that cannot be seen from here.
  static std::unique_ptr<NodeExchange> open(const std::string& name, int rank, int size);
  static void unlink(const std::string& name);
  ~NodeExchange();
  NodeExchange(const NodeExchange&) = delete;
  NodeExchange& operator=(const NodeExchange&) = delete;

  /// Shows `bytes` (at most kSlotBytes; data may be null: nothing to show) and returns when all ranks have shown
  /// theirs. `while_waiting` is called now and then. Throws Error(communication) on every rank if the signatures
  /// differ.
  void show(const CallSignature& call, const void* data, size_t bytes, const std::function<void()>& while_waiting);
  /// What `rank` has shown; valid until the next show().
  const std::byte* payload(int rank) const;

 private:
  struct Slot;
  NodeExchange(void* region, int rank, int size);
  static size_t region_bytes(int size);
  Slot& slot(int rank) const;
  void wait_for(int rank, const std::function<void()>& while_waiting) const;

  void* region_;
  int rank_;
  int size_;
  int num_spins_;
  uint64_t exchange_ = 0;
};

}  // namespace weft
