// A GPU's memory: copies in all directions, what a step takes from it in place of the host's numbers, and its speed.
#include <cmath>
#include <cstring>
#include <numeric>

#include "cuda/cuda_test.h"

namespace weft {
namespace {

/// A block of the GPU's memory.
class Block {
 public:
  explicit Block(size_t bytes) : bytes_(bytes), pointer_(gpu()->allocate(bytes, MemoryTag::workspace)) {}
  ~Block() { gpu()->deallocate(pointer_, bytes_, MemoryTag::workspace); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(pointer_); }
  void send(const std::vector<std::byte>& bytes) { gpu()->copy_from_host(pointer_, bytes.data(), bytes.size()); }
  std::vector<std::byte> received() const {
    std::vector<std::byte> bytes(bytes_);
    gpu()->copy_to_host(bytes.data(), pointer_, bytes_);
    return bytes;
  }

 private:
  size_t bytes_;
  void* pointer_;
};

std::vector<std::byte> pattern(size_t count, unsigned seed) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>((i * 2654435761u + seed) >> 13);
  return bytes;
}

/// Through the ring of pinned memory, and in pieces beside it.
TEST(CudaMemory, IsCopiedThereAndBack) {
  WEFT_NEEDS_GPU();
  for (size_t bytes : {size_t{1}, size_t{255}, size_t{4} << 20, (size_t{4} << 20) + 1, (size_t{40} << 20) + 3}) {
    Block one(bytes), other(bytes);
    std::vector<std::byte> sent = pattern(bytes, 1);
    one.send(sent);
    EXPECT_TRUE(one.received() == sent) << bytes;
    gpu()->copy_within(other.data(), one.data(), bytes);
    EXPECT_TRUE(other.received() == sent) << bytes;
    gpu()->fill_zero(other.data(), bytes - bytes / 2);
    std::fill_n(sent.begin(), bytes - bytes / 2, std::byte{0});
    EXPECT_TRUE(other.received() == sent) << bytes;
  }
}

/// More small copies than the ring holds, of arrays that are gone when the copies run.
TEST(CudaMemory, TakesManySmallCopies) {
  WEFT_NEEDS_GPU();
  constexpr size_t kCopies = 3000, kBytes = 10007;
  Block block(kCopies * kBytes);
  for (size_t i = 0; i < kCopies; ++i) {
    std::vector<std::byte> sent = pattern(kBytes, static_cast<unsigned>(i * 977));
    gpu()->copy_from_host(block.data() + i * kBytes, sent.data(), kBytes);
  }
  std::vector<std::byte> received = block.received();
  for (size_t i = 0; i < kCopies; ++i) {
    std::vector<std::byte> sent = pattern(kBytes, static_cast<unsigned>(i * 977));
    ASSERT_EQ(std::memcmp(received.data() + i * kBytes, sent.data(), kBytes), 0) << "copy " << i;
  }
}

TEST(CudaMemory, CopiesRowsThatLieApart) {
  WEFT_NEEDS_GPU();
  constexpr size_t kRows = 9, kRowBytes = 24, kFrom = 40, kTo = 56;
  Block from(kRows * kFrom), to(kRows * kTo);
  std::vector<std::byte> source = pattern(kRows * kFrom, 2), expected = pattern(kRows * kTo, 3);
  from.send(source);
  to.send(expected);
  gpu()->copy_rows(to.data(), kTo, from.data(), kFrom, kRowBytes, kRows);
  for (size_t row = 0; row < kRows; ++row) {
    std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(row * kFrom),
                kRowBytes,
                expected.begin() + static_cast<std::ptrdiff_t>(row * kTo));
  }
  EXPECT_TRUE(to.received() == expected);
}

TEST(CudaMemory, IsCopiedToTheHostWhileItGoesOn) {
  WEFT_NEEDS_GPU();
  constexpr size_t kBytes = 1 << 20;
  std::shared_ptr<Allocator> host = gpu()->make_host_allocator();
  Block block(kBytes);
  void* to = host->allocate(kBytes, MemoryTag::workspace);
  for (unsigned seed : {4u, 5u}) {
    std::vector<std::byte> sent = pattern(kBytes, seed);
    block.send(sent);
    std::function<void()> wait = gpu()->start_copy_to_host(to, block.data(), kBytes);
    gpu()->fill_zero(block.data(), kBytes);
    wait();
    EXPECT_EQ(std::memcmp(to, sent.data(), kBytes), 0) << "seed " << seed;
  }
  host->deallocate(to, kBytes, MemoryTag::workspace);
}

/// Of 24 rows, whose ids the host learns too late; plainly and as a graph.
TEST(CudaMemory, GivesAStepItsLateValues) {
  WEFT_NEEDS_GPU();
  constexpr int64_t kIds = 24, kTableRows = 100, kWidth = 64;
  Side side{DeviceType::cuda, {.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()}};
  Twin<float> table = Twin<float>::random(kTableRows * kWidth, 1), y(kIds * kWidth);
  Twin<int32_t> late(kIds);
  std::vector<int32_t> unknown(kIds, -1);
  for (int step = 0; step < 7; ++step) {
    for (int64_t i = 0; i < kIds; ++i) late.host()[static_cast<size_t>(i)] = static_cast<int32_t>((7 * i + step) % 100);
    late.send();
    auto look_up = [&] {
      side.kernels().embedding.forward({.table = table.on(side),
                                        .ids = unknown.data(),
                                        .y = y.on(side),
                                        .num_ids = kIds,
                                        .width = kWidth,
                                        .rows = kTableRows,
                                        .dtype = DType::f32},
                                       side.stream);
    };
    gpu()->run_step(301, look_up, {.host = unknown.data(), .device = late.on(side), .count = kIds});
    for (int64_t i = 0; i < kIds * kWidth; ++i) {
      int64_t row = late.host()[static_cast<size_t>(i / kWidth)];
      y.host()[static_cast<size_t>(i)] = table.host()[static_cast<size_t>(row * kWidth + i % kWidth)];
    }
    expect_same(y, 0, 0, "rows");
  }
}

TEST(CudaMachinePeaks, AreMeasured) {
  WEFT_NEEDS_GPU();
  Stream stream{.device = gpu()->device(), .num_threads = 1, .workspace = gpu().get()};
  for (DType dtype : {DType::f32, DType::bf16}) {
    MachinePeaks peaks = kernels(DeviceType::cuda).linear.machine_peaks(dtype, stream);
    EXPECT_TRUE(std::isfinite(peaks.memory_bytes_per_second) && peaks.memory_bytes_per_second > 0);
    EXPECT_TRUE(std::isfinite(peaks.matmul_flops_per_second) && peaks.matmul_flops_per_second > 0);
  }
}

}  // namespace
}  // namespace weft
