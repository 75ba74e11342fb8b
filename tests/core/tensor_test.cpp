#include "core/tensor.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace weft {
namespace {

TEST(Tensor, SliceAndReshapeShareMemory) {
  auto allocator = make_cpu_allocator();
  Tensor tensor = Tensor::zeros(allocator, {4, 6}, DType::f32);
  Tensor row = tensor.slice(2, 3).reshape({2, 3});
  row.data<float>()[4] = 7.0f;
  EXPECT_EQ(tensor.data<float>()[2 * 6 + 4], 7.0f);
  EXPECT_THROW(tensor.slice(3, 5), Error);
  EXPECT_THROW(tensor.reshape({5, 5}), Error);
  EXPECT_THROW(tensor.data<double>(), Error);
}

TEST(Memory, IsAccountedByTagAndComesBack) {
  auto allocator = make_cpu_allocator();
  MemoryTracker& memory = allocator->memory();
  {
    Tensor weights = Tensor::empty(allocator, {1000}, DType::f32, MemoryTag::weights);
    Tensor cache = Tensor::empty(allocator, {500}, DType::bf16, MemoryTag::kv_cache);
    EXPECT_EQ(memory.current(MemoryTag::weights), 4000);
    EXPECT_EQ(memory.current(MemoryTag::kv_cache), 1000);
    EXPECT_EQ(memory.current_total(), 5000);
  }
  EXPECT_EQ(memory.current_total(), 0);
  EXPECT_EQ(memory.peak_total(), 5000);
  EXPECT_NE(memory.report().find("kv_cache"), std::string::npos);
  EXPECT_EQ(memory.report().find("optimizer"), std::string::npos);
}

TEST(Memory, ImpossibleRequestNamesTagAndSize) {
  auto allocator = make_cpu_allocator();
  try {
    Tensor::empty(allocator, {int64_t{1} << 50}, DType::f32, MemoryTag::kv_cache);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::out_of_memory);
    EXPECT_NE(std::string(error.what()).find("kv_cache"), std::string::npos);
  }
}

}  // namespace
}  // namespace weft
