// weft verify, inspect, plan and bench as a user runs them: exit codes, standard output, standard error.
#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/command_test.h"
#include "support/paths.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using weft::mpiexec;
using weft::test_data;
using weft::weft_binary;
using weft::testing::Outcome;

const fs::path kData = test_data();
const fs::path kShapes = kData.parent_path().parent_path() / "configs/models";

class MeasurementCommands : public weft::testing::CommandTest {
 protected:
  static std::string verify_arguments(const fs::path& model, const fs::path& golden) {
    return fmt::format("verify --quiet --model '{}' --golden '{}' ", model.string(), golden.string());
  }

  /// Adds to the first element of a tensor of a copy of a safetensors folder.
  fs::path copy_with_changed_weight(const fs::path& model, const std::string& tensor) const {
    fs::path copy = folder_ / "changed";
    fs::copy(model, copy);
    fs::permissions(copy / "model.safetensors", fs::perms::owner_all);
    std::fstream file(copy / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    uint64_t header_bytes = 0;
    file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
    std::string header(header_bytes, ' ');
    file.read(header.data(), static_cast<std::streamsize>(header_bytes));
    auto offset = json::parse(header)[tensor]["data_offsets"][0].get<int64_t>();
    auto place = static_cast<std::streamoff>(8 + header_bytes) + offset;
    float value = 0;
    file.seekg(place);
    file.read(reinterpret_cast<char*>(&value), sizeof(value));
    value += 4.0f;
    file.seekp(place);
    file.write(reinterpret_cast<const char*>(&value), sizeof(value));
    return copy;
  }
};

std::map<std::string, bool> passed_by_name(const json& report) {
  std::map<std::string, bool> passed;
  for (const json& row : report["compared"]) passed[row["name"]] = row["passed"];
  return passed;
}

TEST_F(MeasurementCommands, VerifySaysWhichTensorsAWrongWeightReaches) {
  fs::path original = kData / "hf/llama_gqa";
  fs::path changed = copy_with_changed_weight(original, "model.layers.1.mlp.down_proj.weight");
  EXPECT_EQ(weft(verify_arguments(original, original / "golden.h5")).exit_code, 0);
  Outcome outcome = weft(verify_arguments(changed, original / "golden.h5") + "--json");
  EXPECT_EQ(outcome.exit_code, 6);
  json report = json::parse(outcome.out);
  EXPECT_FALSE(report["passed"].get<bool>());
  auto passed = passed_by_name(report);
  EXPECT_TRUE(passed.at("outputs/hidden/1")) << "before the changed layer";
  EXPECT_FALSE(passed.at("outputs/hidden/2")) << "after it";
  EXPECT_FALSE(passed.at("outputs/logits"));
  EXPECT_FALSE(passed.at("train/loss"));
  EXPECT_FALSE(passed.at("train/grads/model.norm.weight"));
}

TEST_F(MeasurementCommands, VerifyTakesTheArithmeticOfTheGoldenFileAndNotOfTheCheckpoint) {
  // Only the file says that these weights are bert4keras3's, of family gemma2, and its arithmetic has no final soft
  // cap.
  fs::path folder = kData / "seed/gemma2-hiddennorm";
  Outcome outcome = weft(verify_arguments(folder, folder / "golden.h5"));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_NE(outcome.out.find("5 penalised continuations"), std::string::npos) << outcome.out;
}

TEST_F(MeasurementCommands, ToleranceOfTheCommandLineWins) {
  fs::path folder = kData / "hf/gemma";
  EXPECT_EQ(weft(verify_arguments(folder, folder / "golden.h5") + "--tolerance 1e-9").exit_code, 6);
  EXPECT_EQ(weft(verify_arguments(folder, folder / "golden.h5") + "--tolerance 1e-3").exit_code, 0);
}

TEST_F(MeasurementCommands, VerifyUnderMpirunAgreesOnEveryRank) {
  for (const char* name : {"hf/gemma2", "seed/qwen2-tied", "seed/gemma-mqa"}) {
    fs::path folder = kData / name;
    Outcome outcome = shell("timeout 120 " + mpiexec() + " --allow-run-as-root --oversubscribe --bind-to none -n 2 '" +
                            weft_binary() + "' " + verify_arguments(folder, folder / "golden.h5"));
    EXPECT_EQ(outcome.exit_code, 0) << name << outcome.out << outcome.err;
    EXPECT_NE(outcome.out.find("all within tolerance"), std::string::npos) << name << outcome.out;
  }
}

TEST_F(MeasurementCommands, AFileWithNothingToCompareFails) {
  fs::path folder = kData / "seed/llama-gqa";
  Outcome outcome = weft(verify_arguments(folder, folder / "model.weights.h5") + "--family llama");
  EXPECT_EQ(outcome.exit_code, 6);
  EXPECT_NE(outcome.out.find("nothing to compare"), std::string::npos);
  EXPECT_NE(outcome.err.find("docs/golden-files.md"), std::string::npos) << outcome.err;
}

TEST_F(MeasurementCommands, AnotherModelsGoldenFileIsRefusedInOneLine) {
  Outcome outcome = weft(verify_arguments(kData / "hf/gemma", kData / "hf/llama_gqa/golden.h5"));
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_NE(outcome.err.find("another model"), std::string::npos) << outcome.err;
}

TEST_F(MeasurementCommands, ATruncatedGoldenFileIsRefused) {
  fs::path folder = kData / "hf/gemma";
  fs::copy(folder / "golden.h5", folder_ / "short.h5");
  fs::permissions(folder_ / "short.h5", fs::perms::owner_all);
  fs::resize_file(folder_ / "short.h5", fs::file_size(folder_ / "short.h5") / 2);
  EXPECT_EQ(weft(verify_arguments(folder, folder_ / "short.h5")).exit_code, 3);
}

TEST_F(MeasurementCommands, InspectDescribesACheckpointAndAShape) {
  json description =
      json::parse(weft(fmt::format("inspect '{}' --tensors --json", (kData / "hf/gemma2_bf16").string())).out);
  EXPECT_EQ(description["family"], "gemma2");
  EXPECT_EQ(description["parameters"], 99120);
  EXPECT_EQ(description["weights"]["types"]["BF16"]["tensors"], 46);
  EXPECT_EQ(description["tensor_list"].size(), 46);
  EXPECT_EQ(description["needs_bytes"]["f32"]["weights"], 99120 * 4);
  Outcome shape = weft(fmt::format("inspect '{}'", (kShapes / "gemma2-27b.json").string()));
  EXPECT_EQ(shape.exit_code, 0);
  EXPECT_NE(shape.out.find("27.23 billion"), std::string::npos) << shape.out;
}

TEST_F(MeasurementCommands, PlanPrintsBytesARankAndTheSmallestDegree) {
  std::string arguments = fmt::format("plan --model '{}' --json ", (kShapes / "gemma2-27b.json").string());
  json plan = json::parse(weft(arguments + "--tensor-parallel 8 --memory-per-rank 15GB").out);
  const json& bytes = plan["bytes_per_rank"];
  EXPECT_NEAR(bytes["weights"].get<double>(), 54.45e9 / 8, 0.05e9);
  EXPECT_EQ(bytes["total"].get<int64_t>(),
            bytes["weights"].get<int64_t>() + bytes["kv_cache"].get<int64_t>() + bytes["activations"].get<int64_t>() +
                bytes["buffers"].get<int64_t>());
  EXPECT_EQ(plan["smallest_tensor_parallel"], 4);
  EXPECT_EQ(weft(arguments + "--tensor-parallel 5").exit_code, 3) << "5 ranks cannot share it";
  EXPECT_EQ(weft(arguments + "--memory-per-rank lots").exit_code, 2);
}

TEST_F(MeasurementCommands, BenchPrintsOneJsonLineWithItsBound) {
  std::string shape = R"({"model_type": "qwen2", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "tie_word_embeddings": true})";
  std::ofstream(folder_ / "shape.json") << shape;
  for (const char* kind : {"prefill", "decode"}) {
    Outcome outcome = weft(
        fmt::format("bench {} --quiet --model shape.json --batch 2 --prompt-tokens 16 --new-tokens 8 --json", kind));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
    json line = json::parse(outcome.out);
    EXPECT_GT(line["value"].get<double>(), 0);
    EXPECT_EQ(line["unit"], "tokens/s");
    EXPECT_GT(line["bound"].get<double>(), 0);  // a model this small fits in a cache and may exceed it
    EXPECT_DOUBLE_EQ(line["bound_fraction"].get<double>(), line["value"].get<double>() / line["bound"].get<double>());
    EXPECT_FALSE(line["formula"].get<std::string>().empty());
    EXPECT_EQ(line["values"].size(), 3);
  }
}

TEST_F(MeasurementCommands, BenchSeq2SeqTimesGreedyAnswersAndBeams) {
  std::ofstream(folder_ / "t5.json") << R"({"model_type": "t5", "vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64,
    "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false})";
  for (int beams : {1, 3}) {
    Outcome outcome = weft(fmt::format(
        "bench seq2seq --quiet --model t5.json --batch 2 --source 9 --new-tokens 5 --beams {} --json", beams));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    json line = json::parse(outcome.out);
    EXPECT_GT(line["value"].get<double>(), 0);
    EXPECT_GT(line["decode_tokens_per_second"].get<double>(), 0);
    EXPECT_GT(line["decode_bound"].get<double>(), line["bound"].get<double>());
    EXPECT_EQ(line["beams"], beams);
    EXPECT_EQ(line["values"].size(), 5);
  }
  EXPECT_EQ(weft("bench seq2seq --quiet --model t5.json --new-tokens 1").exit_code, 2);
}

TEST_F(MeasurementCommands, BenchLoadAsOneRankOfSeveralReadsItsShareOnly) {
  std::string arguments =
      fmt::format("bench load --quiet --json --dtype f32 --model '{}' ", (kData / "hf/llama_gqa").string());
  json whole = json::parse(weft(arguments).out);
  json half = json::parse(weft(arguments + "--as-rank 1/2").out);
  EXPECT_EQ(whole["bytes_read"], 122304 * 4);
  EXPECT_LE(half["bytes_read"].get<double>(), 1.02 * half["shard_bytes_in_files"].get<double>());
  EXPECT_LT(half["bytes_read"].get<double>(), 0.52 * whole["bytes_read"].get<double>());
  EXPECT_LE(half["peak_of_limit"].get<double>(), 1.0);
  EXPECT_EQ(weft(arguments + "--as-rank 2/2").exit_code, 2);
}

}  // namespace
