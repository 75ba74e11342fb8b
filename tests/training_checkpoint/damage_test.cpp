// What happens to saves: damage, kill -9, full disks, and those that are no longer needed.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "checkpoint/checksum.h"
#include "checkpoint/test_files.h"
#include "training_checkpoint/manifest.h"
#include "training_checkpoint/rank_run.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using testing::RankRun;
using testing::run_ranks;

bool save(CheckpointStore& store, int64_t step, double held_out_loss = std::numeric_limits<double>::quiet_NaN()) {
  std::map<std::string, double> held_out = {{"loss", held_out_loss}, {"f1", 5 - held_out_loss}};
  return store.begin_save({.step = step, .held_out = held_out}) && store.complete_save();
}

std::string folder_of(const TempFolder& folder, int64_t step) {
  return folder.path() + "/" + checkpoint_name(step);
}

/// Two saves, of steps 1 and 2.
void save_two(const TempFolder& folder) {
  run_ranks(2, {.tensor_parallel = 2}, [&](RankRun& run) {
    run.fill(5);
    auto store = run.open_store({.directory = folder.path()});
    ASSERT_TRUE(save(*store, 1));
    ASSERT_TRUE(save(*store, 2));
  });
}

void expect_latest(const TempFolder& folder, int64_t step) {
  run_ranks(2, {.tensor_parallel = 1}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path()});
    auto latest = store->find_latest();
    ASSERT_EQ(latest.has_value(), step > 0);
    if (!latest) return;
    EXPECT_EQ(*latest, folder_of(folder, step));
    EXPECT_EQ(store->restore(*latest).step, step);
    EXPECT_EQ(run.num_wrong(5), 0);
  });
}

void flip_byte(const std::string& path, int64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(offset);
  char byte = static_cast<char>(file.get());
  file.seekp(offset);
  file.put(static_cast<char>(byte ^ 1));
}

TEST(DamagedCheckpoint, AWholeOneIsTaken) {
  TempFolder folder;
  save_two(folder);
  expect_latest(folder, 2);
}

TEST(DamagedCheckpoint, AnyFlippedByteOfAnyFileIsFound) {
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "config.json", "train_state.json"}) {
    TempFolder folder;
    save_two(folder);
    std::string path = folder_of(folder, 2) + "/" + name;
    flip_byte(path, static_cast<int64_t>(fs::file_size(path)) - 3);
    expect_latest(folder, 1);
  }
}

TEST(DamagedCheckpoint, TruncatedFilesAndMissingOnesAreFound) {
  TempFolder folder;
  save_two(folder);
  std::string path = folder_of(folder, 2) + "/optimizer.safetensors";
  fs::resize_file(path, fs::file_size(path) - 1);
  expect_latest(folder, 1);
  fs::remove(path);
  expect_latest(folder, 1);
}

TEST(DamagedCheckpoint, OneWithoutAManifestOrWithABrokenOneIsNotWhole) {
  TempFolder folder;
  save_two(folder);
  std::string path = folder_of(folder, 2) + "/manifest.json";
  for (const char* text :
       {"", "[]", "{}", R"({"files":[]})", R"({"files":[{"name":"../x","bytes":1,"xxh3_128":"0"}]})"}) {
    std::ofstream(path) << text;
    expect_latest(folder, 1);
  }
  fs::remove(path);
  expect_latest(folder, 1);
}

TEST(DamagedCheckpoint, NoneIsLeft) {
  TempFolder folder;
  expect_latest(folder, 0);
  save_two(folder);
  flip_byte(folder_of(folder, 1) + "/model.safetensors", 2000);
  flip_byte(folder_of(folder, 2) + "/model.safetensors", 2000);
  expect_latest(folder, 0);
}

