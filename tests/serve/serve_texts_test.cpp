// The built server of an encoder, and HTTP clients.
#include <csignal>
#include <thread>

#include "launcher/small_encoders.h"
#include "serve/server_process.h"

namespace {

using nlohmann::json;
using testing::HasSubstr;
using weft::testing::Outcome;

class ServeTexts : public weft::testing::ServerProcess<weft::EncoderCommands> {
 protected:
  void SetUp() override {
    ServerProcess::SetUp();
    make_model("bert", "hf/bert");
    make_model("reranker", "hf/xlm_roberta_reranker");
  }

  /// What a command prints of texts, a line of JSON each.
  std::vector<json> printed(const std::string& command, const std::vector<std::string>& texts) const {
    std::ofstream(folder_ / "texts.txt") << fmt::format("{}\n", fmt::join(texts, "\n"));
    Outcome outcome = weft(command + " --dtype f32 --quiet --text texts.txt");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    std::vector<json> lines;
    std::istringstream stream(outcome.out);
    for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
    EXPECT_EQ(lines.size(), texts.size());
    return lines;
  }

  static void expect_near(const json& actual, const json& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(actual[i].get<double>(), expected[i].get<double>(), 2e-6);
    }
  }
};

TEST_F(ServeTexts, AnswersAsEncodeDoesToManyClientsAtATime) {
  const std::vector<std::string> texts = {"the quick fox", "foxes . w99", "w20 w30 w40 w50 w60 w70", "w11"};
  std::vector<json> expected = printed("encode --model bert", texts);
  start_model("bert", "--prefill-chunk 16");
  std::vector<std::thread> clients;
  for (size_t i = 0; i < texts.size(); ++i) {
    clients.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        json answer = post("/v1/embeddings", {{"input", texts[i]}});
        expect_near(answer.at("data").at(0).at("embedding"), expected[i]);
      }
    });
  }
  for (std::thread& thread : clients) thread.join();
  json all = post("/v1/embeddings", {{"input", texts}, {"model", "any"}, {"encoding_format", "float"}});
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(all.at("data").at(i).at("index"), i);
    expect_near(all.at("data").at(i).at("embedding"), expected[i]);
  }
  EXPECT_EQ(all.at("model"), "bert");
  auto metrics = client().Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_THAT(metrics->body, HasSubstr("weft_texts_total 24"));
  EXPECT_EQ(stop(SIGTERM), 0);
}

TEST_F(ServeTexts, RefusesWithAMessageAndGoesOn) {
  start_model("bert", "--context 6 --pooling cls");
  auto message = [&](const std::string& path, const json& body, int status) {
    return post(path, body, status).at("error").at("message").get<std::string>();
  };
  EXPECT_THAT(message("/v1/embeddings", {{"input", "the the the the the the"}}, 400), HasSubstr("the model takes 6"));
  EXPECT_THAT(message("/v1/embeddings", {{"inputs", "the"}}, 400), HasSubstr("'input' is missing"));
  message("/v1/rerank", {{"query", "the"}, {"documents", {"fox"}}}, 404);
  message("/v1/completions", {{"prompt", "the"}}, 404);
  json cut = post("/v1/embeddings", {{"input", "the the the the the the"}, {"truncate", true}});
  expect_near(cut.at("data").at(0).at("embedding"),
              printed("encode --model bert --pooling cls", {"the the the the"})[0]);
}

TEST_F(ServeTexts, RanksThatShareTheWeightsAnswerAsOne) {
  json body = {{"input", {"the quick fox", "w40 w50"}}};
  start_model("bert", "");
  json alone = post("/v1/embeddings", body);
  EXPECT_EQ(stop(SIGINT), 0);
  start_model("bert", "", "launch -n 2 --");
  for (int round = 0; round < 3; ++round) {
    json together = post("/v1/embeddings", body);
    EXPECT_EQ(together.at("usage"), alone.at("usage"));
    for (size_t i : {0, 1}) {
      expect_near(together.at("data").at(i).at("embedding"), alone.at("data").at(i).at("embedding"));
    }
  }
  EXPECT_EQ(stop(SIGINT), 0);
}

TEST_F(ServeTexts, ARerankerScoresDocumentsAsClassifyDoes) {
  const std::vector<std::string> documents = {"w10 w11", "w20", "the fox", "w30 w31 w32"};
  std::vector<std::string> pairs;
  pairs.reserve(documents.size());
  for (const std::string& document : documents) pairs.push_back("quick\t" + document);
  std::vector<json> expected = printed("classify --json --model reranker", pairs);
  start_model("reranker", "");
  json answer = post("/v1/rerank", {{"query", "quick"}, {"documents", documents}, {"return_documents", true}});
  ASSERT_EQ(answer.at("results").size(), documents.size());
  double before = 1;
  for (const json& result : answer.at("results")) {
    auto index = result.at("index").get<size_t>();
    EXPECT_EQ(result.at("document").at("text"), documents[index]);
    double score = result.at("relevance_score");
    EXPECT_NEAR(score, expected[index].at("score").get<double>(), 1e-6);
    EXPECT_LE(score, before);
    before = score;
  }
  EXPECT_EQ(
      post("/v1/rerank", {{"query", "quick"}, {"documents", documents}, {"top_n", 1}}).at("results").at(0).at("index"),
      answer.at("results").at(0).at("index"));
}

TEST_F(ServeTexts, ADecoderAnswersWithVectorsWhenAskedTo) {
  make_model("llama", "hf/llama_gqa");
  std::filesystem::remove(folder_ / "llama/vocab.txt");
  std::filesystem::copy(weft::kData / "tiny_tokenizer/tokenizer.json", folder_ / "llama/tokenizer.json");
  start_model("llama", "--embeddings --pooling last");
  json answer = post("/v1/embeddings", {{"input", "the fox"}});
  expect_near(answer.at("data").at(0).at("embedding"), printed("encode --model llama --pooling last", {"the fox"})[0]);
}

}  // namespace
