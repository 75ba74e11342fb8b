// The commands of encoders on tiny checkpoints: vectors, similarity, masks filled in.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "checkpoint/reader.h"
#include "launcher/small_encoders.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::HasSubstr;
using testing::Outcome;

std::vector<std::vector<double>> vectors_of(const std::string& lines) {
  std::vector<std::vector<double>> vectors;
  std::istringstream stream(lines);
  for (std::string line; std::getline(stream, line);) vectors.push_back(json::parse(line));
  return vectors;
}

/// Of lines of JSON.
json first_object(const std::string& lines) {
  return json::parse(lines.substr(0, lines.find('\n')));
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

TEST_F(Encode, PoolsByTheLargestOfEachNumber) {
  std::vector<std::vector<double>> states = first_object(encode("--pooling none").out).at("vectors");
  std::vector<double> expected = states.at(0);
  for (const std::vector<double>& state : states) {
    for (size_t i = 0; i < state.size(); ++i) expected[i] = std::max(expected[i], state[i]);
  }
  expect_near({vectors_of(encode("--pooling max --no-normalise").out)[0]}, {expected});
}

TEST_F(Encode, WritesTheVectorsOfAllTokens) {
  Outcome outcome = encode("--pooling none");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<json> texts;
  std::istringstream lines(outcome.out);
  for (std::string line; std::getline(lines, line);) texts.push_back(json::parse(line));
  ASSERT_EQ(texts.size(), 4u);
  EXPECT_EQ(texts[0].at("tokens"), json({"[CLS]", "the", "quick", "fox", "[SEP]"}));
  EXPECT_EQ(texts[0].at("ids"), json({2, 5, 6, 7, 3}));
  std::vector<std::vector<double>> first_tokens = vectors_of(encode("--pooling cls --no-normalise").out);
  std::vector<std::vector<double>> all;
  size_t longest = 0;
  for (size_t text = 0; text < texts.size(); ++text) {
    std::vector<std::vector<double>> states = texts[text].at("vectors");
    ASSERT_EQ(states.size(), texts[text].at("tokens").size());
    expect_near({states[0]}, {first_tokens[text]});
    longest = std::max(longest, states.size());
    all.insert(all.end(), states.begin(), states.end());
  }
  std::vector<std::vector<double>> scaled = first_object(encode("--pooling none --normalise").out).at("vectors");
  for (const std::vector<double>& state : scaled) EXPECT_NEAR(product(state, state), 1, 1e-5);

  ASSERT_EQ(encode("--pooling none --out v.h5").exit_code, 0);
  auto reader = open_checkpoint((folder_ / "v.h5").string());
  std::vector<float> stored = values_of(*reader, "vectors");
  size_t width = all[0].size();
  ASSERT_EQ(stored.size(), all.size() * width);
  for (size_t i = 0; i < stored.size(); ++i) ASSERT_NEAR(stored[i], all[i / width][i % width], 1e-6);
  EXPECT_EQ(reader->info("lengths").shape, Shape({4}));
  EXPECT_EQ(reader->info("ids").shape, Shape({static_cast<int64_t>(all.size())}));

  ASSERT_EQ(encode("--pooling none --out v.npy").exit_code, 0);
  std::string npy = contents(folder_ / "v.npy");
  EXPECT_THAT(npy, HasSubstr(fmt::format("'shape': (4, {}, {})", longest, width)));
  std::vector<float> padded(4 * longest * width);
  std::memcpy(padded.data(), npy.data() + npy.size() - padded.size() * sizeof(float), padded.size() * sizeof(float));
  size_t row = 0;
  for (size_t text = 0; text < texts.size(); ++text) {
    size_t length = texts[text].at("ids").size();
    for (size_t i = 0; i < longest * width; ++i) {
      double expected = i < length * width ? all[row + i / width][i % width] : 0;
      ASSERT_NEAR(padded[text * longest * width + i], expected, 1e-6) << text;
    }
    row += length;
  }
  Outcome shared =
      weft("launch -n 2 -- encode --model bert --dtype f32 --quiet --text text.txt --pooling none --tensor-parallel 1");
  std::istringstream shared_lines(shared.out);
  for (const json& text : texts) {
    std::string line;
    ASSERT_TRUE(std::getline(shared_lines, line)) << shared.err;
    expect_near(json::parse(line).at("vectors"), text.at("vectors"));
  }
}

TEST_F(Encode, ALineWithATabIsAPair) {
  std::ofstream(folder_ / "text.txt") << "the fox\tquick w20\nthe fox quick w20\n";
  json pair = first_object(encode("--pooling none").out);
  EXPECT_EQ(pair.at("tokens"), json({"[CLS]", "the", "fox", "[SEP]", "quick", "w20", "[SEP]"}));
  // The embedding of a word of segment 1 is another.
  std::vector<std::vector<double>> first = first_object(encode("--pooling none --layer 0").out).at("vectors");
  std::ofstream(folder_ / "text.txt") << "the fox quick quick w20\n";
  std::vector<std::vector<double>> single = json::parse(encode("--pooling none --layer 0").out).at("vectors");
  expect_near({first.at(1)}, {single[1]});
  EXPECT_NE(first.at(4), single[4]);
  Outcome shared = weft("launch -n 2 -- encode --model bert --dtype f32 --quiet --text text.txt --tensor-parallel 1");
  expect_near(vectors_of(shared.out), vectors_of(encode("").out));
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

TEST_F(Encode, TokenizeRecognisesSpecialTokensWhenAsked) {
  std::string tokenize = "tokenize --tokenizer bert --text 'the [MASK] fox' ";
  EXPECT_EQ(weft(tokenize + "--recognise-specials").out, "5 4 7\n");
  EXPECT_NE(weft(tokenize).out, "5 4 7\n");
  json pair = json::parse(weft("tokenize --tokenizer bert --lines --json --add-special-tokens --max-length 6",
                               "the foxes\tquick quick quick\n")
                              .out);
  EXPECT_EQ(pair.at("tokens"), json({"[CLS]", "the", "[SEP]", "quick", "quick", "[SEP]"}));
  EXPECT_EQ(pair.at("segment_ids"), json({0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(pair.at("sequence_ids"), json({nullptr, 0, nullptr, 1, 1, nullptr}));
  EXPECT_EQ(pair.at("offsets"), json({nullptr, {0, 3}, nullptr, {0, 5}, {6, 11}, nullptr}));
}

TEST_F(Encode, FillMaskPrintsTheLikeliestTokensForEachMask) {
  std::string fill = "fill-mask --model bert --dtype f32 --quiet 'the [MASK] fox [MASK]' ";
  json filled = json::parse(weft(fill + "--json --top 120").out);
  EXPECT_EQ(filled.at("text"), "the [MASK] fox [MASK]");
  json masks = filled.at("masks");
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

TEST_F(Encode, FillMaskTakesManyTexts) {
  std::string options = "--model bert --dtype f32 --quiet --top 2 ";
  std::string texts, expected, expected_json;
  for (int i = 0; i < 70; ++i) {
    std::string text = fmt::format("w{} [MASK] the{}", 10 + i, i % 3 == 0 ? " [MASK] fox" : "");
    texts += text + (i % 5 == 0 ? "\r\n\n" : "\n");
    if (i % 23 != 0) continue;
    Outcome alone = weft(fmt::format("fill-mask {} '{}'", options, text));
    expected = text + "\n" + alone.out + (i % 3 == 0 ? "" : "\n");
    expected_json = weft(fmt::format("fill-mask {} --json '{}'", options, text)).out;
  }
  std::ofstream(folder_ / "masked.txt") << texts;
  Outcome outcome = weft("fill-mask --text masked.txt " + options);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr(expected));
  Outcome as_json = weft("fill-mask --json --text masked.txt " + options);
  std::istringstream lines(as_json.out);
  json last, wanted = json::parse(expected_json);
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    json one = json::parse(line);
    if (one.at("text") == wanted.at("text")) last = one;
  }
  EXPECT_EQ(count, 70);
  ASSERT_FALSE(last.is_null());
  EXPECT_EQ(last.at("masks").size(), wanted.at("masks").size());
  EXPECT_EQ(last.at("masks")[0][0].at("token"), wanted.at("masks")[0][0].at("token"));
  std::ofstream(folder_ / "masked.txt") << "the [MASK]\nthe fox\n";
  Outcome without = weft("fill-mask --text masked.txt " + options);
  expect_one_line_error(without, 3, HasSubstr("masked.txt: text 2 holds no [MASK]"));
  EXPECT_EQ(without.out, "");
  expect_one_line_error(weft("fill-mask " + options), 2, HasSubstr("--text"));
  expect_one_line_error(weft("fill-mask '[MASK]' --text masked.txt " + options), 2, HasSubstr("excludes"));
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
}

struct WholeModel {
  std::string golden_case, family;
};

std::ostream& operator<<(std::ostream& stream, const WholeModel& model) {
  return stream << model.golden_case;
}

/// Encoder-decoders of which the encoder alone is asked for.
class WholeModels : public EncoderCommands, public ::testing::WithParamInterface<WholeModel> {};

TEST_P(WholeModels, EncodeByTheirEncoder) {
  const WholeModel& whole = GetParam();
  make_model("keras", whole.golden_case);
  std::string family = "--family " + whole.family;
  std::string warnings;
  fs::path safetensors = convert(folder_ / "keras", family, "safetensors", &warnings);
  std::ofstream(folder_ / "text.txt") << "the w20 w30 fox\nfox\n";
  auto encode = [&](const fs::path& model, const std::string& flags) {
    Outcome outcome =
        weft(fmt::format("encode --quiet --dtype f32 --text text.txt --model '{}' {}", model.string(), flags));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return vectors_of(outcome.out);
  };
  std::vector<std::vector<double>> vectors = encode(folder_ / "keras", family);
  ASSERT_EQ(vectors.size(), 2u);
  expect_near(encode(safetensors, ""), vectors);
  // The encoder as a model of its own, in a file of its own.
  std::string alone = family + "_encoder";
  fs::path encoder = convert(folder_ / "keras", alone, "keras", &warnings);
  EXPECT_EQ(encode(encoder, alone), vectors);
  std::vector<std::string> names = open_checkpoint((encoder / "model.weights.h5").string())->names();
  EXPECT_LT(names.size(), open_checkpoint((folder_ / "keras/model.weights.h5").string())->names().size());
  EXPECT_EQ(encode(encoder, family), vectors) << "a file of the encoder alone";
  expect_one_line_error(weft("encode --quiet --text text.txt --model keras --family t5_decoder"),
                        3,
                        HasSubstr("t5_decoder is a decoder alone"));
}

TEST_P(WholeModels, GiveTheirDecoderAlone) {
  const WholeModel& whole = GetParam();
  std::string family = "--family " + whole.family;
  std::string warnings;
  auto tensors = open_checkpoint(convert(kData / whole.golden_case, family, "safetensors", &warnings).string());
  auto decoder = open_checkpoint(convert(kData / whole.golden_case, family + "_decoder", "safetensors", &warnings));
  EXPECT_LT(decoder->names().size(), tensors->names().size());
  for (const std::string& name : decoder->names()) {
    EXPECT_FALSE(name.starts_with("encoder."));
    EXPECT_EQ(values_of(*decoder, name), values_of(*tensors, name)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases,
                         WholeModels,
                         ::testing::Values(WholeModel{"seed/t5-t5.1.0", "t5.1.0"},
                                           WholeModel{"seed/t5-t5.1.1", "t5.1.1"},
                                           WholeModel{"seed/t5-embsize", "t5.1.1"},
                                           WholeModel{"seed/t5-mt5.1.1", "mt5.1.1"}),
                         [](const auto& model) { return fmt::format("case{}", model.index); });

}  // namespace
}  // namespace weft
