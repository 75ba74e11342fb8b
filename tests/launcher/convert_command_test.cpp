// weft convert on tiny checkpoints: between all formats of a family.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "launcher/compare_tensors.h"
#include "launcher/small_encoders.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

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
      {"seed/bert-condln", "bert", "encoder", without_tensorflow},
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
      {"seed/bert-pool", "bert", "encoder", {"tensorflow", "safetensors", "keras"}},
      {"seed/t5-t5.1.0", "t5.1.0"},
      {"seed/t5-t5.1.1", "t5.1.1"},
      {"seed/t5-mt5.1.1", "mt5.1.1"},
      {"seed/t5_encoder-t5.1.1", "t5.1.1_encoder"},
      {"seed/gpt-lm", "gpt", "lm", without_safetensors},
      {"seed/gpt2-lm", "gpt2", "lm"},
      {"seed/gpt2_ml-lm", "gpt2_ml", "lm", without_safetensors}};
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

/// Families of Hugging Face's checkpoints whose config does not say it in all formats.
const std::map<std::string, std::string> kFamilies = {{"electra_disc", "electra"},
                                                      {"electra_gen", "electra"},
                                                      {"t5_v10", "t5.1.0"},
                                                      {"t5_v11", "t5.1.1"},
                                                      {"mt5", "mt5.1.1"},
                                                      {"openai_gpt", "gpt"}};

/// What transformers writes twice or computes.
const char* const kDerived =
    "(predictions\\.decoder\\.(weight|bias)|cls\\.predictions\\.decoder\\.(weight|bias)|generator_lm_head\\.weight|"
    ".*position_ids|.*relative_positions_encoding.*|.*embed_positions\\.weight)";

TEST_P(HuggingFaceRoundTrips, GiveTheBytesOfEveryTensorBack) {
  std::string name = GetParam();
  auto found = kFamilies.find(name);
  std::string family = "--family " + (found == kFamilies.end() ? name : found->second);
  fs::path first = kData / "hf" / name;
  fs::path keras = convert(first, "", "keras");
  std::string generator = name == "electra_gen" ? " --application encoder" : "";
  fs::path tensorflow = convert(keras, family + generator, "tensorflow");
  fs::path back = convert(tensorflow, family, "safetensors");
  for (const std::string& left : compare_tensors(back, first)) EXPECT_THAT(left, ::testing::MatchesRegex(kDerived));
  Outcome verified =
      weft(fmt::format("verify --quiet --model '{}' --golden '{}'", back.string(), (first / "golden.h5").string()));
  EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    HuggingFaceRoundTrips,
    ::testing::Values("bert", "albert", "electra_disc", "nezha", "t5_v10", "t5_v11", "mt5", "openai_gpt", "gpt2"),
    [](const auto& name) { return std::string(name.param); });

/// Families that exist in safetensors alone.
TEST_F(EncoderCommands, ConvertKeepsTheNamesThatTransformersGives) {
  for (const char* name :
       {"roberta", "xlm_roberta_reranker", "distilbert", "distilbert_classifier", "mpnet", "mpnet_classifier"}) {
    SCOPED_TRACE(name);
    fs::path first = kData / "hf" / name;
    fs::path back = convert(first, "", "safetensors");
    EXPECT_THAT(compare_tensors(back, first), ::testing::IsEmpty());
    EXPECT_THAT(compare_tensors(first, back), ::testing::IsEmpty());
    nlohmann::json config = nlohmann::json::parse(testing::contents(back / "config.json"));
    nlohmann::json original = nlohmann::json::parse(testing::contents(first / "config.json"));
    for (const char* key : {"model_type", "architectures"}) EXPECT_EQ(config.at(key), original.at(key));
  }
}

TEST_F(EncoderCommands, ConvertKeepsTheTableOfPositionsThatAFileBrings) {
  fs::path first = kData / "hf/roformer";
  for (const std::string& left : compare_tensors(convert(first, "", "safetensors"), first)) {
    EXPECT_THAT(left, HasSubstr("decoder"));
  }
}

TEST_F(EncoderCommands, ConvertGivesRwkvTheNormsThatKerasHasAndTakesThemAway) {
  fs::path first = kData / "hf/rwkv6";
  fs::path keras = convert(first / "rwkv6.pth", "", "keras");
  for (const std::string& left :
       compare_tensors(convert(keras, "--family rwkv6", "safetensors"), first / "rwkv6.pth")) {
    ADD_FAILURE() << left;
  }
  expect_one_line_error(weft(fmt::format("convert --quiet --family rwkv6 --to safetensors --out new --model '{}'",
                                         (kData / "seed/rwkv6-lm").string())),
                        3,
                        HasSubstr("ln_x.inner"));
  EXPECT_FALSE(fs::exists(folder_ / "new"));
}

TEST_F(EncoderCommands, ConvertSaysWhatTransformersDoesNotKnow) {
  fs::path first = kData / "seed/t5-embsize";
  Outcome outcome =
      weft(fmt::format("convert --quiet --family t5_pegasus --to safetensors --out new --model '{}'", first.string()));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("'cross_position_bias'"), HasSubstr("'embedding_size'")));
  json config = json::parse(contents(folder_ / "new/config.json"));
  EXPECT_EQ(config.at("d_model"), 40);
  EXPECT_EQ(config.at("embedding_size"), 24);
  EXPECT_EQ(config.at("feed_forward_proj"), "gated-gelu_python");
  fs::path keras = convert(folder_ / "new", "", "keras");
  for (const std::string& left : compare_tensors(keras, first)) EXPECT_THAT(left, HasSubstr("seed_generator"));
}

TEST_F(EncoderCommands, ConvertKeepsRotaryPositionsOfT5) {
  fs::path first = kData / "seed/misakat5-lm";
  Outcome outcome =
      weft(fmt::format("convert --quiet --family misakat5 --to safetensors --out new --model '{}'", first.string()));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("'position_embedding_type'"));
  Outcome verified = weft(fmt::format("verify --quiet --model new --golden '{}'", (first / "golden.h5").string()));
  EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
  fs::path keras = convert(folder_ / "new", "", "keras");
  for (const std::string& left : compare_tensors(keras, first)) EXPECT_THAT(left, HasSubstr("seed_generator"));
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
  refused("--model bert --to onnx", 2, HasSubstr("--to"));
  refused("--model absent --to keras", 3, HasSubstr("absent"));
  auto of_case = [&](const char* name, const char* family) {
    return fmt::format("--model '{}' --family {}", (kData / name).string(), family);
  };
  refused(of_case("seed/deberta-mlm", "deberta") + " --to tensorflow", 3, HasSubstr("deberta"));
  refused(of_case("seed/gau_alpha-mlm", "gau_alpha") + " --to safetensors", 3, HasSubstr("gau_alpha"));
  refused(of_case("hf/roformer", "roformer") + " --to keras", 3, HasSubstr("embed_positions"));
  refused(of_case("hf/mpnet", "mpnet") + " --to keras", 3, HasSubstr("mpnet models do not exist as keras"));
  refused(of_case("hf/llama_gqa", "llama") + " --to tensorflow", 3, HasSubstr("no TensorFlow checkpoints"));
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

}  // namespace
}  // namespace weft
