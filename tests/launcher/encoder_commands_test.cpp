// The commands of encoders on tiny checkpoints: conversions between all formats of a family, vectors, masks filled in.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "checkpoint/reader.h"
#include "support/command_test.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

const fs::path kData = WEFT_TEST_DATA;

class EncoderCommands : public testing::CommandTest {
 protected:
  /// Converts and gives the folder that was written.
  fs::path convert(const fs::path& model, const std::string& flags, const std::string& format) {
    fs::path out = folder_ / fmt::format("{}_{}", format, num_conversions_++);
    Outcome outcome = weft(
        fmt::format("convert --quiet --model '{}' {} --to {} --out '{}'", model.string(), flags, format, out.string()));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return out;
  }

  /// Copies a case's weights and config, and gives it a vocabulary of as many words as the model has ids.
  fs::path make_model(const std::string& name, const std::string& golden_case) const {
    fs::path model = folder_ / name;
    fs::create_directory(model);
    for (const char* file : {"config.json", "model.safetensors", "model.weights.h5"}) {
      if (!fs::exists(kData / golden_case / file)) continue;
      fs::copy(kData / golden_case / file, model / file);
      fs::permissions(model / file, fs::perms::owner_all);
    }
    int64_t size = json::parse(contents(model / "config.json")).at("vocab_size");
    std::vector<std::string> words = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "fox", "##es", "."};
    for (int64_t id = static_cast<int64_t>(words.size()); id < size; ++id) words.push_back(fmt::format("w{}", id));
    write_words(model / "vocab.txt", words);
    return model;
  }

  static void write_words(const fs::path& path, const std::vector<std::string>& words) {
    std::ofstream file(path, std::ios::binary);
    for (const std::string& word : words) file << word << '\n';
  }

  static void change_config(const fs::path& model, const json& changes) {
    json config = json::parse(contents(model / "config.json"));
    config.update(changes);
    std::ofstream(model / "config.json") << config.dump();
  }

  int num_conversions_ = 0;
};

std::vector<float> values_of(const CheckpointReader& reader, const std::string& name) {
  std::vector<float> values(static_cast<size_t>(reader.info(name).shape.num_elements()));
  reader.read(name, values.data(), DType::f32);
  return values;
}

/// All tensors of `actual` are in `expected` with the same type, shape and bits; what only `expected` has is returned.
std::set<std::string> compare_tensors(const fs::path& actual, const fs::path& expected) {
  auto made = open_checkpoint(actual.string());
  auto given = open_checkpoint(expected.string());
  std::set<std::string> left(given->names().begin(), given->names().end());
  for (const std::string& name : made->names()) {
    if (given->find(name) == nullptr) {
      ADD_FAILURE() << name << " is not in " << expected;
      continue;
    }
    left.erase(name);
    EXPECT_EQ(made->info(name).dtype, given->info(name).dtype) << name;
    EXPECT_EQ(made->info(name).shape, given->info(name).shape) << name;
    std::vector<float> a = values_of(*made, name), b = values_of(*given, name);
    // NEZHA's table is no weight: each program computes it.
    if (name.find("relative_position_embedding") != std::string::npos) {
      EXPECT_THAT(a, ::testing::Pointwise(::testing::FloatNear(1e-5F), b)) << name;
      continue;
    }
    EXPECT_TRUE(a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0) << name;
  }
  return left;
}

struct RoundTrip {
  std::string golden_case;
  std::string family;
  std::string application = "encoder";
  std::vector<std::string> formats = {"keras", "safetensors", "tensorflow"};  // one after the other
  bool equals_keras = true;  // the file that bert4keras3 wrote of the same model
};

std::ostream& operator<<(std::ostream& stream, const RoundTrip& trip) {
  return stream << trip.golden_case;
}