TEST(DamagedCheckpoint, ItDoesNotPushOutWholeOnes) {
  TempFolder folder;
  save_two(folder);
  flip_byte(folder_of(folder, 2) + "/model.safetensors", 2000);
  run_ranks(1, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path(), .keep_last = 2});
    store->restore(*store->find_latest());
    ASSERT_TRUE(save(*store, 3));
  });
  EXPECT_TRUE(fs::exists(folder_of(folder, 1)));
  EXPECT_FALSE(fs::exists(folder_of(folder, 2)));
  EXPECT_TRUE(fs::exists(folder_of(folder, 3)));
}

TEST(DamagedCheckpoint, ADamagedOneIsReplacedByTheNextSaveOfItsStep) {
  TempFolder folder;
  save_two(folder);
  flip_byte(folder_of(folder, 2) + "/model.safetensors", 2000);
  run_ranks(1, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path()});
    store->restore(*store->find_latest());
    ASSERT_TRUE(save(*store, 2));
  });
  expect_latest(folder, 2);
}

TEST(Checksum, IsXxhash3OfTheContent) {
  TempFolder folder;
  // `printf abc | xxhsum -H2`
  EXPECT_EQ(file_checksum(folder.write("abc", "abc")), "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(file_checksum(folder.write("empty", "")), "99aa06d3014798d86001c324468d497f");
}

TEST(Retention, TheLastOnesAndTheBestStay) {
  TempFolder folder;
  run_ranks(2, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path(), .keep_last = 2});
    const double losses[] = {3.0, 1.5, std::numeric_limits<double>::quiet_NaN(), 2.0, 2.5};
    for (int64_t step = 1; step <= 5; ++step) ASSERT_TRUE(save(*store, step, losses[step - 1]));
  });
  for (int64_t step = 1; step <= 5; ++step) {
    EXPECT_EQ(fs::exists(folder_of(folder, step)), step == 2 || step >= 4) << step;
  }
}

TEST(Retention, TheBestMayBeTheHighest) {
  TempFolder folder;
  run_ranks(1, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path(), .keep_last = 1, .best_metric = {.name = "f1"}});
    const double losses[] = {3.0, 1.5, std::numeric_limits<double>::quiet_NaN(), 2.0, 2.5};
    for (int64_t step = 1; step <= 5; ++step) ASSERT_TRUE(save(*store, step, losses[step - 1]));
  });
  for (int64_t step = 1; step <= 5; ++step) {
    EXPECT_EQ(fs::exists(folder_of(folder, step)), step == 2 || step == 5) << step;
  }
}

TEST(Retention, ByAMetricThatWasNeverMeasuredNoneIsTheBest) {
  TempFolder folder;
  run_ranks(1, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path(), .keep_last = 1, .best_metric = {.name = "bleu"}});
    for (int64_t step = 1; step <= 3; ++step) ASSERT_TRUE(save(*store, step, static_cast<double>(step)));
  });
  for (int64_t step = 1; step <= 3; ++step) EXPECT_EQ(fs::exists(folder_of(folder, step)), step == 3) << step;
}

TEST(Retention, WithoutTheBest) {
  TempFolder folder;
  run_ranks(1, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path(), .keep_last = 1, .keep_best = false});
    for (int64_t step = 1; step <= 3; ++step) ASSERT_TRUE(save(*store, step, static_cast<double>(step)));
  });
  EXPECT_FALSE(fs::exists(folder_of(folder, 1)));
  EXPECT_FALSE(fs::exists(folder_of(folder, 2)));
  EXPECT_TRUE(fs::exists(folder_of(folder, 3)));
}

TEST(BackgroundSave, TheUpdateWaitsOnlyUntilTheLiveMemoryIsWritten) {
  TempFolder folder;
  run_ranks(2, {.tensor_parallel = 2}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path()});
    EXPECT_FALSE(store->finish_save().has_value());
    run.fill(5);
    ASSERT_TRUE(store->begin_save({.step = 1}));
    EXPECT_FALSE(store->finish_save().has_value());
    run.fill(6);  // the update that follows must not be seen in the checkpoint
    std::optional<bool> ended;
    while (!ended) ended = store->finish_save();
    EXPECT_TRUE(*ended);
  });
  expect_latest(folder, 1);
}

