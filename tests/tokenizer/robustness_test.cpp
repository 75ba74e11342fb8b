// Broken and hostile files and texts: one clear line, and time that grows with the input alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

json small_tokenizer() {
  return json::parse(R"({"normalizer": null, "pre_tokenizer": null, "decoder": null, "added_tokens": [],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

auto fails_with(const std::string& message) {
  return ThrowsMessage<Error>(AllOf(HasSubstr("file"), HasSubstr(message)));
}

std::function<void()> loading(const json& tokenizer) {
  return [text = tokenizer.dump()] { load_tokenizer_json_text(text, "file"); };
}

TEST(BrokenTokenizerJson, UnknownStageTypesAreNamed) {
  for (const char* stage : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    json tokenizer = small_tokenizer();
    tokenizer[stage] = {{"type", "Frobnicate"}};
    EXPECT_THAT(loading(tokenizer), fails_with("of type 'Frobnicate' is not supported; known are ")) << stage;
  }
  json tokenizer = small_tokenizer();
  tokenizer["model"]["type"] = "Unigram2";
  EXPECT_THAT(loading(tokenizer),
              fails_with("model of type 'Unigram2' is not supported; known are BPE, WordPiece and Unigram"));
}

TEST(BrokenTokenizerJson, DamagedTablesAreNamed) {
  json tokenizer = small_tokenizer();
  tokenizer["model"]["merges"] = {"a c"};
  EXPECT_THAT(loading(tokenizer), fails_with("merge 0 needs the token 'c', which the vocabulary lacks"));
  tokenizer["model"]["merges"] = {"a b c"};
  EXPECT_THAT(loading(tokenizer), fails_with("merge 'a b c' cannot be used"));
  tokenizer = small_tokenizer();
  tokenizer["model"]["vocab"]["a"] = -1;
  EXPECT_THAT(loading(tokenizer), fails_with("token 'a' has id -1"));
  tokenizer["model"]["vocab"]["a"] = 4'000'000'000;
  EXPECT_THAT(loading(tokenizer), fails_with("token 'a' has id 4000000000"));
  tokenizer["model"]["vocab"]["a"] = "zero";
  EXPECT_THAT(loading(tokenizer), fails_with("cannot be used"));
  tokenizer["model"].erase("vocab");
  EXPECT_THAT(loading(tokenizer), fails_with("model.vocab has no tokens"));
  EXPECT_THAT([] { load_tokenizer_json_text("[1]", "file"); }, fails_with("expected a JSON object"));
}

json small_unigram() {
  return json::parse(R"({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1.5], ["b", -2]]}})");
}

TEST(BrokenUnigramJson, EntriesThatAreNoPieceWithAScoreAreNumbered) {
  for (const char* entry : {R"(["b"])", R"([])", R"([-2, "b"])", R"(["b", -2, 0])", R"(["b", "c"])", R"("b")", "-2"}) {
    const std::string text = R"({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1], )" +
                             std::string(entry) + R"(, ["c", -3]]}})";
    EXPECT_THAT([&] { load_tokenizer_json_text(text, "file"); }, fails_with("entry of model.vocab '1' cannot be used"))
        << entry;
  }
  for (const char* entry : {R"({"b": -2})", R"([["b"], -2])", R"(["b", null])", R"(["b", true])"}) {
    const std::string text =
        R"({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1], )" + std::string(entry) + "]}}";
    EXPECT_THAT([&] { load_tokenizer_json_text(text, "file"); }, fails_with("cannot be used")) << entry;
  }
}

TEST(BrokenUnigramJson, ScoresThatCannotBeAddedAreNamed) {
  json tokenizer = small_unigram();
  tokenizer["model"]["vocab"][1][1] = -1e10;
  EXPECT_THAT(loading(tokenizer), fails_with("piece 1 'a' has score -10000000000; the file is damaged"));
  for (const char* score : {"NaN", "-Infinity", "1e999"}) {
    const std::string text =
        R"({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", )" + std::string(score) + "]]}}";
    EXPECT_THAT([&] { load_tokenizer_json_text(text, "file"); }, fails_with("not valid JSON at byte")) << score;
  }
}

