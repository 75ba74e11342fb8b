// Requests that only rank 0 sees coming, for all ranks.
#pragma once

#include <string>

#include "generate/generator.h"

namespace weft {

/// Gives every rank of a communicator what `source` gives on rank 0. While nothing is being answered the other ranks
/// mostly sleep, and the watchdog sees them alive.
class SharedFeed final : public RequestFeed {
 public:
  /// Longest wait of a source that others wait for.
  static constexpr int kPollMs = 10;

  /// `source` is null on all ranks but 0. Keeps references.
  SharedFeed(const Context& context, Communicator& ranks, RequestFeed* source)
      : context_(context), ranks_(ranks), source_(source) {}

  Update next(int64_t places, bool is_idle) override;

 private:
  const Context& context_;
  Communicator& ranks_;
  RequestFeed* source_;
};

/// An update in bytes and back.
std::string to_bytes(const RequestFeed::Update& update);
RequestFeed::Update update_from_bytes(const std::string& bytes);

}  // namespace weft
