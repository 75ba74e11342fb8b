// Lines of text over TCP between ranks: the watchdog's heartbeats and verdicts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace weft {

/// One end of a connection; closes it. Reading and writing never block: lines are few and short, and a peer that lets
/// its buffer fill up is as good as lost.
class LineSocket {
 public:
  static constexpr size_t kMaxLineBytes = 8192;

  explicit LineSocket(int descriptor);
  ~LineSocket();
  LineSocket(LineSocket&& other) noexcept;
  LineSocket& operator=(LineSocket&& other) noexcept;

  int descriptor() const { return descriptor_; }
  /// Sends the line and its end. False if the connection is broken or full.
  bool send(const std::string& line);
  /// Takes in what has arrived. False at the end of the connection, on an error, or for a line that is too long.
  bool receive();
  /// The next whole line that has arrived.
  std::optional<std::string> next_line();

 private:
  int descriptor_;
  std::string arrived_;
};

/// A listening socket on a free port of this machine: of the loopback device only, or of all devices.
class Listener {
 public:
  explicit Listener(bool loopback_only);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int descriptor() const { return descriptor_; }
  uint16_t port() const { return port_; }
  /// A connection that waits to be accepted, if any.
  std::optional<LineSocket> accept() const;

 private:
  int descriptor_;
  uint16_t port_ = 0;
};

/// IPv4 addresses under which other nodes may reach this one; loopback only if asked for.
std::vector<std::string> own_addresses(bool loopback_only);

/// Null when there is no connection within `timeout_ms`.
std::optional<LineSocket> connect_to(const std::string& address, uint16_t port, int timeout_ms);

}  // namespace weft