TEST(BrokenUnigramJson, AnUnknownIdOutsideTheVocabularyIsNamed) {
  json tokenizer = small_unigram();
  for (const int id : {-1, 3}) {
    tokenizer["model"]["unk_id"] = id;
    EXPECT_THAT(loading(tokenizer), fails_with("'unk_id' is " + std::to_string(id) + ", expected 0 to 2"));
  }
  tokenizer["model"]["unk_id"] = nullptr;
  EXPECT_THAT(loading(tokenizer), fails_with("'unk_id' is missing"));
}

TEST(BrokenUnigramJson, AVocabularyOfAnotherTypeIsRefused) {
  json tokenizer = small_unigram();
  for (const char* type : {"BPE", "WordPiece"}) {
    tokenizer["model"]["type"] = type;
    EXPECT_THAT(loading(tokenizer), fails_with("but its vocab is a list")) << type;
  }
  tokenizer = small_tokenizer();
  tokenizer["model"]["type"] = "Unigram";
  EXPECT_THAT(loading(tokenizer), fails_with("but its vocab is no list of [piece, score]"));
  tokenizer["model"]["vocab"] = json::array();
  EXPECT_THAT(loading(tokenizer), fails_with("model.vocab has no tokens"));
}

TEST(BrokenUnigramJson, PiecesThatAreTooLongAreRefused) {
  json tokenizer = small_unigram();
  tokenizer["model"]["vocab"][1][0] = std::string(1025, 'a');
  EXPECT_THAT(loading(tokenizer), fails_with("has 1025 bytes; the limit is 1024"));
  for (int i = 0; i < 16384; ++i)
    tokenizer["model"]["vocab"][i] = {std::to_string(10000 + i) + std::string(1019, 'a'), -1};
  EXPECT_THAT(loading(tokenizer), fails_with("bytes in all; the limit is 16777215"));
}

TEST(BrokenUnigramJson, DamagedNormalizationTablesAreNamed) {
  json tokenizer = small_unigram();
  tokenizer["normalizer"] = {{"type", "Precompiled"}};
  EXPECT_THAT(loading(tokenizer), fails_with("'precompiled_charsmap' is missing"));
  tokenizer["normalizer"]["precompiled_charsmap"] = "";
  EXPECT_THAT(loading(tokenizer), fails_with("'precompiled_charsmap' is empty"));
  for (const char* text : {"A", "AAA", "AAAA=", "AA=A", "A===", "====", "AA==AAAA", "AAAA\n", "AB==", "AA-_"}) {
    tokenizer["normalizer"]["precompiled_charsmap"] = text;
    EXPECT_THAT(loading(tokenizer), fails_with("'precompiled_charsmap' is not base64")) << text;
  }
  tokenizer["normalizer"]["precompiled_charsmap"] = "AAQAAGE=";
  EXPECT_THAT(loading(tokenizer), fails_with("has 5 bytes and a trie of 1024; the file is damaged"));
}

TEST(BrokenUnigramJson, EveryTruncationIsAnError) {
  const std::string text = small_unigram().dump();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_THAT([&] { load_tokenizer_json_text(text.substr(0, size), "file"); }, fails_with("not valid JSON at byte"))
        << size;
  }
}

TEST(BrokenTokenizerJson, EveryTruncationIsAnError) {
  const std::string text = small_tokenizer().dump();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_THAT([&] { load_tokenizer_json_text(text.substr(0, size), "file"); }, fails_with("not valid JSON at byte"))
        << size;
  }
}

