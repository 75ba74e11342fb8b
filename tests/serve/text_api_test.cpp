#include "serve/text_api.h"

#include <gmock/gmock.h>

#include <cstring>

#include "core/error.h"
#include "support/paths.h"
#include "tokenizer/base64.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

class TextApi : public testing::Test {
 protected:
  TextApi() {
    info_.vocab_size = 160;
    info_.hidden_size = 4;
    served_ = {.name = "tiny", .info = &info_, .tokenizer = tokenizer_.get(), .max_length = 8};
  }

  std::string embedding_refusal(const std::string& body) const {
    return refusal([&] { read_embedding_request(body, served_); });
  }
  std::string rerank_refusal(const std::string& body) const {
    return refusal([&] { read_rerank_request(body, served_); });
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = load_tokenizer(test_data("tiny_tokenizer/tokenizer.json"));
  ModelInfo info_;
  ServedEncoder served_;

 private:
  template <typename Read>
  static std::string refusal(const Read& read) {
    try {
      read();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_input);
      return error.what();
    }
    return "not refused";
  }
};

TEST_F(TextApi, InputsAreTextsOrIdsOneOrMany) {
  auto inputs = [&](const std::string& input) {
    std::vector<std::vector<int32_t>> ids;
    for (const TokenisedText& text : read_embedding_request(R"({"input": )" + input + "}", served_).texts) {
      ids.push_back(text.ids);
    }
    return ids;
  };
  std::vector<int32_t> text = tokenizer_->encode_pair("the fox").ids;
  EXPECT_THAT(inputs(R"("the fox")"), ElementsAre(text));
  EXPECT_THAT(inputs(R"(["the fox", [1, 159]])"), ElementsAre(text, std::vector<int32_t>{1, 159}));
  EXPECT_THAT(inputs("[7, 8]"), ElementsAre(std::vector<int32_t>{7, 8}));
  EXPECT_THAT(inputs("[[7], [8]]"), ElementsAre(std::vector<int32_t>{7}, std::vector<int32_t>{8}));
}

TEST_F(TextApi, LongTextsAreRefusedOrCut) {
  EXPECT_THAT(embedding_refusal(R"({"input": [[1], [1, 2, 3, 4, 5, 6, 7, 8, 9]]})"),
              HasSubstr("'input' 1 has 9 tokens, the model takes 8"));
  EXPECT_EQ(read_embedding_request(R"({"input": [1, 2, 3, 4, 5, 6, 7, 8, 9], "truncate": true})", served_).num_tokens,
            8);
  std::string words = R"("the fox the fox the fox the fox the fox")";
  EXPECT_THAT(embedding_refusal(R"({"input": )" + words + "}"), HasSubstr("the model takes 8"));
  EXPECT_EQ(read_embedding_request(R"({"truncate": true, "input": )" + words + "}", served_).num_tokens, 8);
  RerankRequest pairs = read_rerank_request(R"({"query": "fox", "documents": [)" + words + R"(, "the"]})", served_);
  EXPECT_EQ(pairs.pairs.at(0).ids.size(), 8u);
}

TEST_F(TextApi, RefusalsNameTheField) {
  EXPECT_THAT(embedding_refusal("[]"), HasSubstr("no JSON object"));
  EXPECT_THAT(embedding_refusal("{}"), HasSubstr("'input' is missing"));
  EXPECT_THAT(embedding_refusal(R"({"input": []})"), HasSubstr("'input' holds 0 texts"));
  EXPECT_THAT(embedding_refusal(R"({"input": [[]]})"), HasSubstr("'input' 0 has no tokens"));
  EXPECT_THAT(embedding_refusal(R"({"input": {"a": 1}})"), HasSubstr("'input' must be text"));
  EXPECT_THAT(embedding_refusal(R"({"input": [1, 160]})"), HasSubstr("token id 160"));
  EXPECT_THAT(embedding_refusal(R"({"input": [4294967297]})"), HasSubstr("'input' must be"));
  EXPECT_THAT(embedding_refusal(R"({"input": "a", "dimensions": 5})"), HasSubstr("'dimensions'"));
  EXPECT_THAT(embedding_refusal(R"({"input": "a", "encoding_format": "hex"})"), HasSubstr("'encoding_format'"));
  EXPECT_THAT(embedding_refusal(R"({"input": "a", "inputs": "b"})"), HasSubstr("unknown field 'inputs'"));
  EXPECT_THAT(rerank_refusal(R"({"documents": ["a"]})"), HasSubstr("'query' is missing"));
  EXPECT_THAT(rerank_refusal(R"({"query": ["a"], "documents": ["a"]})"), HasSubstr("'query' must be a string"));
  EXPECT_THAT(rerank_refusal(R"({"query": "a", "documents": []})"), HasSubstr("'documents'"));
  EXPECT_THAT(rerank_refusal(R"({"query": "a", "documents": [{"title": "b"}]})"), HasSubstr("'documents'"));
  EXPECT_THAT(rerank_refusal(R"({"query": "a", "documents": ["b"], "top_n": 0})"), HasSubstr("'top_n'"));
}

