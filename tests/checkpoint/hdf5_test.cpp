#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/hdf5_file.h"
#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Kinds : public testing::Test {
 protected:
  template <typename T>
  std::vector<T> read(const std::string& name) {
    const Hdf5Dataset* dataset = file_->find("deep/deeper/" + name);
    if (!dataset) throw std::runtime_error("no dataset " + name);
    return file_->read_all<T>(*dataset);
  }

  std::shared_ptr<const Hdf5File> file_ = Hdf5File::open(data_path("kinds.h5"));
};

TEST_F(Kinds, AttributesOfEveryKind) {
  const Hdf5Attributes& root = file_->attributes("");
  EXPECT_EQ(root.at("text"), Hdf5Attribute("variable grüße"));
  EXPECT_EQ(root.at("fixed"), Hdf5Attribute("fixed"));
  EXPECT_EQ(root.at("integer"), Hdf5Attribute(int64_t{-7}));
  EXPECT_EQ(root.at("fraction"), Hdf5Attribute(0.25));
  EXPECT_EQ(root.at("integers"), Hdf5Attribute(std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(root.at("fractions"), Hdf5Attribute(std::vector<double>{0.5, 1.5}));
  EXPECT_EQ(root.at("flag"), Hdf5Attribute(int64_t{1}));
  EXPECT_EQ(root.count("texts"), 0u);
  EXPECT_EQ(file_->attributes("deep/deeper").at("name"), Hdf5Attribute("group attribute"));
  EXPECT_EQ(file_->attributes("deep/deeper/bf16").at("dtype"), Hdf5Attribute("bfloat16"));
  EXPECT_TRUE(file_->attributes("nothing").empty());
}

TEST_F(Kinds, DatasetsOfEveryDtype) {
  std::vector<int64_t> expected = {-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  for (const char* name : {"f2", "f4", "f8", "i4", "i8"}) {
    EXPECT_EQ(read<int64_t>(name), expected) << name;
    EXPECT_EQ(read<double>(name), std::vector<double>(expected.begin(), expected.end())) << name;
    EXPECT_EQ(read<float>(name), std::vector<float>(expected.begin(), expected.end())) << name;
    EXPECT_EQ(read<int32_t>(name), std::vector<int32_t>(expected.begin(), expected.end())) << name;
  }
  EXPECT_EQ(file_->find("deep/deeper/f2")->dtype, DType::f16);
  EXPECT_EQ(file_->find("deep/deeper/f4")->shape, Shape({3, 4}));
  EXPECT_EQ(read<int32_t>("u1"), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(read<int32_t>("flags"), (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(read<float>("scalar"), std::vector<float>{2.5f});
  EXPECT_EQ(file_->find("deep/deeper/scalar")->shape.rank(), 0);
  EXPECT_EQ(read<float>("empty"), std::vector<float>{});
  EXPECT_EQ(read<float>("bf16"), (std::vector<float>{1.0f, -1.0f, 2.0f, 0.25f}));
  EXPECT_EQ(read<float>("compact"), (std::vector<float>{1.0f, 2.0f, 3.0f}));
}

TEST_F(Kinds, OtherTypesAndLinksAreLeftOut) {
  for (const Hdf5Dataset& dataset : file_->datasets())
    EXPECT_TRUE(dataset.path.starts_with("deep/deeper/")) << dataset.path;
  for (const char* name : {"opaque", "left_out_i2", "left_out_big_endian", "left_out_text"}) {
    EXPECT_EQ(file_->find(std::string("deep/deeper/") + name), nullptr) << name;
  }
  EXPECT_TRUE(std::is_sorted(file_->datasets().begin(), file_->datasets().end(), [](const auto& a, const auto& b) {
    return a.path < b.path;
  }));
}

TEST_F(Kinds, AnUnwrittenDatasetAndAnUnfitValueAreErrors) {
  EXPECT_TRUE(contains(error_of([&] { read<float>("unwritten"); }), "deep/deeper/unwritten was never written"));
  const Hdf5Dataset* dataset = file_->find("deep/deeper/i8");
  std::vector<uint8_t> bytes(12);
  EXPECT_TRUE(contains(error_of([&] { file_->read(*dataset, bytes.data(), DType::u8); }), "doesn't fit u8"));
}

TEST(Hdf5FileTest, AChunkedDatasetIsNamed) {
  std::string error = error_of([] { Hdf5File::open(data_path("chunked.h5")); });
  EXPECT_TRUE(contains(error, "dataset /layers/dense/vars/0 is chunked")) << error;
}

TEST(Hdf5FileTest, GroupsThatContainThemselvesEnd) {
  std::string error = error_of([] { Hdf5File::open(data_path("cycle.h5")); });
  EXPECT_TRUE(contains(error, "nest deeper") || contains(error, "more than")) << error;
}

TEST(Hdf5FileTest, AGoldenFileHasItsInputsAndOutputs) {
  auto file = Hdf5File::open(data_path("seed-llama-bf16/golden.h5"));
  EXPECT_EQ(file->attributes("").at("compat"), Hdf5Attribute("bert4keras3"));
  const Hdf5Dataset* ids = file->find("inputs/token_ids");
  ASSERT_NE(ids, nullptr);
  EXPECT_EQ(ids->shape, Shape({3, 11}));
  EXPECT_EQ(file->read_all<int32_t>(*ids).size(), 33u);
}

TEST(KerasHdf5, TheOldTopGroupIsCalledLayers) {
  auto reader = open_checkpoint(data_path("keras2.weights.h5"));
  EXPECT_EQ(reader->names(), (std::vector<std::string>{"layers/dense/vars/0", "layers/dense/vars/1"}));
  std::vector<float> column(2);
  int64_t begin[] = {0, 1}, end[] = {2, 2};
  reader->read_slice("layers/dense/vars/0", begin, end, column.data(), DType::f32);
  EXPECT_EQ(column, (std::vector<float>{1.0f, 4.0f}));
}

TEST(KerasHdf5, SeveralFilesInAFolderAreListed) {
  TempFolder folder;
  fs::copy(data_path("keras2.weights.h5"), folder.path() + "/a.weights.h5");
  EXPECT_EQ(open_checkpoint(folder.path())->format(), "keras_hdf5");
  fs::copy(data_path("keras2.weights.h5"), folder.path() + "/b.weights.h5");
  std::string error = error_of([&] { open_checkpoint(folder.path()); });
  EXPECT_TRUE(contains(error, "a.weights.h5") && contains(error, "b.weights.h5")) << error;
}

TEST(KerasHdf5, WhatIsNoHdf5IsSaidSo) {
  TempFolder folder;
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(folder.write("x.weights.h5", "text")); }), "not an HDF5 file"));
  EXPECT_TRUE(contains(error_of([&] { Hdf5File::open(folder.write("x.h5", "text")); }), "not an HDF5 file"));
  EXPECT_TRUE(contains(error_of([&] { Hdf5File::open(folder.path()); }), "not a regular file"));
}

}  // namespace
}  // namespace weft
