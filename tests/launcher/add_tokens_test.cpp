// weft convert --add-tokens: a longer vocabulary, its rows and its tokenizer; and the names of compound tokens.
#include <fmt/format.h>

#include "launcher/small_encoders.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using testing::contents;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Outcome;

json parse_file(const fs::path& path) {
  return json::parse(contents(path));
}

class AddTokens : public EncoderCommands {
 protected:
  void write_lines(const std::string& text) const { std::ofstream(folder_ / "new.txt", std::ios::binary) << text; }

  /// Ids of a text, without special tokens added.
  std::vector<int32_t> ids_of(const fs::path& model, const std::string& text) const {
    Outcome outcome =
        weft(fmt::format("tokenize --jsonl --tokenizer '{}'", model.string()), json{{"text", text}}.dump());
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return json::parse(outcome.out).at("ids");
  }

  /// The means of the old rows, one for each list of ids, are the rows of a table from `first` on; the others are as
  /// they were. A table of one dimension has rows of one element.
  static void expect_means(const fs::path& before,
                           const fs::path& after,
                           const std::string& name,
                           size_t first,
                           const std::vector<std::vector<int32_t>>& pieces) {
    auto old_reader = open_checkpoint(before.string()), new_reader = open_checkpoint(after.string());
    std::vector<float> old_rows = values_of(*old_reader, name), new_rows = values_of(*new_reader, name);
    const Shape& shape = new_reader->info(name).shape;
    size_t width = shape.rank() == 1 ? 1 : static_cast<size_t>(shape[1]);
    ASSERT_EQ(new_rows.size(), std::max(old_rows.size(), (first + pieces.size()) * width)) << name;
    for (size_t i = 0; i < new_rows.size(); ++i) {
      size_t row = i / width;
      if (row < first || row >= first + pieces.size()) {
        EXPECT_EQ(new_rows[i], old_rows[i]) << name << " " << i;
        continue;
      }
      double sum = 0;
      const std::vector<int32_t>& ids = pieces[row - first];
      for (int32_t id : ids) sum += static_cast<double>(old_rows[static_cast<size_t>(id) * width + i % width]);
      EXPECT_NEAR(new_rows[i], sum / static_cast<double>(ids.size()), 1e-6) << name << " " << i;
    }
  }

  fs::path make_llama(const char* golden_case = "hf/llama_gqa") const {
    fs::path model = folder_ / "llama";
    fs::create_directory(model);
    for (const char* name : {"config.json", "model.safetensors"})
      fs::copy_file(kData / golden_case / name, model / name);
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy_file(kData / "tiny_tokenizer" / name, model / name);
      fs::permissions(model / name, fs::perms::owner_all);
    }
    return model;
  }
};

TEST_F(AddTokens, OfWordPieceGetTheMeansOfTheirPieces) {
  fs::path model = make_model("bert", "hf/bert");
  write_lines("foxes\r\nw20.w30\nqqq");
  for (const char* format : {"safetensors", "keras", "tensorflow"}) {
    std::string warning;  // of w20.w30, which is cut at its dot
    fs::path longer = convert(model, "--add-tokens new.txt", format, &warning);
    EXPECT_THAT(warning, AllOf(HasSubstr("1 of the new tokens are never found"), HasSubstr("w20.w30")));
    EXPECT_THAT(contents(longer / "vocab.txt"), ::testing::EndsWith("\nw119\nfoxes\nw20.w30\nqqq\n"));
    EXPECT_THAT(ids_of(longer, "the foxes qqq"), ElementsAre(5, 120, 122));
    fs::path again = convert(longer, "--family bert", "safetensors");
    EXPECT_EQ(parse_file(again / "config.json").at("vocab_size"), 123);
    std::vector<std::vector<int32_t>> pieces = {{7, 8}, {20, 9, 30}, {1}};
    expect_means(model, again, "bert.embeddings.word_embeddings.weight", 120, pieces);
    expect_means(model, again, "cls.predictions.bias", 120, pieces);
    EXPECT_EQ(weft(fmt::format("encode --model '{}' --quiet --text -", again.string()), "foxes").exit_code, 0);
  }
}

TEST_F(AddTokens, OfATokenizerJsonAreFoundInTexts) {
  fs::path model = make_llama();
  std::vector<int32_t> first = ids_of(model, "foxdog"), second = ids_of(model, "<|tool|>");
  ASSERT_GT(first.size(), 1U);
  write_lines("foxdog\n<|tool|>\n");
  // The model has rows for 160 tokens and its tokenizer 148: the new ones take two of those.
  fs::path longer = convert(model, "--add-tokens new.txt", "safetensors");
  EXPECT_EQ(parse_file(longer / "config.json").at("vocab_size"), 160);
  EXPECT_THAT(ids_of(longer, "foxdog"), ElementsAre(148));
  EXPECT_THAT(ids_of(longer, "<|tool|>foxdog"), ElementsAre(149, 148));
  EXPECT_EQ(ids_of(longer, "the dog"), ids_of(model, "the dog"));
  json added = parse_file(longer / "tokenizer.json").at("added_tokens").back();
  EXPECT_EQ(added.at("content"), "<|tool|>");
  EXPECT_EQ(added.at("special"), false);
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    if (open_checkpoint(model.string())->find(name) == nullptr) continue;
    expect_means(model, longer, name, 148, {first, second});
  }
  std::string many;
  for (int i = 0; i < 20; ++i) many += fmt::format("<|tool{}|>\n", i);
  write_lines(many);
  fs::path larger = convert(model, "--add-tokens new.txt", "safetensors");
  EXPECT_EQ(parse_file(larger / "config.json").at("vocab_size"), 168);
  EXPECT_EQ(open_checkpoint(larger.string())->info("model.embed_tokens.weight").shape[0], 168);
  EXPECT_THAT(ids_of(larger, "<|tool19|>"), ElementsAre(167));
  EXPECT_EQ(
      weft(fmt::format("generate --quiet --model '{}' --max-new-tokens 2 '<|tool3|>'", larger.string())).exit_code, 0);
}

