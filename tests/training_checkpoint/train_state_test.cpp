// train_state.json: numbers that a run can go on from, or one clear line.

#include "training_checkpoint/train_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "checkpoint/test_files.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

class TrainStateFile : public ::testing::Test {
 protected:
  TrainState read(const Json& json) {
    folder_.write("train_state.json", json.dump());
    return read_train_state(folder_.path());
  }

  TempFolder folder_;
  Json json_ = Json::parse(train_state_json({.step = 12, .seed = ~0ull, .data_fingerprint = 0xfedcba9876543210}));
};

TEST_F(TrainStateFile, ComesBackAndMayLackTheFingerprint) {
  EXPECT_EQ(json_["data_fingerprint"], "fedcba9876543210");
  EXPECT_EQ(read(json_).data_fingerprint, 0xfedcba9876543210);
  EXPECT_EQ(read(json_).seed, ~0ull);
  json_.erase("data_fingerprint");
  EXPECT_EQ(read(json_).data_fingerprint, 0u);
  EXPECT_EQ(read(json_).step, 12);
}

TEST_F(TrainStateFile, NamesTheOptimizerAndTheBaseOrNeither) {
  json_["optimizer"] = "lion";
  json_["base_fingerprint"] = "12";
  EXPECT_EQ(read(json_).optimizer, "lion");
  EXPECT_EQ(read(json_).base_fingerprint, 0x12u);
  json_["optimizer"] = 5;
  EXPECT_NE(error_of([&] { read(json_); }).find("'optimizer' must be a text"), std::string::npos);
  json_.erase("optimizer");
  json_.erase("base_fingerprint");
  EXPECT_EQ(read(json_).optimizer, "");
  EXPECT_EQ(read(json_).base_fingerprint, 0u);
}

TEST_F(TrainStateFile, EvaluationsComeBack) {
  EXPECT_TRUE(read(json_).held_out.empty());
  EXPECT_TRUE(std::isnan(read(json_).best_value));
  json_ = Json::parse(train_state_json({.held_out = {{"loss", 0.5}, {"f1", std::nan("")}},
                                        .best_metric = "f1",
                                        .best_value = 0.25,
                                        .evaluations_since_best = 3}));
  TrainState state = read(json_);
  EXPECT_EQ(state.held_out, (std::map<std::string, double>{{"loss", 0.5}}));
  EXPECT_EQ(state.best_metric, "f1");
  EXPECT_EQ(state.best_value, 0.25);
  EXPECT_EQ(state.evaluations_since_best, 3);
  for (const char* key : {"held_out", "best_metric", "best_value", "evaluations_since_best"}) {
    Json json = json_;
    json[key] = Json::array();
    EXPECT_NE(error_of([&] { read(json); }).find("'" + std::string(key) + "' must be"), std::string::npos) << key;
    json.erase(key);
    read(json);
  }
}

TEST_F(TrainStateFile, NumbersOutOfAllBoundsAreDamage) {
  const Json values[] = {
      -1, int64_t{9223372036854775807}, uint64_t{18446744073709551615u}, (int64_t{1} << 53) + 1, 1.5, "12", Json()};
  for (const char* key : {"step", "updates", "next_row", "tokens_seen", "data_parallel"}) {
    for (const Json& value : values) {
      Json json = json_;
      json[key] = value;
      std::string error = error_of([&] { read(json); });
      EXPECT_NE(error.find("'" + std::string(key) + "' must be a number from 0 to"), std::string::npos)
          << value << ": " << error;
    }
  }
  json_["next_row"] = int64_t{1} << 53;
  EXPECT_EQ(read(json_).next_row, int64_t{1} << 53);
}

TEST_F(TrainStateFile, AFingerprintOfAnotherFormIsDamage) {
  for (const Json& value : {Json(5), Json(""), Json("12g"), Json("0x12"), Json("11112222333344445")}) {
    json_["data_fingerprint"] = value;
    std::string error = error_of([&] { read(json_); });
    EXPECT_NE(error.find("'data_fingerprint' must be up to 16 hexadecimal digits"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace weft