const std::vector<RoundTrip>& round_trips() {
  static const std::vector<std::string> without_safetensors = {"keras", "tensorflow"};
  static const std::vector<std::string> without_tensorflow = {"safetensors", "keras"};
  static const std::vector<RoundTrip> all = {
      {"seed/bert-mlm", "bert"},
      {"seed/bert-embsize", "bert"},
      {"seed/albert-pool-nsp-mlm", "albert"},
      // The checkpoint has one block for all layers of this model.
      {.golden_case = "seed/albert_unshared-mlm", .family = "albert_unshared", .equals_keras = false},
      {"seed/nezha-pool-nsp-mlm", "nezha"},
      {"seed/nezha-lm", "nezha", "lm"},
      {"seed/electra-discriminator", "electra"},
      {"seed/roformer_sim-unilm", "roformer_sim", "unilm"},
      {"seed/roformer_v2-mlm", "roformer_v2", "encoder", without_safetensors},
      {"seed/gau_alpha-mlm", "gau_alpha", "encoder", without_safetensors},
      {"seed/deberta-mlm", "deberta", "encoder", without_tensorflow},
      {"seed/bert-pool", "bert", "encoder", {"tensorflow", "safetensors", "keras"}}};
  return all;
}

class RoundTrips : public EncoderCommands, public ::testing::WithParamInterface<RoundTrip> {};

