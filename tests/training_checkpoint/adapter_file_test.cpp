// Adapters as PEFT wrote them, and ours as PEFT reads them.

#include "models/adapter_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/reader.h"
#include "checkpoint/test_files.h"
#include "parallel/thread_communicator.h"
#include "support/paths.h"
#include "training_checkpoint/rank_run.h"
#include "verify/golden_file.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string case_path(const std::string& name) {
  return test_data() + "/train/llama/" + name;
}

/// The first batch of the golden file without its padding.
Batch first_batch(const GoldenIds& ids, const GoldenIds& mask, int64_t rows) {
  Batch batch;
  for (int64_t row = 0; row < rows; ++row) {
    int64_t length = 0;
    while (length < ids.length && mask.at(row, length) != 0) ++length;
    batch.add(ids.prefix(row, length));
  }
  return batch;
}

double largest_difference(Context& context, LanguageModel& model) {
  GoldenFile golden(case_path("golden.h5"));
  GoldenTensor expected = golden.tensor("lora/logits_after_batch0");
  Batch batch = first_batch(golden.ids("data/input_ids"), golden.ids("data/attention_mask"), expected.shape[0]);
  Tensor logits = model.logits(context, model.hidden(context, batch, nullptr));
  double largest = 0;
  for (size_t row = 0; row < batch.sequences.size(); ++row) {
    const BatchSequence& sequence = batch.sequences[row];
    for (int64_t i = 0; i < sequence.length; ++i) {
      auto reference = expected.row(static_cast<int64_t>(row) * expected.shape[1] + i);
      const float* ours = logits.data<float>() + (sequence.begin + i) * expected.width();
      for (int64_t j = 0; j < expected.width(); ++j) {
        largest = std::max<double>(largest, std::abs(ours[j] - reference[static_cast<size_t>(j)]));
      }
    }
  }
  return largest;
}

TEST(AdapterFile, GivesPeftsLogitsOnAnyNumberOfRanksWithPackedWeights) {
  for (int size : {1, 2}) {
    run_thread_ranks(size, [&](const std::shared_ptr<Communicator>& ranks) {
      Context context = make_cpu_context(1);
      if (size > 1) context.tensor_parallel = ranks.get();
      OpenedModel opened = open_model({case_path(""), "", ""});
      auto model = opened.make({ranks->rank(), size});
      load_parameters(context, opened, *model, {});
      EXPECT_GT(largest_difference(context, *model), 1e-2);  // it does something
      auto adapter = load_adapter(context, *model, open_adapter(case_path("lora/after")), DType::f32);
      adapter->attach();
      EXPECT_LT(largest_difference(context, *model), 2e-5);
      adapter->detach();
      EXPECT_GT(largest_difference(context, *model), 1e-2);
    });
  }
}

