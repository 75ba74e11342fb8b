#include "parallel/line_socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

sockaddr_in ipv4(in_addr address, uint16_t port) {
  sockaddr_in result{};
  result.sin_family = AF_INET;
  result.sin_addr = address;
  result.sin_port = htons(port);
  return result;
}

void send_at_once(int descriptor) {
  const int on = 1;
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/// True when a connection that was begun without blocking is there within the time.
bool finish_connecting(int descriptor, int timeout_ms) {
  pollfd waiting{.fd = descriptor, .events = POLLOUT, .revents = 0};
  if (poll(&waiting, 1, timeout_ms) != 1) return false;
  int error = 0;
  socklen_t length = sizeof(error);
  return getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0;
}

}  // namespace

LineSocket::LineSocket(int descriptor) : descriptor_(descriptor) {
  send_at_once(descriptor_);
}

LineSocket::~LineSocket() {
  if (descriptor_ >= 0) close(descriptor_);
}

LineSocket::LineSocket(LineSocket&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), arrived_(std::move(other.arrived_)) {}

LineSocket& LineSocket::operator=(LineSocket&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(arrived_, other.arrived_);
  return *this;
}

bool LineSocket::send(const std::string& line) {
  const std::string ended = line + "\n";
  const ssize_t sent = ::send(descriptor_, ended.data(), ended.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent == static_cast<ssize_t>(ended.size());
}

bool LineSocket::receive() {
  std::array<char, 4096> buffer;
  const ssize_t received = recv(descriptor_, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (received < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  if (received == 0) return false;
  arrived_.append(buffer.data(), static_cast<size_t>(received));
  return arrived_.size() <= kMaxLineBytes || arrived_.find('\n') != std::string::npos;
}

std::optional<std::string> LineSocket::next_line() {
  const size_t end = arrived_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  std::string line = arrived_.substr(0, end);
  arrived_.erase(0, end + 1);
  return line;
}

Listener::Listener(bool loopback_only) : descriptor_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  sockaddr_in address = ipv4({.s_addr = htonl(loopback_only ? INADDR_LOOPBACK : INADDR_ANY)}, 0);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (descriptor_ < 0 || bind(descriptor_, generic, length) != 0 || listen(descriptor_, SOMAXCONN) != 0 ||
      getsockname(descriptor_, generic, &length) != 0) {
    const int error = errno;
    if (descriptor_ >= 0) close(descriptor_);
    fail(ExitCode::communication, "the watchdog cannot listen for the other ranks: {}", std::strerror(error));
  }
  port_ = ntohs(address.sin_port);
}

Listener::~Listener() {
  close(descriptor_);
}

std::optional<LineSocket> Listener::accept() const {
  const int descriptor = accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC);
  if (descriptor < 0) return std::nullopt;
  return LineSocket(descriptor);
}

std::vector<std::string> own_addresses(bool loopback_only) {
  if (loopback_only) return {"127.0.0.1"};
  std::vector<std::string> addresses;
  ifaddrs* devices = nullptr;
  if (getifaddrs(&devices) != 0) return addresses;
  for (const ifaddrs* device = devices; device != nullptr; device = device->ifa_next) {
    const bool is_up = (device->ifa_flags & IFF_UP) != 0 && (device->ifa_flags & IFF_LOOPBACK) == 0;
    if (!is_up || device->ifa_addr == nullptr || device->ifa_addr->sa_family != AF_INET) continue;
    std::array<char, INET_ADDRSTRLEN> text{};
    const auto* address = reinterpret_cast<const sockaddr_in*>(device->ifa_addr);
    if (inet_ntop(AF_INET, &address->sin_addr, text.data(), text.size()) != nullptr)
      addresses.emplace_back(text.data());
  }
  freeifaddrs(devices);
  return addresses;
}

std::optional<LineSocket> connect_to(const std::string& address, uint16_t port, int timeout_ms) {
  in_addr parsed{};
  if (inet_pton(AF_INET, address.c_str(), &parsed) != 1) return std::nullopt;
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return std::nullopt;
  LineSocket connection(descriptor);
  const sockaddr_in target = ipv4(parsed, port);
  const int result = connect(descriptor, reinterpret_cast<const sockaddr*>(&target), sizeof(target));
  const bool connected = result == 0 || (errno == EINPROGRESS && finish_connecting(descriptor, timeout_ms));
  return connected ? std::optional(std::move(connection)) : std::nullopt;
}

}  // namespace weft
