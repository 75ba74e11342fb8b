// Tiny checkpoints with vocabularies, and conversions of them, for tests of commands.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "support/command_test.h"
#include "support/paths.h"

namespace weft {

inline const std::filesystem::path kData = test_data();

inline std::vector<float> values_of(const CheckpointReader& reader, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DType::f32);
  return values;
}

class EncoderCommands : public testing::CommandTest {
 protected:
  /// Converts and gives the folder that was written. Warnings go to `warnings`; there must be none where it is null.
  std::filesystem::path convert(const std::filesystem::path& model,
                                const std::string& flags,
                                const std::string& format,
                                std::string* warnings = nullptr) {
    std::filesystem::path out = folder_ / fmt::format("{}_{}", format, num_conversions_++);
    testing::Outcome outcome = weft(
        fmt::format("convert --quiet --model '{}' {} --to {} --out '{}'", model.string(), flags, format, out.string()));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    if (warnings != nullptr) {
      *warnings = outcome.err;
    } else {
      EXPECT_EQ(outcome.err, "");
    }
    return out;
  }

  /// Copies a case's weights and config, and gives it a vocabulary of as many words as the model has ids.
  std::filesystem::path make_model(const std::string& name, const std::string& golden_case) const {
    std::filesystem::path model = folder_ / name;
    std::filesystem::create_directory(model);
    for (const char* file : {"config.json", "model.safetensors", "model.weights.h5"}) {
      if (!std::filesystem::exists(kData / golden_case / file)) continue;
      std::filesystem::copy(kData / golden_case / file, model / file);
      std::filesystem::permissions(model / file, std::filesystem::perms::owner_all);
    }
    int64_t size = nlohmann::json::parse(testing::contents(model / "config.json")).at("vocab_size");
    std::vector<std::string> words = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "fox", "##es", "."};
    for (int64_t id = static_cast<int64_t>(words.size()); id < size; ++id) words.push_back(fmt::format("w{}", id));
    write_words(model / "vocab.txt", words);
    return model;
  }

  static void write_words(const std::filesystem::path& path, const std::vector<std::string>& words) {
    std::ofstream file(path, std::ios::binary);
    for (const std::string& word : words) file << word << '\n';
  }

  static void change_config(const std::filesystem::path& model, const nlohmann::json& changes) {
    nlohmann::json config = nlohmann::json::parse(testing::contents(model / "config.json"));
    config.update(changes);
    std::ofstream(model / "config.json") << config.dump();
  }

  int num_conversions_ = 0;
};

}  // namespace weft
