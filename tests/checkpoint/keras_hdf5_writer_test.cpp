#include "checkpoint/keras_hdf5_writer.h"

#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

TEST(KerasHdf5Writer, WhatItWritesIsReadBack) {
  TempFolder folder;
  std::string path = folder.path() + "/model.weights.h5";
  auto writer = make_keras_hdf5_writer(path,
                                       {{.name = "layers/dense/vars/0", .shape = {3, 4}, .dtype = DType::f32},
                                        {.name = "layers/dense/vars/1", .shape = {4}, .dtype = DType::bf16}});
  std::vector<float> matrix(12), vector = {1, -2, 0.5f, 3};
  for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<float>(i) + 0.1f;
  writer->write("layers/dense/vars/0", 0, 4, matrix.data(), DType::f32);
  writer->write("layers/dense/vars/0", 4, 8, matrix.data() + 4, DType::f32);
  writer->write("layers/dense/vars/1", 0, 4, vector.data(), DType::f32);
  EXPECT_FALSE(std::filesystem::exists(path)) << "nothing stands there before it is whole";
  writer->finish();
  auto reader = open_checkpoint(path);
  EXPECT_EQ(reader->format(), "keras_hdf5");
  EXPECT_EQ(reader->info("layers/dense/vars/1").dtype, DType::bf16);
  std::vector<float> read(12);
  reader->read("layers/dense/vars/0", read.data(), DType::f32);
  EXPECT_EQ(read, matrix);
  read.resize(4);
  reader->read("layers/dense/vars/1", read.data(), DType::f32);
  EXPECT_EQ(read, vector);
}

}  // namespace
}  // namespace weft
