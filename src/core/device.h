// Where memory lies and kernels run.
#pragma once

#include <cstdint>
#include <string_view>

namespace weft {

/// `guarded` is for tests: see kernels/guarded.h.
enum class DeviceType : uint8_t { cpu, cuda, guarded };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string_view device_name(DeviceType type);

}  // namespace weft