TEST_P(RoundTrips, GiveTheBytesOfEveryTensorBack) {
  const RoundTrip& trip = GetParam();
  fs::path golden_case = kData / trip.golden_case;
  bool from_tensorflow = trip.formats.back() == "tensorflow";
  fs::path first = from_tensorflow ? golden_case / "ckpt" : golden_case;
  std::string flags = fmt::format("--family {} --application {}", trip.family, trip.application);
  fs::path model = first;
  for (const std::string& format : trip.formats) {
    std::string config = model == first ? fmt::format(" --config '{}'", (golden_case / "config.json").string()) : "";
    model = convert(model, flags + config, format);
    if (format != "keras" || !from_tensorflow || !trip.equals_keras) continue;
    for (const std::string& name : compare_tensors(model, golden_case)) EXPECT_THAT(name, HasSubstr("seed_generator"));
  }
  for (const std::string& name : compare_tensors(model, first)) {
    EXPECT_THAT(name, ::testing::AnyOf(HasSubstr("seed_generator"), HasSubstr("adam_"), HasSubstr("global_step")));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, RoundTrips, ::testing::ValuesIn(round_trips()), [](const auto& trip) {
  std::string name = trip.param.golden_case.substr(sizeof("seed/") - 1);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
});

class HuggingFaceRoundTrips : public EncoderCommands, public ::testing::WithParamInterface<const char*> {};

/// What transformers writes twice or computes.
const char* const kDerived =
    "(predictions\\.decoder\\.(weight|bias)|cls\\.predictions\\.decoder\\.(weight|bias)|generator_lm_head\\.weight|"
    ".*position_ids|.*relative_positions_encoding.*|.*embed_positions\\.weight)";

TEST_P(HuggingFaceRoundTrips, GiveTheBytesOfEveryTensorBack) {
  std::string name = GetParam();
  std::string family = "--family " + name.substr(0, name.find('_'));
  fs::path first = kData / "hf" / name;
  fs::path keras = convert(first, "", "keras");
  std::string generator = name == "electra_gen" ? " --application encoder" : "";
  fs::path tensorflow = convert(keras, family + generator, "tensorflow");
  for (const std::string& left : compare_tensors(convert(tensorflow, family, "safetensors"), first)) {
    EXPECT_THAT(left, ::testing::MatchesRegex(kDerived));
  }
}

INSTANTIATE_TEST_SUITE_P(Families,
                         HuggingFaceRoundTrips,
                         ::testing::Values("bert", "albert", "electra_disc", "nezha"),
                         [](const auto& name) { return std::string(name.param); });

TEST_F(EncoderCommands, ConvertKeepsTheTableOfPositionsThatAFileBrings) {
  fs::path first = kData / "hf/roformer";
  for (const std::string& left : compare_tensors(convert(first, "", "safetensors"), first)) {
    EXPECT_THAT(left, HasSubstr("decoder"));
  }
}

TEST_F(EncoderCommands, ConvertedToBf16TheValuesAreRounded) {
  fs::path bf16 = convert(kData / "hf/bert", "--dtype bf16", "safetensors");
  fs::path again = convert(convert(bf16, "", "tensorflow"), "--family bert", "safetensors");
  compare_tensors(again, bf16);
  auto reader = open_checkpoint(bf16.string());
  EXPECT_EQ(reader->info("bert.embeddings.word_embeddings.weight").dtype, DType::bf16);
}

TEST_F(EncoderCommands, ConvertCutsTheVocabularyToTheTokensKept) {
  fs::path model = make_model("bert", "hf/bert");
  std::vector<int64_t> kept = {0, 1, 2, 3, 4, 7, 100};
  change_config(model, {{"keep_tokens", kept}});
  std::ofstream(folder_ / "text.txt") << "fox w100\n";
  expect_one_line_error(weft("encode --model bert --quiet --text text.txt"), 3, HasSubstr("keep_tokens"));
  fs::path cut = convert(model, "", "safetensors");
  EXPECT_EQ(contents(cut / "vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfox\nw100\n");
  EXPECT_EQ(json::parse(contents(cut / "config.json")).at("vocab_size"), 7);
  std::string table = "bert.embeddings.word_embeddings.weight";
  std::vector<float> before = values_of(*open_checkpoint(model.string()), table);
  std::vector<float> after = values_of(*open_checkpoint(cut.string()), table);
  size_t width = after.size() / kept.size();
  for (size_t row = 0; row < kept.size(); ++row) {
    auto from = before.begin() + kept[row] * static_cast<int64_t>(width);
    EXPECT_TRUE(
        std::equal(from, from + static_cast<int64_t>(width), after.begin() + static_cast<int64_t>(row * width)));
  }
  change_config(model, {{"keep_tokens", nullptr}});
  std::string flags = " --quiet --dtype f32 --text text.txt";
  EXPECT_EQ(weft("encode --model '" + cut.string() + "'" + flags).out, weft("encode --model bert" + flags).out);
}

TEST_F(EncoderCommands, ConvertKeepsTheTokensOfAFileOrThoseThatTextsNeed) {
  fs::path model = make_model("bert", "hf/bert");
  write_words(folder_ / "kept.txt", {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "fox", "the", "w50"});
  fs::path cut = convert(model, "--keep-tokens kept.txt", "safetensors");
  EXPECT_EQ(contents(cut / "vocab.txt"), contents(folder_ / "kept.txt"));
  EXPECT_EQ(json::parse(contents(cut / "config.json")).at("vocab_size"), 7);
  auto encode = [&](const fs::path& folder) {
    return weft(fmt::format("encode --model '{}' --dtype f32 --quiet --text -", folder.string()), "the fox w50");
  };
  EXPECT_EQ(encode(cut).out, encode(model).out);
  write_words(folder_ / "kept.txt", {"[PAD]", "fax"});
  expect_one_line_error(weft("convert --quiet --to keras --out new --model bert --keep-tokens kept.txt"),
                        3,
                        AllOf(HasSubstr("fax"), HasSubstr("vocab.txt")));
  // Punctuation behind ## is redundant.
  std::string vocabulary = contents(model / "vocab.txt");
  vocabulary.replace(vocabulary.find("w20"), 3, "##!");
  std::ofstream(model / "vocab.txt", std::ios::trunc) << vocabulary;
  fs::path simplified = convert(model, "--simplify-vocabulary", "keras");
  EXPECT_EQ(contents(simplified / "vocab.txt").find("##!"), std::string::npos);
  fs::remove(model / "vocab.txt");
  expect_one_line_error(
      weft("convert --quiet --to keras --out new --model bert --simplify-vocabulary"), 3, HasSubstr("no vocab.txt"));
}

TEST_F(EncoderCommands, ConvertRefusesWhatItCannotWrite) {
  fs::path model = make_model("bert", "hf/bert");
  auto refused = [&](const std::string& flags, int exit_code, const ::testing::Matcher<std::string>& says) {
    expect_one_line_error(weft("convert --quiet --out new " + flags), exit_code, says);
    EXPECT_FALSE(fs::exists(folder_ / "new"));
    EXPECT_FALSE(fs::exists(folder_ / "new.partial"));
  };
  refused("--model bert --to gguf", 2, HasSubstr("--to"));
  refused("--model absent --to keras", 3, HasSubstr("absent"));
  auto of_case = [&](const char* name, const char* family) {
    return fmt::format("--model '{}' --family {}", (kData / name).string(), family);
  };
  refused(of_case("seed/deberta-mlm", "deberta") + " --to tensorflow", 3, HasSubstr("deberta"));
  refused(of_case("seed/gau_alpha-mlm", "gau_alpha") + " --to safetensors", 3, HasSubstr("gau_alpha"));
  refused(of_case("seed/bert-condln", "bert") + " --to safetensors", 3, HasSubstr("condition"));
  refused(of_case("hf/roformer", "roformer") + " --to keras", 3, HasSubstr("embed_positions"));
  refused(of_case("hf/llama_gqa", "llama") + " --to keras", 3, HasSubstr("only safetensors"));
  expect_one_line_error(weft("convert --quiet --model bert --to keras --out bert"), 3, HasSubstr("exists already"));
}

/// Of families that share blocks, and whose names in safetensors are not Weft's or do not exist.
TEST_F(EncoderCommands, WhatWasTrainedIsReadAndConverted) {
  std::string line = "w10 w20 w30 the quick fox w11 w12 w13 w14 w15 . \n";
  for (int i = 0; i < 6; ++i) line += line;
  std::ofstream(folder_ / "corpus.txt") << line;
  std::ofstream(folder_ / "text.txt") << "the quick fox\n";
  for (const auto& [golden_case, family] :
       std::vector<std::pair<std::string, std::string>>{{"hf/albert", "albert"},
                                                        {"hf/electra_gen", "electra"},
                                                        {"seed/albert_unshared-mlm", "albert_unshared"},
                                                        {"seed/deberta-mlm", "deberta"},
                                                        {"seed/gau_alpha-mlm", "gau_alpha"},
                                                        {"seed/roformer_v2-mlm", "roformer_v2"}}) {
    SCOPED_TRACE(golden_case);
    fs::path model = make_model(family, golden_case);
    std::ofstream(folder_ / "run.textproto") << fmt::format(
        R"(model {{ path: "{0}" family: "{0}" }}
           task {{ kind: MASKED_LANGUAGE_MODEL }}
           data {{ sources {{ path: "corpus.txt" }} sequence_length: 12 }}
           train {{ steps: 2 batch_size: 4 learning_rate: 1e-3 }}
           precision {{ compute: F32 }}
           output {{ directory: "{0}_run" }})",
        family);
    Outcome trained = weft("train --quiet run.textproto");
    ASSERT_EQ(trained.exit_code, 0) << trained.err;
    fs::path saved = folder_ / (family + "_run/checkpoints/step-00000002");
    std::string encode = " --dtype f32 --quiet --text text.txt";
    Outcome vectors = weft("encode --model '" + saved.string() + "'" + encode);
    EXPECT_EQ(vectors.exit_code, 0) << vectors.err;
    EXPECT_NE(vectors.out, weft(fmt::format("encode --model {0} --family {0}{1}", family, encode)).out);
    fs::path keras = convert(saved, "", "keras");
    EXPECT_EQ(weft(fmt::format("encode --model '{}' --family {}{}", keras.string(), family, encode)).out, vectors.out);
    if (family != "albert_unshared") continue;
    expect_one_line_error(
        weft("convert --quiet --to tensorflow --out new --model '" + saved.string() + "'"), 3, HasSubstr("differ"));
    EXPECT_FALSE(fs::exists(folder_ / "new.partial"));
  }
}

TEST_F(EncoderCommands, DamagedTensorFlowCheckpointsAreNamed) {
  fs::path model = folder_ / "bert";
  fs::copy(kData / "seed/bert-mlm/ckpt", model);
  fs::copy(kData / "seed/bert-mlm/config.json", model / "bert_config.json");
  for (const fs::directory_entry& file : fs::directory_iterator(model)) {
    fs::permissions(file.path(), fs::perms::owner_all);
  }
  write_words(model / "vocab.txt", {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"});
  std::ofstream(folder_ / "text.txt") << "a\n";
  std::string encode = "encode --model bert --family bert --quiet --text text.txt";
  EXPECT_EQ(weft(encode).exit_code, 0);
  fs::path shard = model / "model.ckpt.data-00001-of-00002";
  std::fstream(shard, std::ios::in | std::ios::out | std::ios::binary).seekp(2000).put('\x42');
  expect_one_line_error(weft(encode), 3, AllOf(HasSubstr("data-00001-of-00002"), HasSubstr("checksum")));
  expect_one_line_error(
      weft("convert --model bert --family bert --quiet --to keras --out new"), 3, HasSubstr("checksum"));
  fs::resize_file(shard, 1000);
  expect_one_line_error(weft(encode), 3, AllOf(HasSubstr("1000"), HasSubstr("truncated")));
  fs::remove(shard);
  expect_one_line_error(weft(encode), 3, HasSubstr("data-00001-of-00002"));
  fs::resize_file(model / "model.ckpt.index", 100);
  expect_one_line_error(weft(encode), 3, HasSubstr("model.ckpt.index"));
}

std::vector<std::vector<double>> vectors_of(const std::string& lines) {
  std::vector<std::vector<double>> vectors;
  std::istringstream stream(lines);
  for (std::string line; std::getline(stream, line);) vectors.push_back(json::parse(line));
  return vectors;
}

double product(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void expect_near(const std::vector<std::vector<double>>& actual, const std::vector<std::vector<double>>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t row = 0; row < expected.size(); ++row) {
    ASSERT_EQ(actual[row].size(), expected[row].size());
    for (size_t i = 0; i < expected[row].size(); ++i) EXPECT_NEAR(actual[row][i], expected[row][i], 2e-6) << row;
  }
}

class Encode : public EncoderCommands {
 protected:
  void SetUp() override {
    EncoderCommands::SetUp();
    make_model("bert", "hf/bert");
    std::ofstream(folder_ / "text.txt") << "the quick fox\nw20 w30 w40 w50 w60 w70 w80\r\n\nfoxes . w99";
  }
  Outcome encode(const std::string& flags) const {
    return weft("encode --model bert --dtype f32 --quiet --text text.txt " + flags);
  }
};

TEST_F(Encode, WritesAVectorOfLengthOneForEachLine) {
  Outcome outcome = encode("");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  std::vector<std::vector<double>> vectors = vectors_of(outcome.out);
  ASSERT_EQ(vectors.size(), 4u);
  for (const std::vector<double>& vector : vectors) {
    EXPECT_EQ(vector.size(), json::parse(contents(folder_ / "bert/config.json")).at("hidden_size"));
    EXPECT_NEAR(product(vector, vector), 1, 1e-5);
  }
  std::vector<std::vector<double>> raw = vectors_of(encode("--no-normalise").out);
  for (size_t row = 0; row < raw.size(); ++row) {
    double length = std::sqrt(product(raw[row], raw[row]));
    EXPECT_GT(std::abs(length - 1), 1e-3);
    for (double& value : raw[row]) value /= length;
  }
  expect_near(raw, vectors);
  EXPECT_NE(encode("--pooling cls").out, outcome.out);
  EXPECT_NE(encode("--pooling pooled").out, encode("--pooling cls").out);
}

TEST_F(Encode, WritesTheSameToAllKindsOfFiles) {
  std::vector<std::vector<double>> expected = vectors_of(encode("").out);
  EXPECT_EQ(encode("--out v.jsonl").out, "");
  EXPECT_EQ(vectors_of(contents(folder_ / "v.jsonl")), expected);
  ASSERT_EQ(encode("--out v.npy").exit_code, 0);
  std::string npy = contents(folder_ / "v.npy");
  size_t bytes = expected.size() * expected[0].size() * sizeof(float);
  ASSERT_GT(npy.size(), bytes);
  EXPECT_EQ((npy.size() - bytes) % 64, 0u);
  EXPECT_THAT(npy.substr(0, npy.size() - bytes),
              AllOf(::testing::StartsWith(std::string("\x93NUMPY\x01\x00", 8)),
                    HasSubstr(fmt::format("'shape': ({}, {})", expected.size(), expected[0].size())),
                    HasSubstr("'<f4'")));
  ASSERT_EQ(encode("--out v.h5").exit_code, 0);
  std::vector<float> of_npy(bytes / sizeof(float));
  std::memcpy(of_npy.data(), npy.data() + npy.size() - bytes, bytes);
  std::vector<float> of_hdf5 = values_of(*open_checkpoint((folder_ / "v.h5").string()), "vectors");
  EXPECT_EQ(of_hdf5, of_npy);
  for (size_t i = 0; i < of_npy.size(); ++i) {
    EXPECT_NEAR(of_npy[i], expected[i / expected[0].size()][i % expected[0].size()], 1e-7);
  }
}

TEST_F(Encode, GivesTheSameInBatchesAndOnRanks) {
  std::vector<std::vector<double>> expected = vectors_of(encode("").out);
  expect_near(vectors_of(encode("--batch-tokens 3").out), expected);
  for (const char* flags : {"", "--tensor-parallel 1", "--tensor-parallel 2"}) {
    Outcome outcome =
        weft(fmt::format("launch -n 2 -- encode --model bert --dtype f32 --quiet --text text.txt {}", flags));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    expect_near(vectors_of(outcome.out), expected);
  }
  Outcome outcome = weft("launch -n 2 -- encode --model bert --quiet --text text.txt --tensor-parallel 3");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--tensor-parallel 3"));
}

TEST_F(Encode, GivesTheOutputOfEachLayer) {
  expect_near(vectors_of(encode("--layer 3").out), vectors_of(encode("").out));
  EXPECT_NE(encode("--layer 2").out, encode("").out);
  // The embedding of a token knows nothing of the others.
  std::ofstream(folder_ / "text.txt") << "the fox\nthe w20\n";
  std::vector<std::vector<double>> first = vectors_of(encode("--layer 0 --pooling cls").out);
  EXPECT_EQ(first[0], first[1]);
  expect_one_line_error(encode("--layer 4"), 3, HasSubstr("layer 4 of a model of 3 layers"));
  expect_one_line_error(encode("--layer 2 --pooling pooled"), 3, HasSubstr("the pooler takes the last layer's output"));
}

TEST_F(Encode, TakesAConditionForEachText) {
  make_model("conditional", "seed/bert-condln");
  int64_t width = open_checkpoint((folder_ / "conditional/model.weights.h5").string())
                      ->info("layers/layer_normalization/hidden_dense/vars/0")
                      .shape[0];
  std::string some = json(std::vector<float>(static_cast<size_t>(width), 0.5f)).dump();
  std::string other = json(std::vector<float>(static_cast<size_t>(width), -1.0f)).dump();
  std::ofstream(folder_ / "text.txt") << "the fox\nthe fox\nthe fox\n";
  std::ofstream(folder_ / "conditions.jsonl") << some << '\n' << other << '\n' << some << '\n';
  auto run = [&](const std::string& flags) {
    return weft("encode --model conditional --family bert --dtype f32 --quiet --text text.txt " + flags);
  };
  Outcome outcome = run("--conditions conditions.jsonl");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<std::vector<double>> vectors = vectors_of(outcome.out);
  expect_near({vectors[2]}, {vectors[0]});
  EXPECT_LT(product(vectors[0], vectors[1]), 0.999);
  expect_one_line_error(run(""), 3, HasSubstr("take a condition"));
  std::ofstream(folder_ / "conditions.jsonl") << "[1]\n[1]\n[1]\n";
  expect_one_line_error(run("--conditions conditions.jsonl"), 3, HasSubstr("a condition of 1 numbers"));
  std::ofstream(folder_ / "conditions.jsonl") << "[1]\n{}\n";
  expect_one_line_error(
      run("--conditions conditions.jsonl"), 3, HasSubstr("conditions.jsonl:2: is no list of numbers"));
  std::ofstream(folder_ / "conditions.jsonl") << "[1]\n";
  expect_one_line_error(run("--conditions conditions.jsonl"), 3, HasSubstr("1 conditions for 3 texts"));
}

TEST_F(Encode, CutsTextsAndSaysSo) {
  std::string words;
  for (int i = 0; i < 200; ++i) words += " fox";
  std::ofstream(folder_ / "text.txt") << words << "\n";
  Outcome outcome = encode("");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("1 of 1 texts were cut to 64 tokens"));
  Outcome shorter = encode("--max-length 12");
  EXPECT_NE(shorter.out, outcome.out);
  std::ofstream(folder_ / "text.txt") << "fox fox fox fox fox fox fox fox fox fox\n";
  EXPECT_EQ(encode("").out, shorter.out);
}

TEST_F(Encode, SimilarityIsTheProductOfTheVectors) {
  std::vector<std::vector<double>> vectors = vectors_of(encode("").out);
  std::ofstream(folder_ / "pairs.tsv") << "the quick fox\tfoxes . w99\nthe quick fox\tthe quick fox\n";
  Outcome pairs = weft("similarity --model bert --dtype f32 --quiet --pairs pairs.tsv");
  ASSERT_EQ(pairs.exit_code, 0) << pairs.err;
  double first = 0, second = 0;
  std::istringstream(pairs.out) >> first >> second;
  EXPECT_NEAR(first, product(vectors[0], vectors[3]), 2e-6);
  EXPECT_NEAR(second, 1, 2e-6);
  Outcome two = weft("similarity --model bert --dtype f32 --quiet 'the quick fox' 'foxes . w99'");
  EXPECT_EQ(two.out, pairs.out.substr(0, pairs.out.find('\n') + 1));
}

TEST_F(Encode, RefusesInOneLine) {
  expect_one_line_error(encode("--pooling sum"), 2, HasSubstr("--pooling"));
  expect_one_line_error(encode("--application decoder"), 2, HasSubstr("--application"));
  expect_one_line_error(encode("--max-length 1"), 3, HasSubstr("special tokens"));
  expect_one_line_error(encode("--out absent/v.npy"), 3, HasSubstr("absent"));
  expect_one_line_error(weft("encode --model bert --quiet --text absent.txt"), 3, HasSubstr("absent.txt"));
  expect_one_line_error(weft("encode --model bert --quiet --text -"), 3, HasSubstr("no text"));
  std::ofstream(folder_ / "pairs.tsv") << "one\ttwo\nthree\n";
  expect_one_line_error(weft("similarity --model bert --quiet --pairs pairs.tsv"), 3, HasSubstr("pairs.tsv:2"));
  expect_one_line_error(weft("similarity --model bert --quiet one"), 2, HasSubstr("two texts"));
  expect_one_line_error(weft("generate --model bert --quiet --ids '1 2'"), 3, HasSubstr("--application lm"));
  std::string words;
  for (int i = 0; i < 70; ++i) words += " fox";
  std::ofstream(folder_ / "long.txt") << words;
  expect_one_line_error(
      weft("encode --model bert --quiet --text long.txt --max-length 90"), 3, HasSubstr("position 64"));
  make_model("roformer", "hf/roformer");
  expect_one_line_error(
      weft("encode --model roformer --quiet --pooling pooled --text text.txt"), 3, HasSubstr("no pooler"));
  fs::remove(folder_ / "roformer/vocab.txt");
  expect_one_line_error(weft("encode --model roformer --quiet --text text.txt"), 3, HasSubstr("no tokenizer"));
}

TEST_F(Encode, FillMaskPrintsTheLikeliestTokensForEachMask) {
  std::string fill = "fill-mask --model bert --dtype f32 --quiet 'the [MASK] fox [MASK]' ";
  json masks = json::parse(weft(fill + "--json --top 120").out);
  ASSERT_EQ(masks.size(), 2u);
  std::string printed;
  for (const json& mask : masks) {
    ASSERT_EQ(mask.size(), 120u);
    double sum = 0, last = 1;
    for (const json& candidate : mask) {
      double probability = candidate.at("probability");
      EXPECT_LE(probability, last);
      last = probability;
      sum += probability;
    }
    EXPECT_NEAR(sum, 1, 1e-6);
    printed +=
        fmt::format("{:.4f} {}\n\n", mask[0].at("probability").get<double>(), mask[0].at("token").get<std::string>());
  }
  EXPECT_EQ(weft(fill + "--top 1").out, printed);
  Outcome shared = weft("launch -n 2 -- " + fill + "--top 1");
  EXPECT_EQ(shared.out, printed) << shared.err;
}

TEST_F(Encode, FillMaskRefusesInOneLine) {
  expect_one_line_error(weft("fill-mask --model bert --quiet 'the fox'"), 3, HasSubstr("no [MASK]"));
  make_model("discriminator", "hf/electra_disc");
  expect_one_line_error(
      weft("fill-mask --model discriminator --quiet '[MASK]'"), 3, HasSubstr("no masked language model"));
  std::string words = contents(folder_ / "bert/vocab.txt");
  words.replace(words.find("[MASK]"), 6, "nothing");
  std::ofstream(folder_ / "bert/vocab.txt") << words;
  expect_one_line_error(weft("fill-mask --model bert --quiet '[MASK]'"), 3, HasSubstr("no mask token"));
}

TEST_F(Encode, InspectSaysWhatAnEncoderIs) {
  Outcome outcome = weft("inspect --model bert --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  json described = json::parse(outcome.out);
  EXPECT_EQ(described.at("family"), "bert");
  EXPECT_EQ(described.at("vocab_size"), 120);
  EXPECT_GT(described.at("needs_bytes").at("f32").at("weights"), 100000);
  EXPECT_FALSE(described.at("needs_bytes").at("f32").contains("kv_cache_of_4096_tokens"));
  EXPECT_EQ(weft("inspect --model bert").exit_code, 0);
  expect_one_line_error(weft("plan --model bert --quiet"), 3, HasSubstr("bert"));
}

}  // namespace
}  // namespace weft