TEST(BrokenTokenizerJson, DeepNestingIsRefused) {
  EXPECT_THAT([] { load_tokenizer_json_text("{\"a\":" + std::string(100'000, '['), "file"); }, fails_with("nesting"));
}

TEST(BrokenTokenizerJson, ARegularExpressionThatDoesNotCompileIsNamed) {
  json tokenizer = small_tokenizer();
  tokenizer["pre_tokenizer"] = {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(a"}}}};
  EXPECT_THAT(loading(tokenizer), fails_with("the regular expression '(a' cannot be used"));
}

TEST(HostileText, ARegularExpressionThatBacktracksWithoutEndGivesUp) {
  json tokenizer = small_tokenizer();
  tokenizer["pre_tokenizer"] = {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "(a|aa)+[cd]"}}}};
  const auto loaded = load_tokenizer_json_text(tokenizer.dump(), "file");
  EXPECT_THAT([&] { loaded->encode(std::string(100, 'a'), false); }, fails_with("gave up on this text"));
}

TEST(BrokenSentencepieceModel, EveryTruncationIsAnErrorOrAModel) {
  const std::string model = test::read_file(test::tokenizer_data("spm_bpe/spm.model"));
  int num_errors = 0;
  for (size_t size = 0; size < model.size(); size += 7) {
    try {
      load_sentencepiece_bytes(model.substr(0, size), "file")->encode("the people", false);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("file"));
      ++num_errors;
    }
  }
  EXPECT_GT(num_errors, 2000);
}

TEST(BrokenSentencepieceModel, FlippedBitsInTheNormalizationTableAreHarmless) {
  std::string model = test::read_file(test::tokenizer_data("spm_unigram/spm.model"));
  const std::string text = test::read_file(test::tokenizer_data("strings.jsonl")).substr(0, 2000);
  for (size_t byte = 40'000; byte < model.size(); byte += 2999) {
    const char original = model[byte];
    model[byte] = static_cast<char>(original ^ 0x40);
    try {
      load_sentencepiece_bytes(model, "file")->encode(text, false);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("file"));
    }
    model[byte] = original;
  }
}

/// Processor time, which other work on the machine does not lengthen.
double encode_seconds(const Tokenizer& tokenizer, const std::string& text) {
  const std::clock_t start = std::clock();
  tokenizer.encode(text, false);
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

std::string repeat(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

TEST(HostileText, TimeGrowsWithTheLengthAloneOnAnyText) {
  const std::vector<std::string> units = {"a",
                                          " ",
                                          "\n",
                                          "ab",
                                          "aA1!",
                                          "\xF0\x9F\x98\x80",
                                          "\xE2\x96\x81",
                                          "<",
                                          "<|",
                                          "\xCC\x81\xCC\xA3",
                                          "\xFF",
                                          " \n",
                                          "1",
                                          "'s",
                                          "\xE8\xAF\xAD",
                                          "\xCE\xA3'",
                                          "=",
                                          std::string(1, '\0')};
  for (const Tokenizer* tokenizer : {&test::gemma_tokenizer(),
                                     &test::llama3_tokenizer(),
                                     &test::rwkv_tokenizer(),
                                     &test::smollm2_tokenizer(),
                                     &test::sentencepiece_bpe_tokenizer(),
                                     &test::sentencepiece_unigram_tokenizer(),
                                     &test::t5_tokenizer(),
                                     &test::minilm_tokenizer(),
                                     &test::minilm_vocabulary_tokenizer()}) {
    for (const std::string& unit : units) {
      // Quadratic time would take minutes for this.
      const double seconds = encode_seconds(*tokenizer, repeat(unit, 1 << 20));
      EXPECT_LT(seconds, 10.0) << tokenizer->type() << " '" << unit << "'";
    }
  }
}

TEST(HostileText, LongRunsOfMarksAreOrderedInLinearTime) {
  json tokenizer = small_tokenizer();
  tokenizer["normalizer"] = {{"type", "NFC"}};
  tokenizer["model"]["unk_token"] = "a";
  const auto loaded = load_tokenizer_json_text(tokenizer.dump(), "file");
  EXPECT_LT(encode_seconds(*loaded, "a" + repeat("\xCC\x81\xCC\xA3", 1 << 20)), 5.0);
}

TEST(StreamingDecoder, HoldsBackATokenThatEndsInsideACharacter) {
  const Tokenizer& tokenizer = test::llama3_tokenizer();
  StreamingDecoder decoder(tokenizer, false);
  const std::string emoji = "\xF0\x9F\xA6\x99";
  const std::vector<int32_t> ids = tokenizer.encode(emoji, false);
  ASSERT_GT(ids.size(), 1);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(decoder.push(ids[i]), "");
  EXPECT_EQ(decoder.push(ids.back()), emoji);
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamingDecoder, GivesReplacementCharactersForWhatNeverCompletes) {
  const Tokenizer& tokenizer = test::llama3_tokenizer();
  const int32_t first = tokenizer.encode("\xF0\x9F\xA6\x99", false)[0];
  StreamingDecoder decoder(tokenizer, false);
  EXPECT_EQ(decoder.push(first), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
}

TEST(TokenizerRoles, EndIdsAndSpecialTokensOfTheRealTokenizers) {
  EXPECT_THAT(test::gemma_tokenizer().end_ids(), ElementsAre(107));
  EXPECT_THAT(test::llama3_tokenizer().end_ids(), ElementsAre(128001, 128009));
  EXPECT_THAT(test::smollm2_tokenizer().end_ids(), ElementsAre(0, 2));
  EXPECT_THAT(test::sentencepiece_bpe_tokenizer().end_ids(), ElementsAre(1));
  EXPECT_EQ(test::gemma_tokenizer().bos_id(), 2);
  EXPECT_EQ(test::smollm2_tokenizer().bos_id(), 1);
  EXPECT_EQ(test::sentencepiece_unigram_tokenizer().bos_id(), std::nullopt);
  EXPECT_TRUE(test::llama3_tokenizer().is_special(128009));
  EXPECT_FALSE(test::llama3_tokenizer().is_special(5));
  EXPECT_EQ(test::gemma_tokenizer().vocab_size(), 256000);
  EXPECT_EQ(test::llama3_tokenizer().id_to_token(9906), "Hello");
  EXPECT_EQ(test::llama3_tokenizer().token_to_id("\xC4\xA0world"), 1917);
}

TEST(TokenizerRoles, ConfigsBesideTheTokenizerNameTheEnds) {
  json tokenizer = small_tokenizer();
  tokenizer["added_tokens"] = {{{"id", 3}, {"content", "<s>"}, {"special", true}},
                               {{"id", 4}, {"content", "</s>"}, {"special", true}}};
  const std::string path = test::write_file("roles/tokenizer.json", tokenizer.dump());
  test::write_file("roles/tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
  test::write_file("roles/generation_config.json", R"({"eos_token_id": [4, 1]})");
  test::write_file("roles/chat_template.jinja", "a template");
  const std::string folder = path.substr(0, path.rfind('/'));
  for (const std::string& from : {path, folder}) {
    const auto loaded = load_tokenizer(from);
    EXPECT_EQ(loaded->bos_id(), 3);
    EXPECT_THAT(loaded->end_ids(), ElementsAre(1, 4));
    EXPECT_EQ(loaded->chat_template(), "a template");
  }
}

TEST(LoadTokenizer, SaysWhatItLookedFor) {
  const std::string file = test::write_file("empty/readme.md", "");
  EXPECT_THAT(
      [&] { load_tokenizer(file.substr(0, file.rfind('/'))); },
      ThrowsMessage<Error>(HasSubstr("no tokenizer here; looked for tokenizer.json, vocab.txt, tokenizer.model")));
  EXPECT_THAT([&] { load_tokenizer(file); }, ThrowsMessage<Error>(HasSubstr("not a tokenizer that Weft knows")));
  EXPECT_THAT([] { load_tokenizer("/nowhere"); }, ThrowsMessage<Error>(HasSubstr("/nowhere: no such file")));
}

}  // namespace
}  // namespace weft