TEST(BackgroundSave, OffMeansWholeOnReturn) {
  TempFolder folder;
  run_ranks(2, {}, [&](RankRun& run) {
    run.fill(5);
    auto store = run.open_store({.directory = folder.path(), .background = false});
    ASSERT_TRUE(store->begin_save({.step = 1}));
    run.fill(6);
  });
  expect_latest(folder, 1);
}

TEST(BackgroundSave, AStoreThatGoesAwayLeavesNothingThatLooksWhole) {
  TempFolder folder;
  save_two(folder);
  run_ranks(2, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = folder.path()});
    ASSERT_TRUE(store->begin_save({.step = 3}));
  });
  expect_latest(folder, 2);
  EXPECT_FALSE(fs::exists(folder_of(folder, 3) + ".partial"));
}

/// Saves one step after the other until it is killed; the values tell the step.
[[noreturn]] void save_forever(const std::string& directory) {
  run_ranks(2, {}, [&](RankRun& run) {
    auto store = run.open_store({.directory = directory, .keep_last = 1});
    int64_t step = 0;
    if (auto latest = store->find_latest()) step = store->restore(*latest).step;
    for (;;) {
      ++step;
      run.fill(static_cast<uint64_t>(step));
      if (!store->begin_save({.step = step})) _exit(1);
      while (!store->finish_save().has_value()) std::this_thread::yield();
    }
  });
  _exit(2);
}

TEST(KilledRun, WhatIsFoundAfterwardsIsAlwaysWholeAndNotOlderThanBefore) {
  TempFolder folder;
  int64_t last_step = 0;
  for (int round = 0; round < 12; ++round) {
    pid_t child = fork();
    if (child == 0) save_forever(folder.path());
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 17 * round));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the run ended by itself: " << WEXITSTATUS(status);
    run_ranks(1, {}, [&](RankRun& run) {
      auto store = run.open_store({.directory = folder.path()});
      auto latest = store->find_latest();
      ASSERT_TRUE(latest.has_value() || last_step == 0);
      if (!latest) return;
      int64_t step = store->restore(*latest).step;
      EXPECT_GE(step, last_step);
      EXPECT_EQ(run.num_wrong(static_cast<uint64_t>(step)), 0);
      last_step = step;
    });
  }
  EXPECT_GT(last_step, 0);
}

/// A file system of its own.
class SmallDisk {
 public:
  SmallDisk(const std::string& path, int64_t bytes) : path_(path) {
    fs::create_directories(path_);
    std::string size = "size=" + std::to_string(bytes);
    is_mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, size.c_str()) == 0;
  }
  ~SmallDisk() {
    if (is_mounted_) ::umount(path_.c_str());
  }
  bool is_mounted() const { return is_mounted_; }

 private:
  std::string path_;
  bool is_mounted_;
};

TEST(FullDisk, TheSaveFailsAloneAndTheOldCheckpointStays) {
  TempFolder folder;
  SmallDisk disk(folder.path() + "/disk", 350 << 10);
  if (!disk.is_mounted()) GTEST_SKIP() << "NOT TESTED: a full disk, since mounting a tmpfs needs root";
  std::string directory = folder.path() + "/disk/checkpoints";
  run_ranks(2, {.tensor_parallel = 2}, [&](RankRun& run) {
    run.fill(5);
    auto store = run.open_store({.directory = directory});
    ASSERT_TRUE(save(*store, 1));
    run.mesh.world().barrier();
    ASSERT_FALSE(save(*store, 2));
    auto latest = store->find_latest();
    ASSERT_TRUE(latest.has_value());
    EXPECT_EQ(store->restore(*latest).step, 1);
    EXPECT_EQ(run.num_wrong(5), 0);
  });
  EXPECT_FALSE(fs::exists(directory + "/step-00000002.partial"));
}

}  // namespace
}  // namespace weft
