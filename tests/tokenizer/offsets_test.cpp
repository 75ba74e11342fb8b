// Where tokens come from in the original text, whatever was normalised.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tokenizer/loaders.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

/// The parts of the text that its tokens come from.
std::vector<std::string> parts_of(const Tokenizer& tokenizer,
                                  const std::string& text,
                                  SpecialsInText specials = SpecialsInText::as_in_file) {
  std::vector<int32_t> ids;
  std::vector<std::string> parts;
  for (const TokenSpan& span : tokenizer.encode_with_offsets(text, ids, specials)) {
    parts.push_back(text.substr(span.begin, span.end - span.begin));
  }
  EXPECT_EQ(ids, tokenizer.encode(text, false, specials));
  EXPECT_EQ(parts.size(), ids.size());
  return parts;
}

json byte_level(const json& normalizer) {
  json vocabulary = {{"a", 0}, {"b", 1}, {"ab", 2}};
  for (const char* byte : {"Ġ", "Ã", "©", "Ì", "ģ", "Ċ"}) vocabulary[byte] = vocabulary.size();
  vocabulary["Ã©"] = vocabulary.size();
  return {{"normalizer", normalizer},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}}},
          {"decoder", nullptr},
          {"added_tokens", json::array()},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"a b", "Ã ©"}}}}};
}

std::shared_ptr<const Tokenizer> load(const json& tokenizer) {
  return load_tokenizer_json_text(tokenizer.dump(), "tokenizer.json");
}

TEST(OffsetsOfBytes, AreThoseOfWholeCharacters) {
  const auto plain = load(byte_level(nullptr));
  // The space that is put first comes from the first character.
  EXPECT_THAT(parts_of(*plain, "ab a"), ElementsAre("a", "ab", " ", "a"));
  // Two tokens share the bytes of the combining accent.
  EXPECT_THAT(parts_of(*plain, " ae\xCC\x81 \xC3\xA9"), ElementsAre(" ", "a", "\xCC\x81", "\xCC\x81", " ", "\xC3\xA9"));
}

TEST(OffsetsOfNormalForms, AComposedCharacterComesFromAllItsParts) {
  json normalizer = {{"type", "Sequence"}, {"normalizers", json::array()}};
  normalizer["normalizers"] = {{{"type", "Replace"}, {"pattern", {{"String", "x"}}}, {"content", "e"}},
                               {{"type", "NFC"}}};
  const auto composing = load(byte_level(normalizer));
  EXPECT_THAT(parts_of(*composing, " ax\xCC\x81 b"), ElementsAre(" ", "a", "x\xCC\x81", " ", "b"));
  EXPECT_THAT(parts_of(*composing, " \xC3\xA9"), ElementsAre(" ", "\xC3\xA9"));
}

TEST(OffsetsOfNormalForms, GiveTheSameTextAsWithout) {
  const std::string marks =
      "q\xCC\x87\xCC\xA3 a\xCC\xA8\xCC\x81 \xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB \xCC\x81 \xEF\xAC\x81 "
      "\xE1\xBA\x9B\xCC\xA3";
  for (const UnicodeForm form : {UnicodeForm::nfc, UnicodeForm::nfd, UnicodeForm::nfkc, UnicodeForm::nfkd}) {
    const auto normalizer = make_unicode_normalizer(form);
    std::string buffer, bytes;
    std::vector<uint32_t> sources;
    ASSERT_TRUE(normalizer->normalize_aligned(marks, bytes, sources));
    EXPECT_EQ(bytes, normalizer->normalize(marks, buffer));
    EXPECT_EQ(sources.size(), bytes.size());
  }
  const auto nfc = make_unicode_normalizer(UnicodeForm::nfc);
  std::string bytes;
  std::vector<uint32_t> sources;
  nfc->normalize_aligned("ae\xCC\x81z", bytes, sources);
  EXPECT_THAT(sources, ElementsAre(0, 1, 2, 4));
}