TEST_F(AddTokens, OfUnigramAreFoundInTexts) {
  fs::path model = folder_ / "t5";
  fs::create_directory(model);
  for (const char* name : {"config.json", "model.safetensors"}) fs::copy_file(kData / "hf/t5_v11" / name, model / name);
  json vocabulary = json::array({json::array({"<unk>", 0}), json::array({"</s>", 0}), json::array({"▁", -2.5})});
  for (char letter = 'a'; letter <= 'z'; ++letter) vocabulary.push_back({std::string(1, letter), -3.25});
  json space = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", true}};
  json document = {{"version", "1.0"},
                   {"added_tokens", json::array()},
                   {"normalizer", nullptr},
                   {"pre_tokenizer", space},
                   {"post_processor", nullptr},
                   {"decoder", space},
                   {"model", {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", vocabulary}, {"byte_fallback", false}}}};
  std::ofstream(model / "tokenizer.json") << document.dump();
  std::ofstream(model / "tokenizer.model") << "is not read where tokens are added";
  std::vector<int32_t> pieces = {2, 3, 4, 5};
  write_lines("abc\n");
  fs::path longer = convert(model, "--add-tokens new.txt", "safetensors");
  EXPECT_THAT(ids_of(longer, "abc"), ElementsAre(29));
  for (const char* name : {"shared.weight", "lm_head.weight"}) expect_means(model, longer, name, 29, {pieces});
  json written = parse_file(longer / "tokenizer.json");
  EXPECT_EQ(written.at("model"), document.at("model"));
  EXPECT_FALSE(fs::exists(longer / "tokenizer.model"));
  EXPECT_EQ(ids_of(longer, "ab c"), (std::vector<int32_t>{2, 3, 4, 2, 5}));
}

TEST_F(AddTokens, AreRefusedWithTheirLine) {
  fs::path model = make_model("bert", "hf/bert");
  auto refused = [&](const std::string& lines, const std::string& says, const std::string& flags = "--model bert") {
    write_lines(lines);
    expect_one_line_error(
        weft("convert --quiet --to safetensors --out new --add-tokens new.txt " + flags), 3, HasSubstr(says));
    EXPECT_FALSE(fs::exists(folder_ / "new"));
    EXPECT_FALSE(fs::exists(folder_ / "new.partial"));
  };
  refused("", "holds no tokens");
  refused("aa\n\nbb\n", "new.txt: line 2 holds no token");
  refused("aa\nbb\naa\n", "new.txt: line 3: token 'aa' stands in line 1 too");
  refused("aa\nfox\n", "new.txt: line 2: token 'fox' is in the vocabulary already");
  refused("a b\n", "line 1: token 'a b' holds white space");
  refused(" a\n", "line 1: token ' a' begins or ends with white space");
  refused("\xff\n", "is no UTF-8 text");
  change_config(model, {{"keep_tokens", {0, 1, 2, 3}}});
  refused("aa\n", "'keep_tokens' cuts the vocabulary already");
  change_config(model, {{"keep_tokens", nullptr}});
  fs::remove(model / "vocab.txt");
  refused("aa\n", "no tokenizer here");
  make_llama("hf/gemma");
  refused("aa\n", "the model has 128 tokens, its tokenizer 148", "--model llama");
  expect_one_line_error(
      weft("convert --quiet --to keras --out new --model bert --add-tokens new.txt --keep-tokens new.txt"),
      2,
      HasSubstr("--add-tokens"));
  expect_one_line_error(
      weft("convert --quiet --to keras --out new --model bert --add-tokens absent.txt"), 3, HasSubstr("no tokenizer"));
}

TEST_F(AddTokens, CompoundTokensAreNamedByTheirPieces) {
  fs::path model = make_model("bert", "hf/bert");
  change_config(model, {{"compound_tokens", {{7, 8}, {20, 30}, {7}}}});
  fs::path longer = convert(model, "", "safetensors");
  EXPECT_EQ(parse_file(longer / "config.json").at("vocab_size"), 123);
  EXPECT_THAT(contents(longer / "vocab.txt"), ::testing::EndsWith("\nw119\nfoxes\nw20w30\n[compound2]\n"));
  EXPECT_THAT(ids_of(longer, "foxes w20w30"), ElementsAre(120, 121));
  expect_means(model, longer, "bert.embeddings.word_embeddings.weight", 120, {{7, 8}, {20, 30}, {7}});
}

}  // namespace
}  // namespace weft
