#include "checkpoint/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "checkpoint/file.h"
#include "checkpoint/reader.h"

namespace weft {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;
/// Values of a tensor that its model's fingerprint looks at.
constexpr int64_t kSampledValues = 64;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64;
}

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

uint64_t weights_fingerprint(const CheckpointReader& reader) {
  uint64_t hash = 0;
  auto add = [&hash](const void* data, size_t bytes) { hash = XXH3_64bits_withSeed(data, bytes, hash); };
  for (const std::string& name : reader.names()) {
    const TensorInfo& info = reader.info(name);
    add(name.data(), name.size());
    // From the middle: what is rare, or for filling up, stands at the edges of a table.
    std::vector<int64_t> begin, end;
    int64_t count = 1;
    for (const int64_t& size : info.shape) {
      const bool is_last = &size + 1 == info.shape.end();
      const int64_t wanted = std::min(size, is_last ? kSampledValues : int64_t{1});
      begin.push_back((size - wanted) / 2);
      end.push_back(begin.back() + wanted);
      count *= wanted;
      add(&size, sizeof(size));
    }
    if (count == 0 || !is_floating(info.dtype)) continue;
    std::vector<float> values(static_cast<size_t>(count));
    reader.read_slice(name, begin, end, values.data(), DType::f32);
    add(values.data(), values.size() * sizeof(float));
  }
  return std::max<uint64_t>(hash, 1);
}

}  // namespace weft