TEST(OffsetsOfBpe, OfUnknownCharactersAreTheirs) {
  json tokenizer = byte_level(nullptr);
  tokenizer["pre_tokenizer"] = nullptr;
  tokenizer["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 2}, {"?", 3}};
  tokenizer["model"]["merges"] = {"a b"};
  EXPECT_THAT(parts_of(*load(tokenizer), "xabyb"), ElementsAre("ab", "b"));
  tokenizer["model"]["unk_token"] = "?";
  EXPECT_THAT(parts_of(*load(tokenizer), "xyabyb\xE4\xB8\xAD"), ElementsAre("x", "y", "ab", "y", "b", "\xE4\xB8\xAD"));
  tokenizer["model"]["fuse_unk"] = true;
  EXPECT_THAT(parts_of(*load(tokenizer), "xyabyb\xE4\xB8\xAD"), ElementsAre("xy", "ab", "y", "b", "\xE4\xB8\xAD"));
}

TEST(OffsetsOfSentencepiece, SurviveSpacesAndReplacements) {
  const Tokenizer& unigram = test::sentencepiece_unigram_tokenizer();
  EXPECT_THAT(parts_of(unigram, "  the   people "), ElementsAre("the", "   people"));
  // A ligature and a full-width letter.
  const std::vector<std::string> parts = parts_of(unigram, "of\xEF\xAC\x81 \xEF\xBC\xB4he");
  std::string joined;
  for (size_t i = 0; i < parts.size(); ++i) joined += i > 0 && parts[i] == parts[i - 1] ? "" : parts[i];
  EXPECT_EQ(joined, "of\xEF\xAC\x81 \xEF\xBC\xB4he");
  EXPECT_THAT(parts_of(test::sentencepiece_bpe_tokenizer(), "the people"), ElementsAre("the", " people"));
  EXPECT_TRUE(parts_of(unigram, "   ").empty());
}

/// The library gives nothing to the space that it puts first and to all bytes of a character but the last one, and all
/// spaces of a run to the one that is left.
TEST(OffsetsOfSentencepiece, OverlapThoseOfTheLibrary) {
  for (const char* folder : {"spm_bpe", "spm_unigram"}) {
    const Tokenizer& tokenizer = std::string_view(folder) == "spm_bpe" ? test::sentencepiece_bpe_tokenizer()
                                                                       : test::sentencepiece_unigram_tokenizer();
    size_t num_compared = 0;
    for (const test::GoldenRow& row : test::read_golden(folder)) {
      std::vector<int32_t> ids;
      const std::vector<TokenSpan> spans = tokenizer.encode_with_offsets(row.text, ids);
      ASSERT_EQ(spans.size(), row.ids.size());
      for (size_t i = 0; i < row.offsets.size(); ++i) {
        const TokenSpan& theirs = row.offsets[i];
        if (theirs.begin == theirs.end || tokenizer.id_to_token(ids[i]).starts_with("<0x")) continue;
        EXPECT_TRUE(spans[i].begin < theirs.end && spans[i].end > theirs.begin) << row.label << ", token " << i;
        ++num_compared;
      }
    }
    EXPECT_GT(num_compared, 4000u);
  }
}

TEST(OffsetsOfSentencepiece, AreThoseOfTheWholeTextBehindASpecialToken) {
  const Tokenizer& unigram = test::sentencepiece_unigram_tokenizer();
  EXPECT_THAT(parts_of(unigram, "the </s>  people", SpecialsInText::recognised), ElementsAre("the", "</s>", "people"));
}

TEST(PlacesOfPairs, AreThoseOfTheirTextsAndGoWithTheTokens) {
  const Tokenizer& bert = test::minilm_vocabulary_tokenizer();
  const auto places = [&](const EncodePairOptions& options) {
    std::vector<std::string> described;
    for (const TokenPlace& place : bert.encode_pair("hello world", "a b c", options).places) {
      described.push_back(std::to_string(place.text) + ":" + std::to_string(place.span.begin) + "-" +
                          std::to_string(place.span.end));
    }
    return described;
  };
  EXPECT_TRUE(places({}).empty());
  EXPECT_THAT(places({.finds_places = true}),
              ElementsAre("-1:0-0", "0:0-5", "0:6-11", "-1:0-0", "1:0-1", "1:2-3", "1:4-5", "-1:0-0"));
  EXPECT_THAT(places({.max_length = 4,
                      .truncate_from = {.side = TruncateFrom::Side::left},
                      .adds_special_tokens = false,
                      .finds_places = true}),
              ElementsAre("0:0-5", "0:6-11", "1:2-3", "1:4-5"));
  const PairEncoding bare = bert.encode_pair("hello world", "a", {.adds_special_tokens = false});
  EXPECT_THAT(bare.segment_ids, ElementsAre(0, 0, 1));
}

}  // namespace
}  // namespace weft
