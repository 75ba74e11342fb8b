#include "checkpoint/keras_hdf5_writer.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoint/hdf5_file.h"
#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

std::vector<float> numbers(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = 0.1f * static_cast<float>(i) - 1;
  return values;
}

std::vector<float> read(const CheckpointReader& reader, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DType::f32);
  return values;
}

TEST(KerasHdf5Writer, PiecesOfAnySizeMakeTheWholeInEveryFloat) {
  TempFolder folder;
  std::string path = folder.path() + "/model.weights.h5";
  std::vector<OutputTensor> tensors = {{"layers/dense/vars/0", {300, 500}, DType::f32},
                                       {"layers/dense/vars/1", {7}, DType::bf16},
                                       {"layers/large/vars/0", {300, 500}, DType::bf16},
                                       {"layers/time_mix/dense_w/dense_a/vars/0", {2, 3, 4}, DType::f16},
                                       {"layers/wide/vars/0", {5}, DType::f64},
                                       {"layers/scalar/vars/0", {}, DType::f32},
                                       {"layers/nothing/vars/0", {0, 3}, DType::f32}};
  auto writer = make_keras_hdf5_writer(path, tensors);
  for (const OutputTensor& tensor : tensors) {
    int64_t count = tensor.shape.num_elements(), half = count / 2;
    std::vector<float> values = numbers(static_cast<size_t>(count));
    writer->write(tensor.name, 0, half, values.data(), DType::f32);
    writer->write(tensor.name, half, count - half, values.data() + half, DType::f32);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  writer->finish();
  auto reader = open_checkpoint(path);
  EXPECT_EQ(reader->format(), "keras_hdf5");
  ASSERT_EQ(reader->names().size(), tensors.size());
  for (const OutputTensor& tensor : tensors) {
    EXPECT_EQ(reader->info(tensor.name).shape, tensor.shape);
    EXPECT_EQ(reader->info(tensor.name).dtype, tensor.dtype);
    std::vector<float> expected = numbers(static_cast<size_t>(tensor.shape.num_elements()));
    for (float& value : expected) {
      if (tensor.dtype == DType::bf16) value = static_cast<float>(bfloat16(value));
      if (tensor.dtype == DType::f16) value = static_cast<float>(float16(value));
    }
    EXPECT_EQ(read(*reader, tensor.name), expected) << tensor.name;
  }
}

TEST(KerasHdf5Writer, IntegersAreWrittenAsTheyAre) {
  TempFolder folder;
  std::string path = folder.path() + "/model.weights.h5";
  auto writer = make_keras_hdf5_writer(
      path, {{"a/vars/0", {2}, DType::i64}, {"b/vars/0", {2}, DType::i32}, {"c/vars/0", {2}, DType::u8}});
  int64_t wide[] = {-3, int64_t{1} << 40};
  int32_t narrow[] = {-5, 6};
  uint8_t bytes[] = {0, 255};
  writer->write("a/vars/0", 0, 2, wide, DType::i64);
  writer->write("b/vars/0", 0, 2, narrow, DType::i32);
  writer->write("c/vars/0", 0, 2, bytes, DType::u8);
  writer->finish();
  auto file = Hdf5File::open(path);
  EXPECT_EQ(file->read_all<int64_t>(*file->find("a/vars/0")), (std::vector<int64_t>{-3, int64_t{1} << 40}));
  EXPECT_EQ(file->read_all<int32_t>(*file->find("b/vars/0")), (std::vector<int32_t>{-5, 6}));
  EXPECT_EQ(file->read_all<int32_t>(*file->find("c/vars/0")), (std::vector<int32_t>{0, 255}));
}

TEST(KerasHdf5Writer, AFileOfKerasIsWrittenAgainWithTheSameTypesAndAttributes) {
  auto reader = open_checkpoint(data_path("seed-llama-bf16"));
  auto original = Hdf5File::open(data_path("seed-llama-bf16/model.weights.h5"));
  std::vector<OutputTensor> tensors;
  std::map<std::string, std::string> layer_names;
  for (const std::string& name : reader->names()) {
    tensors.push_back({name, reader->info(name).shape, reader->info(name).dtype});
    std::string group = name.substr(0, name.rfind('/'));
    const Hdf5Attributes& attributes = original->attributes(group);
    if (attributes.count("name") > 0) layer_names[group] = std::get<std::string>(attributes.find("name")->second);
  }
  ASSERT_FALSE(layer_names.empty());
  TempFolder folder;
  for (const char* name : {"/one.weights.h5", "/two.weights.h5"}) {
    auto writer = make_keras_hdf5_writer(folder.path() + name, tensors, layer_names);
    for (const OutputTensor& tensor : tensors) {
      std::vector<float> values = read(*reader, tensor.name);
      writer->write(tensor.name, 0, tensor.shape.num_elements(), values.data(), DType::f32);
    }
    writer->finish();
  }
  auto copy = Hdf5File::open(folder.path() + "/one.weights.h5");
  ASSERT_EQ(copy->datasets().size(), original->datasets().size());
  for (const Hdf5Dataset& dataset : original->datasets()) {
    const Hdf5Dataset& written = *copy->find(dataset.path);
    EXPECT_EQ(written.shape, dataset.shape) << dataset.path;
    EXPECT_EQ(written.dtype, dataset.dtype) << dataset.path;
    EXPECT_EQ(written.attributes, dataset.attributes) << dataset.path;
    EXPECT_EQ(copy->read_all<double>(written), original->read_all<double>(dataset)) << dataset.path;
  }
  for (const auto& [group, name] : layer_names) {
    EXPECT_EQ(copy->attributes(group).at("name"), Hdf5Attribute(name)) << group;
  }
  EXPECT_EQ(read_bytes(folder.path() + "/one.weights.h5"), read_bytes(folder.path() + "/two.weights.h5"));
}

TEST(KerasHdf5Writer, AFolderThatCannotBeWrittenIsNamed) {
  std::string error = error_of([] { make_keras_hdf5_writer("/nowhere/x.weights.h5", {{"layers/a/vars/0", {1}}}); });
  EXPECT_NE(error.find("/nowhere/x.weights.h5"), std::string::npos) << error;
}

class CheckpointWriters : public testing::TestWithParam<const char*> {};

TEST_P(CheckpointWriters, WhatAnyFormatWritesIsReadBack) {
  TempFolder folder;
  std::vector<OutputTensor> tensors = {{"layers/b/vars/0", {3, 5}, DType::bf16}, {"layers/a/vars/0", {4}, DType::f32}};
  auto writer = make_checkpoint_writer(GetParam(), folder.path(), tensors);
  for (const OutputTensor& tensor : tensors) {
    std::vector<float> values(static_cast<size_t>(tensor.shape.num_elements()), 1.5f);
    writer->write(tensor.name, 0, tensor.shape.num_elements(), values.data(), DType::f32);
  }
  writer->finish();
  auto reader = open_checkpoint(folder.path());
  EXPECT_EQ(reader->format(), GetParam());
  EXPECT_EQ(reader->info("layers/b/vars/0").storage_type, "BF16");
  EXPECT_EQ(read(*reader, "layers/b/vars/0"), std::vector<float>(15, 1.5f));
  EXPECT_EQ(read(*reader, "layers/a/vars/0"), std::vector<float>(4, 1.5f));
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         CheckpointWriters,
                         testing::Values("safetensors", "keras_hdf5", "tensorflow"),
                         [](const auto& parameter) { return std::string(parameter.param); });

}  // namespace
}  // namespace weft
