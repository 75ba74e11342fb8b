#include "checkpoint/safetensors_writer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "checkpoint/reader.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

std::vector<float> numbers(int64_t count, float first = 0) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

std::vector<float> read(const CheckpointReader& reader, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DType::f32);
  return values;
}

TEST(SafetensorsWriter, SlicesOfSeveralWritersMakeTheWhole) {
  TempFolder folder;
  auto layout = std::make_shared<SafetensorsLayout>(
      "model", std::vector<OutputTensor>{{"rows", {5, 3}}, {"columns", {4, 6}}, {"cube", {2, 4, 3}}, {"vector", {7}}});
  create_safetensors(folder.path(), *layout);
  for (int64_t rank = 0; rank < 2; ++rank) {
    SafetensorsWriter writer(folder.path(), layout);
    // Rank 0 holds rows 0–1, rank 1 rows 2–4.
    TensorSlice rows{0, rank == 0 ? 0 : 2, rank == 0 ? 2 : 5};
    auto row_values = numbers((rows.end - rows.begin) * 3, static_cast<float>(rows.begin * 3));
    writer.write_slice("rows", rows, 0, static_cast<int64_t>(row_values.size()), row_values.data(), DType::f32);
    // Columns 0–3 and 4–5, written in two pieces that cut a row.
    TensorSlice columns{1, rank == 0 ? 0 : 4, rank == 0 ? 4 : 6};
    int64_t width = columns.end - columns.begin;
    std::vector<float> column_values;
    for (int64_t i = 0; i < 4 * width; ++i) {
      int64_t place = i / width * 6 + columns.begin + i % width;
      column_values.push_back(static_cast<float>(place));
    }
    writer.write_slice("columns", columns, 0, 5, column_values.data(), DType::f32);
    writer.write_slice("columns", columns, 5, 4 * width, column_values.data() + 5, DType::f32);
    // The middle dimension of three.
    TensorSlice middle{1, 2 * rank, 2 * rank + 2};
    std::vector<float> cube_values;
    for (int64_t i = 0; i < 12; ++i) {
      int64_t place = i / 6 * 12 + middle.begin * 3 + i % 6;
      cube_values.push_back(static_cast<float>(place));
    }
    writer.write_slice("cube", middle, 0, 12, cube_values.data(), DType::f32);
    auto run = numbers(rank == 0 ? 3 : 4, rank == 0 ? 0.0f : 3.0f);
    writer.write_run("vector", rank == 0 ? 0 : 3, static_cast<int64_t>(run.size()), run.data(), DType::f32);
  }
  auto reader = open_checkpoint(folder.path());
  for (const std::string& name : reader->names()) {
    EXPECT_EQ(read(*reader, name), numbers(reader->info(name).shape.num_elements())) << name;
  }
}

TEST(SafetensorsWriter, ValuesAreConvertedToTheFilesType) {
  TempFolder folder;
  auto layout = std::make_shared<SafetensorsLayout>(
      "model", std::vector<OutputTensor>{{"half", {200'000}, DType::bf16}, {"wide", {3}, DType::f32}});
  create_safetensors(folder.path(), *layout);
  SafetensorsWriter writer(folder.path(), layout);
  std::vector<float> values = numbers(200'000, 0.1f);
  writer.write_run("half", 0, 200'000, values.data(), DType::f32);
  bfloat16 narrow[] = {bfloat16(1), bfloat16(2), bfloat16(3)};
  writer.write_run("wide", 0, 3, narrow, DType::bf16);
  writer.sync();
  auto reader = open_checkpoint(folder.path());
  EXPECT_EQ(reader->info("half").storage_type, "BF16");
  for (float& value : values) value = static_cast<float>(bfloat16(value));
  EXPECT_EQ(read(*reader, "half"), values);
  EXPECT_EQ(read(*reader, "wide"), (std::vector<float>{1, 2, 3}));
}

TEST(SafetensorsWriter, EveryTensorIsAlignedToItsElements) {
  SafetensorsLayout layout(
      "model", {{"a", {3}, DType::bf16}, {"b", {3}, DType::f32}, {"c", {1}, DType::u8}, {"d", {1}, DType::i64}});
  for (const char* name : {"a", "b", "c", "d"}) {
    const auto& place = layout.place(name);
    EXPECT_EQ(place.offset % static_cast<int64_t>(dtype_bytes(place.tensor.dtype)), 0) << name;
  }
}

TEST(SafetensorsWriter, LargeCheckpointsAreSplitWithAnIndex) {
  TempFolder folder;
  std::vector<OutputTensor> tensors = {{"a", {100}}, {"b", {100}}, {"huge", {1000}}, {"c", {10}}};
  auto layout = std::make_shared<SafetensorsLayout>("model", tensors, 900);
  ASSERT_EQ(layout->files().size(), 3u);
  EXPECT_EQ(layout->files()[1].name, "model-00002-of-00003.safetensors");
  EXPECT_EQ(layout->total_bytes(), 4 * 1210);
  create_safetensors(folder.path(), *layout);
  SafetensorsWriter writer(folder.path(), layout);
  for (const OutputTensor& tensor : tensors) {
    auto values = numbers(tensor.shape.num_elements());
    writer.write_run(tensor.name, 0, tensor.shape.num_elements(), values.data(), DType::f32);
  }
  auto reader = open_checkpoint(folder.path());
  EXPECT_EQ(reader->names(), (std::vector<std::string>{"a", "b", "c", "huge"}));
  for (const OutputTensor& tensor : tensors) {
    EXPECT_EQ(read(*reader, tensor.name), numbers(tensor.shape.num_elements()));
  }
}

TEST(SafetensorsWriter, AFolderThatCannotBeWrittenIsNamed) {
  SafetensorsLayout layout("model", {{"a", {1}}});
  EXPECT_NE(error_of([&] { create_safetensors("/nowhere/at/all", layout); }).find("/nowhere/at/all/model.safetensors"),
            std::string::npos);
}

TEST(OutputFile, AFullDiskIsSaidInTheseWords) {
  EXPECT_NE(error_of([] { write_whole_file("/dev/full", "x"); }).find("/dev/full: disk full"), std::string::npos);
}

}  // namespace
}  // namespace weft