TEST_F(TextApi, VectorsAreNumbersOrBase64) {
  const std::vector<float> vectors = {0.1f, 0.2f, 0.2f, -0.5f, 3, 4, 0, 0};
  EmbeddingRequest request = read_embedding_request(R"({"input": [[1], [2, 3]], "model": "any"})", served_);
  json answer = embedding_answer(request, served_, vectors);
  EXPECT_EQ(answer.at("object"), "list");
  EXPECT_EQ(answer.at("model"), "tiny");
  EXPECT_EQ(answer.at("usage").dump(), R"({"prompt_tokens":3,"total_tokens":3})");
  EXPECT_EQ(answer.at("data").at(0).dump(), R"({"embedding":[0.1,0.2,0.2,-0.5],"index":0,"object":"embedding"})");
  request = read_embedding_request(R"({"input": [[1], [2, 3]], "encoding_format": "base64"})", served_);
  answer = embedding_answer(request, served_, vectors);
  std::string bytes = *decode_base64(answer.at("data").at(1).at("embedding").get<std::string>());
  std::vector<float> second(4);
  ASSERT_EQ(bytes.size(), 16u);
  std::memcpy(second.data(), bytes.data(), 16);
  EXPECT_THAT(second, ElementsAre(3, 4, 0, 0));
}

TEST_F(TextApi, ShorterVectorsHaveTheLengthOne) {
  const std::vector<float> vectors = {3, 4, 100, 100};
  EmbeddingRequest request = read_embedding_request(R"({"input": [1], "dimensions": 2})", served_);
  EXPECT_EQ(json(embedding_answer(request, served_, vectors)).at("data").at(0).at("embedding"), json({0.6, 0.8}));
}

TEST_F(TextApi, DocumentsComeByFallingScore) {
  RerankRequest request = read_rerank_request(
      R"({"query": "fox", "documents": ["the", {"text": "quick"}, "lazy"], "top_n": 2, "return_documents": true})",
      served_);
  ASSERT_EQ(request.pairs.size(), 3u);
  EXPECT_EQ(request.pairs[1].ids, tokenizer_->encode_pair("fox", "quick").ids);
  const std::vector<float> outputs = {-1, 2, 0};
  json results = json(rerank_answer(request, served_, outputs)).at("results");
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].at("index"), 1);
  EXPECT_NEAR(results[0].at("relevance_score").get<double>(), 0.880797, 1e-6);
  EXPECT_EQ(results[0].at("document").at("text"), "quick");
  EXPECT_EQ(results[1].at("index"), 2);
  EXPECT_EQ(results[1].at("relevance_score"), 0.5);
  served_.is_score_raw = true;
  EXPECT_EQ(json(rerank_answer(request, served_, outputs)).at("results").at(0).at("relevance_score"), 2);
}

TEST(Base64, GoesThereAndBack) {
  EXPECT_EQ(encode_base64(""), "");
  EXPECT_EQ(encode_base64("f"), "Zg==");
  EXPECT_EQ(encode_base64("fo"), "Zm8=");
  EXPECT_EQ(encode_base64("foobar"), "Zm9vYmFy");
  std::string bytes;
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(decode_base64(encode_base64(bytes)), bytes);
    bytes.push_back(static_cast<char>(i * 77));
  }
}

}  // namespace
}  // namespace weft
