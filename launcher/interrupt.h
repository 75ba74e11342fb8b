// Ctrl-C as a wish to stop: SIGINT, and SIGUSR1 by which weft launch passes it on to the ranks; for training SIGTERM
// too.
#pragma once

#include "autograd/context.h"

namespace weft {

/// While one exists, the signals set a flag instead of ending the process. One at a time.
class InterruptFlag {
 public:
  /// `once`: a Ctrl-C a second or more after the first signal ends the process as usual. `with_terminate`: SIGTERM is
  /// such a signal as well.
  explicit InterruptFlag(bool once, bool with_terminate = false);
  ~InterruptFlag();
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;

  bool is_set() const;
  void clear();
  /// Whether rank 0 was interrupted: the same answer on all ranks, which call it together.
  bool is_set_on_rank_zero(const Context& context) const;

 private:
  bool with_terminate_;
};

}  // namespace weft
