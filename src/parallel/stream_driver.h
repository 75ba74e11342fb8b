// Streams and events of a GPU as the communicators use them; a test brings its own.
#pragma once

#include <memory>

namespace weft {

class StreamDriver {
 public:
  virtual ~StreamDriver() = default;

  /// Chooses the GPU for the calling thread; throws Error(communication) when there is none of this number.
  virtual void use_device(int index) = 0;
  /// Whether all work on the stream is done; throws if it failed.
  virtual bool is_idle(void* stream) = 0;
  /// A stream on which work gets its turn before that on others.
  virtual std::shared_ptr<void> make_stream() = 0;
  /// An event that has happened when what is queued on the stream by now is done.
  virtual std::shared_ptr<void> record(void* stream) = 0;
  /// What is queued on the stream next waits for the event.
  virtual void wait(void* stream, void* event) = 0;
};

std::shared_ptr<StreamDriver> make_cuda_stream_driver();

}  // namespace weft
