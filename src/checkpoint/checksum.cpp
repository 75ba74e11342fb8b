#include "checkpoint/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "checkpoint/file.h"

namespace weft {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

}  // namespace

std::string file_checksum(const std::string& path) {
  File file(path);
  std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  std::vector<char> chunk(static_cast<size_t>(std::min(kChunkBytes, file.size())));
  for (int64_t offset = 0; offset < file.size(); offset += kChunkBytes) {
    int64_t count = std::min(kChunkBytes, file.size() - offset);
    file.read(offset, chunk.data(), count);
    XXH3_128bits_update(state.get(), chunk.data(), static_cast<size_t>(count));
  }
  XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace weft
