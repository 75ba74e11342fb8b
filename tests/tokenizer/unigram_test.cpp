// tokenizer.json files of type Unigram against Hugging Face's `tokenizers` (make_unigram_golden.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tokenizer/loaders.h"
#include "tokenizer/reference_rows.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

const json& unigram_cases() {
  static const json cases = json::parse(test::unigram_golden());
  return cases;
}

const json& case_named(const std::string& name) {
  const json& cases = unigram_cases();
  return *std::find_if(cases.begin(), cases.end(), [&](const json& example) { return example["name"] == name; });
}

std::shared_ptr<const Tokenizer> load(const json& tokenizer) {
  return load_tokenizer_json_text(tokenizer.dump(), "file");
}

class UnigramGolden : public ::testing::TestWithParam<size_t> {
 protected:
  const json& example() const { return unigram_cases()[GetParam()]; }
};

TEST_P(UnigramGolden, GivesTheReferenceIdsAndTexts) {
  const auto tokenizer = load(example()["tokenizer"]);
  EXPECT_EQ(tokenizer->type(), "unigram");
  ASSERT_GT(example()["rows"].size(), 100);
  test::expect_reference_rows(*tokenizer, example()["rows"]);
}

TEST_P(UnigramGolden, GivesTheReferencePairs) {
  const auto tokenizer = load(example()["tokenizer"]);
  for (const json& row : example()["pairs"]) {
    const PairEncoding pair = tokenizer->encode_pair(row["first"].get<std::string>(), row["second"].get<std::string>());
    EXPECT_EQ(pair.ids, row["ids"].get<std::vector<int32_t>>()) << row.dump();
    EXPECT_EQ(pair.segment_ids, row["type_ids"].get<std::vector<int32_t>>()) << row.dump();
  }
}

TEST_P(UnigramGolden, GivesTheReferenceOffsets) {
  if (!example()["rows"][0].contains("offsets")) GTEST_SKIP() << "without offsets";
  const auto tokenizer = load(example()["tokenizer"]);
  for (const json& row : example()["rows"]) {
    if (!row.contains("offsets")) continue;
    const auto text = row["text"].get<std::string>();
    std::vector<int32_t> ids;
    const std::vector<TokenSpan> spans = to_characters(text, tokenizer->encode_with_offsets(text, ids));
    EXPECT_EQ(ids, row["ids"].get<std::vector<int32_t>>()) << row["text"].dump();
    json pairs = json::array();
    for (const TokenSpan& span : spans) pairs.push_back({span.begin, span.end});
    EXPECT_EQ(pairs, row["offsets"]) << row["text"].dump();
  }
}

INSTANTIATE_TEST_SUITE_P(References,
                         UnigramGolden,
                         ::testing::Range<size_t>(0, unigram_cases().size()),
                         [](const auto& instance) {
                           return unigram_cases()[instance.param]["name"].template get<std::string>();
                         });

json small_unigram() {
  return json::parse(R"({"normalizer": null, "pre_tokenizer": null, "decoder": null,
    "added_tokens": [{"id": 1, "content": "</s>", "special": true, "normalized": false}],
    "model": {"type": "Unigram", "unk_id": 0,
              "vocab": [["<unk>", 0], ["</s>", 0], ["<", -1.5], ["/", -1.5], ["s", -1.5], [">", -1.5], ["ss", -2]]}})");
}

TEST(Unigram, PlainTextCannotForgeASpecialToken) {
  const auto tokenizer = load(small_unigram());
  EXPECT_THAT(tokenizer->encode("s</s>", false), ElementsAre(4, 1));
  EXPECT_THAT(tokenizer->encode("s</s>", false, SpecialsInText::plain_text), ElementsAre(4, 2, 3, 4, 5));
  std::vector<int32_t> ids;
  tokenizer->encode_with_offsets("s</s>", ids, SpecialsInText::plain_text);
  EXPECT_THAT(ids, ElementsAre(4, 2, 3, 4, 5));
}

TEST(Unigram, ARunOfUnknownCharactersIsOneTokenUnlessItIsSpelledLikeAPiece) {
  json tokenizer = small_unigram();
  EXPECT_THAT(load(tokenizer)->encode("sxyzs", false), ElementsAre(4, 0, 4));
  EXPECT_THAT(load(tokenizer)->encode("x<unk>y", false), ElementsAre(0));
  // Two unknown characters cost less than this piece.
  tokenizer["added_tokens"] = json::array();
  tokenizer["model"]["vocab"] = json::array({{"<unk>", 100}, {"s", 100}, {"xy", 101}});
  EXPECT_THAT(load(tokenizer)->encode("sxys", false), ElementsAre(1, 2, 1));
  EXPECT_THAT(load(tokenizer)->encode("sxyxs", false), ElementsAre(1, 0, 1));
}

TEST(Unigram, OfEqualPiecesTheLastCounts) {
  json tokenizer = small_unigram();
  tokenizer["model"]["vocab"].push_back({"s", -0.5});
  EXPECT_THAT(load(tokenizer)->encode("ss", false), ElementsAre(7, 7));
  EXPECT_EQ(load(tokenizer)->token_to_id("s"), 7);
  EXPECT_EQ(load(tokenizer)->id_to_token(4), "s");
}