TEST(AdapterFile, PeftsConfigIsRead) {
  OpenedAdapter opened = open_adapter(case_path("lora/after"));
  EXPECT_EQ(opened.options.rank, 4);
  EXPECT_EQ(opened.options.alpha, 8);
  EXPECT_EQ(opened.options.target_modules,
            (std::vector<std::string>{"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}));
}

class AdapterConfig : public ::testing::Test {
 protected:
  /// The error of the golden adapter with one field changed.
  std::string error_with(const std::string& key, const Json& value) {
    fs::copy(
        case_path("lora/after"), folder_.path(), fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    Json config = Json::parse(read_bytes(case_path("lora/after/adapter_config.json")));
    config[key] = value;
    folder_.write("adapter_config.json", config.dump());
    return error_of([&] { open_adapter(folder_.path()); });
  }

  TempFolder folder_;
};

TEST_F(AdapterConfig, WhatWeftDoesNotDoIsRefusedByName) {
  const std::vector<std::pair<std::string, Json>> cases = {{"use_dora", true},
                                                           {"bias", "lora_only"},
                                                           {"lora_bias", true},
                                                           {"rank_pattern", {{"q_proj", 8}}},
                                                           {"alpha_pattern", {{"q_proj", 8}}},
                                                           {"fan_in_fan_out", true},
                                                           {"layer_replication", {{0, 1}}},
                                                           {"trainable_token_indices", {1, 2}},
                                                           {"use_qalora", true},
                                                           {"init_lora_weights", "pissa_niter_4"},
                                                           {"init_lora_weights", "olora"},
                                                           {"init_lora_weights", 1},
                                                           {"peft_type", "IA3"},
                                                           {"peft_type", Json()},
                                                           {"r", 0},
                                                           {"r", 4.5},
                                                           {"r", "4"},
                                                           {"lora_alpha", "8"},
                                                           {"lora_dropout", 1.0},
                                                           {"use_rslora", 1}};
  for (const auto& [key, value] : cases) {
    std::string error = error_with(key, value);
    EXPECT_NE(error.find("'" + key + "'"), std::string::npos) << key << ": " << error;
  }
}

TEST_F(AdapterConfig, InitialisationsThatLeaveTheBaseAsItIsAreFine) {
  fs::copy(case_path("lora/after"), folder_.path(), fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  Json config = Json::parse(read_bytes(case_path("lora/after/adapter_config.json")));
  for (const Json& value : {Json(), Json(true), Json(false), Json("gaussian")}) {
    config["init_lora_weights"] = value;
    folder_.write("adapter_config.json", config.dump());
    EXPECT_NO_THROW(open_adapter(folder_.path())) << value;
  }
}

TEST_F(AdapterConfig, FoldersThatAreNoAdapterSayWhatIsMissing) {
  EXPECT_NE(error_of([&] { open_adapter(folder_.path()); }).find("adapter_config.json"), std::string::npos);
  folder_.write("adapter_config.json", "[1");
  EXPECT_NE(error_of([&] { open_adapter(folder_.path()); }).find("no JSON object"), std::string::npos);
  fs::copy(case_path("lora/after"), folder_.path(), fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  ASSERT_TRUE(fs::exists(folder_.path() + "/adapter_model.safetensors"));
  fs::remove(folder_.path() + "/adapter_model.safetensors");
  std::string error = error_of([&] { open_adapter(folder_.path()); });
  EXPECT_NE(error.find("adapter_model.safetensors: no such file"), std::string::npos) << error;
}

TEST_F(AdapterConfig, AnAdapterOfAnotherModelIsRefused) {
  Context context = make_cpu_context(1);
  auto model = open_model({test_data() + "/hf/llama_gqa", "", ""}).make({});
  OpenedAdapter opened = open_adapter(case_path("lora/after"));
  error_of([&] { load_adapter(context, *model, opened, DType::f32); });
}

TEST(AdapterCheckpoint, GoesOnAnyMeshAndIsAnAdapterFolder) {
  TempFolder folder;
  testing::RunOptions options{.states = {"exp_avg", "ema"}, .with_adapter = true};
  options.tensor_parallel = 2;
  options.zero_stage = 1;
  testing::run_ranks(4, options, [&](testing::RankRun& run) {
    run.fill(3);
    auto store = run.open_store({.directory = folder.path()});
    ASSERT_TRUE(store->begin_save({.step = 4}));
    ASSERT_TRUE(store->complete_save());
  });
  OpenedAdapter opened = open_adapter(folder.path() + "/step-00000004");
  EXPECT_EQ(opened.options.rank, 3);
  EXPECT_EQ(opened.replaced.size(), 7u);  // the norms
  open_adapter(folder.path() + "/step-00000004/ema");
  EXPECT_FALSE(fs::exists(folder.path() + "/step-00000004/model.safetensors"));
  for (int tensor_parallel : {1, 4}) {
    options.tensor_parallel = tensor_parallel;
    testing::run_ranks(4, options, [&](testing::RankRun& run) {
      auto store = run.open_store({.directory = folder.path()});
      EXPECT_EQ(store->restore(*store->find_latest()).step, 4);
      EXPECT_EQ(run.num_wrong(3), 0) << tensor_parallel;
    });
  }
}

/// Elements of a norm of an adapter folder that are not the formula's.
int64_t num_wrong_norms(const OpenedAdapter& opened, uint64_t seed) {
  int64_t count = 0;
  for (const std::string& name : opened.replaced) {
    std::vector<float> values(static_cast<size_t>(opened.reader->info(adapter_tensor_name(name)).shape[0]));
    opened.reader->read(adapter_tensor_name(name), values.data(), DType::f32);
    for (size_t i = 0; i < values.size(); ++i) {
      count += values[i] != testing::formula(seed, name, static_cast<int64_t>(i)) ? 1 : 0;
    }
  }
  return count;
}

TEST(AdapterCheckpoint, FrozenNormsOfAnAdapterStayWithIt) {
  TempFolder first, second;
  testing::run_ranks(1, {.states = {}, .with_adapter = true}, [&](testing::RankRun& run) {
    run.fill(3);
    ASSERT_TRUE(run.open_store({.directory = first.path(), .background = false})->begin_save({.step = 4}));
  });
  testing::RunOptions options{.states = {"exp_avg", "ema"}, .adapter_folder = first.path() + "/step-00000004"};
  options.tensor_parallel = 2;
  options.zero_stage = 1;
  testing::run_ranks(4, options, [&](testing::RankRun& run) {
    run.adapter->replace_parameters();
    // As under ZeRO 3, where a frozen weight is not in memory outside its block.
    for (const ReplacedParameter& one : run.adapter->replaced()) {
      EXPECT_EQ(one.parameter->value.data<float>()[1], testing::formula(3, one.parameter->name, 1));
      one.parameter->value.release_memory();
    }
    ASSERT_TRUE(run.open_store({.directory = second.path(), .background = false})->begin_save({.step = 5}));
  });
  for (const char* folder : {"/step-00000005", "/step-00000005/ema"}) {
    OpenedAdapter opened = open_adapter(second.path() + folder);
    EXPECT_EQ(opened.replaced.size(), 7u) << folder;
    EXPECT_EQ(num_wrong_norms(opened, 3), 0) << folder;
  }
}

}  // namespace
}  // namespace weft
