// Truncated and flipped files: whatever comes, only Error(bad_input) or a checkpoint whose tensors can be read.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <memory>
#include <random>
#include <vector>

#include "checkpoint/hdf5_file.h"
#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"

namespace weft {
namespace {

// Opens a checkpoint and reads every tensor. True when all went well.
bool survives(const std::string& path) {
  try {
    auto reader = open_checkpoint(path);
    for (const std::string& name : reader->names()) {
      std::vector<float> values(static_cast<size_t>(reader->info(name).shape.num_elements()));
      reader->read(name, values.data(), DType::f32);
    }
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input) << error.what();
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
    return false;
  }
}

int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

struct Case {
  const char* file;
  const char* copy;       // the name its damaged copies get
  size_t metadata_bytes;  // flips are drawn from here on average half of the time
  int num_flips;
  size_t truncation_step;  // HDF5 starts a process for each
};

class HostileFile : public testing::TestWithParam<Case> {
 protected:
  TempFolder folder_;
  std::string whole_ = read_bytes(data_path(GetParam().file));
};

TEST_P(HostileFile, TruncatedAnywhereItIsRefused) {
  ASSERT_TRUE(survives(folder_.write(GetParam().copy, whole_)));
  size_t step = 1;
  for (size_t length = 0; length < whole_.size(); length += step) {
    EXPECT_FALSE(survives(folder_.write(GetParam().copy, std::string_view(whole_).substr(0, length)))) << length;
    if (length >= GetParam().metadata_bytes || GetParam().truncation_step > 200) step = GetParam().truncation_step;
  }
}

TEST_P(HostileFile, FlippedBitsNeverDoWorseThanAnError) {
  int64_t before = peak_resident_bytes();
  std::mt19937 random(7);
  for (int i = 0; i < GetParam().num_flips; ++i) {
    std::string damaged = whole_;
    for (int flips = 1 + static_cast<int>(random() % 4); flips > 0; --flips) {
      size_t range = random() % 8 == 0 ? whole_.size() : GetParam().metadata_bytes;
      damaged[random() % range] ^= static_cast<char>(1u << (random() % 8));
    }
    survives(folder_.write(GetParam().copy, damaged));
  }
  EXPECT_LT(peak_resident_bytes() - before, int64_t{600} << 20);
}

INSTANTIATE_TEST_SUITE_P(
    Formats,
    HostileFile,
    testing::Values(Case{"hf-gemma2-bf16-sharded/model-00004-of-00004.safetensors", "x.safetensors", 1300, 2000, 97},
                    Case{"quantised.gguf", "x.gguf", 2500, 2000, 97},
                    Case{"keras2.weights.h5", "x.weights.h5", 6888, 300, 211},
                    Case{"seed-llama-bf16/model.weights.h5", "x.weights.h5", 157000, 100, 4001}),
    [](const auto& parameter) { return "Case" + std::to_string(parameter.index); });

TEST(HostileFiles, GoldenFilesWithFlippedBits) {
  std::string whole = read_bytes(data_path("kinds.h5"));
  TempFolder folder;
  std::mt19937 random(11);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = whole;
    for (int flips = 0; flips < 3; ++flips) damaged[random() % whole.size()] ^= static_cast<char>(1u << (random() % 8));
    try {
      auto file = Hdf5File::open(folder.write("x.h5", damaged));
      for (const Hdf5Dataset& dataset : file->datasets()) file->read_all<double>(dataset);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_input) << error.what();
    }
  }
}

TEST(HostileFiles, PathsThatAreNoFilesAreRefused) {
  EXPECT_FALSE(survives("/dev/null"));
  EXPECT_FALSE(survives(""));
  EXPECT_FALSE(survives("/proc/self/mem"));
}

}  // namespace
}  // namespace weft