TEST(Unigram, SumsAreDoubles) {
  json tokenizer = small_unigram();
  tokenizer["added_tokens"] = json::array();
  // As floats both ways to cut "abc" would cost the same, and the one found first would stay.
  tokenizer["model"]["vocab"] = json::array({{"<unk>", 0}, {"ab", -2 + 1e-12}, {"c", -1}, {"abc", -3}});
  EXPECT_THAT(load(tokenizer)->encode("abc", false), ElementsAre(1, 2));
}

TEST(Unigram, MarksThatANormalFormReordersAreOneSpan) {
  json tokenizer = small_unigram();
  tokenizer["normalizer"] = {{"type", "NFD"}};
  std::vector<int32_t> ids;
  // Marks above and below, which go before the others.
  const auto spans = load(tokenizer)->encode_with_offsets("s\xCC\x81\xCC\x88\xCC\xA3s", ids);
  EXPECT_THAT(ids, ElementsAre(4, 0, 4));
  EXPECT_THAT(spans, ElementsAre(TokenSpan{0, 1}, TokenSpan{1, 7}, TokenSpan{7, 8}));
}

TEST(Unigram, FilesWithoutATypeAreKnownByTheirVocabulary) {
  json tokenizer = small_unigram();
  tokenizer["model"].erase("type");
  EXPECT_EQ(load(tokenizer)->type(), "unigram");
}

TEST(Unigram, WhatEndsATextEndsAnAnswer) {
  EXPECT_THAT(load(case_named("t5")["tokenizer"])->end_ids(), ElementsAre(1));
  EXPECT_EQ(load(case_named("t5")["tokenizer"])->bos_id(), std::nullopt);
  EXPECT_THAT(load(case_named("xlm_roberta")["tokenizer"])->end_ids(), ElementsAre(2));
  EXPECT_EQ(load(case_named("xlm_roberta")["tokenizer"])->bos_id(), 0);
  EXPECT_THAT(load(case_named("albert")["tokenizer"])->end_ids(), ElementsAre(3));
  EXPECT_THAT(load(case_named("trained")["tokenizer"])->end_ids(), IsEmpty());
}

TEST(Unigram, ASentencepieceModelInTheSameFolderComesFirst) {
  const std::string file = test::write_file("t5_json/tokenizer.json", case_named("t5")["tokenizer"].dump());
  const std::string folder = std::filesystem::path(file).parent_path().string();
  // sentencepiece replaces the longest match alone, `tokenizers` the whole grapheme.
  const std::string text = "\xC2\xBD\xE2\x80\x8D the";
  const auto from_json = load_tokenizer(folder);
  EXPECT_EQ(from_json->id_to_token(1), "</s>");
  test::write_file("t5_json/spiece.model", test::read_file(test::tokenizer_data("spm_unigram/spm.model")));
  for (const std::string& path : {folder, file}) {
    EXPECT_EQ(load_tokenizer(path)->encode(text, false), test::sentencepiece_unigram_tokenizer().encode(text, false));
  }
}

TEST(FairseqModel, HasTheIdsOfTheReference) {
  const auto tokenizer = load_tokenizer(test::tokenizer_data("fairseq"));
  const json golden = json::parse(test::read_file(test::tokenizer_data("fairseq/golden.json")));
  for (const json& row : golden.at("texts")) {
    const std::string text = row["text"];
    EXPECT_EQ(tokenizer->encode(text, true, SpecialsInText::recognised), row["ids"].get<std::vector<int32_t>>())
        << text;
  }
  for (const json& row : golden.at("pairs")) {
    const std::string first = row["first"], second = row["second"];
    EXPECT_EQ(tokenizer->encode_pair(first, second).ids, row["ids"].get<std::vector<int32_t>>()) << first;
  }
  EXPECT_EQ(tokenizer->pad_id(), 1);
  EXPECT_EQ(tokenizer->mask_id(), tokenizer->vocab_size() - 1);
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(2));
  std::vector<int32_t> ids;
  EXPECT_THAT(tokenizer->encode_with_offsets("the model", ids),
              ElementsAre(TokenSpan{0, 3}, TokenSpan{3, 4}, TokenSpan{4, 9}));
}

TEST(FairseqModel, StandsBehindATokenizerJsonAndIsRefusedForFamiliesOfOtherIds) {
  const std::string model = test::read_file(test::tokenizer_data("fairseq/sentencepiece.bpe.model"));
  const std::string file =
      test::write_file("fairseq_json/tokenizer.json", case_named("xlm_roberta")["tokenizer"].dump());
  const std::string folder = std::filesystem::path(file).parent_path().string();
  const std::vector<int32_t> expected = load_tokenizer(file)->encode("the model", true);
  test::write_file("fairseq_json/sentencepiece.bpe.model", model);
  EXPECT_EQ(load_tokenizer(folder)->encode("the model", true), expected);
  test::write_file("fairseq_other/sentencepiece.bpe.model", model);
  const std::string config =
      test::write_file("fairseq_other/tokenizer_config.json", R"({"tokenizer_class": "CamembertTokenizer"})");
  EXPECT_THAT([&] { load_tokenizer(std::filesystem::path(config).parent_path().string()); },
              ThrowsMessage<Error>(HasSubstr("tokenizer.json")));
  const std::string other = test::read_file(test::tokenizer_data("spm_unigram/spm.model"));
  EXPECT_THAT([&] { load_tokenizer(test::write_file("fairseq_first/sentencepiece.bpe.model", other)); },
              ThrowsMessage<Error>(HasSubstr("piece 0 is not <unk>")));
}

}  // namespace
}  // namespace weft
