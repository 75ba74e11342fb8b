// The built server and HTTP clients.
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "serve/server_process.h"

namespace {

using nlohmann::json;
using testing::HasSubstr;
using weft::testing::Outcome;

class ServeCommand : public weft::testing::ServerProcess<weft::testing::TinyLlamaTest> {
 protected:
  void start(const std::string& arguments, const std::string& launch = "", const std::string& environment = "") {
    start_model("tiny_llama", arguments, launch, environment);
  }
};

TEST_F(ServeCommand, AnswersAsGenerateDoesToManyClientsAtATime) {
  const std::vector<std::string> prompts = {"the fox", "The lazy dog", "quick", "brown fox jumps"};
  std::vector<std::string> expected;
  for (const std::string& prompt : prompts) {
    Outcome outcome =
        weft(fmt::format("generate --model tiny_llama --dtype f32 --quiet --json --max-new-tokens 24 '{}'", prompt));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    expected.push_back(json::parse(outcome.out).at("text"));
  }
  start("--batch 3");
  std::vector<std::thread> clients;
  for (size_t i = 0; i < prompts.size(); ++i) {
    clients.emplace_back([&, i] {
      for (int round = 0; round < 3; ++round) {
        json answer = post("/v1/completions", {{"prompt", prompts[i]}, {"temperature", 0}, {"max_tokens", 24}});
        EXPECT_EQ(answer.at("choices").at(0).at("text"), expected[i]);
      }
    });
  }
  for (std::thread& thread : clients) thread.join();
  json both = post("/v1/completions", {{"prompt", prompts}, {"temperature", 0}, {"max_tokens", 24}});
  for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(both.at("choices").at(i).at("text"), expected[i]);
  auto metrics = client().Get("/metrics");
  ASSERT_TRUE(metrics);
  EXPECT_THAT(metrics->body, HasSubstr("weft_answers_finished_total 16"));
  EXPECT_EQ(stop(SIGTERM), 0);
}

TEST_F(ServeCommand, StreamsWhatItWouldAnswerWhole) {
  start("--name tiny");
  json body = {{"messages", {{{"role", "user"}, {"content", "the fox"}}}}, {"seed", 4}, {"max_tokens", 16}, {"n", 2}};
  json whole = post("/v1/chat/completions", body);
  EXPECT_EQ(whole.at("model"), "tiny");
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  std::string events;
  httplib::Client http = client();
  httplib::Request request;
  request.method = "POST";
  request.path = "/v1/chat/completions";
  request.body = body.dump();
  request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
    events.append(data, size);
    return true;
  };
  auto response = http.send(request);
  ASSERT_TRUE(response);
  EXPECT_THAT(response->get_header_value("Content-Type"), HasSubstr("text/event-stream"));
  std::string texts[2], reasons[2];
  json usage;
  std::istringstream lines(events);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    ASSERT_TRUE(line.starts_with("data: ")) << line;
    last = line.substr(6);
    if (last == "[DONE]") break;
    json object = json::parse(last);
    if (object.contains("usage")) usage = object["usage"];
    for (const json& choice : object.at("choices")) {
      auto index = choice.at("index").get<size_t>();
      texts[index] += choice.at("delta").value("content", "");
      if (!choice.at("finish_reason").is_null()) reasons[index] = choice["finish_reason"];
    }
  }
  EXPECT_EQ(last, "[DONE]");
  EXPECT_EQ(usage, whole.at("usage"));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(texts[i], whole.at("choices").at(i).at("message").at("content"));
    EXPECT_EQ(reasons[i], whole.at("choices").at(i).at("finish_reason"));
  }
}

TEST_F(ServeCommand, RefusesWithAMessageAndGoesOn) {
  start("--context 32", "", "WEFT_API_KEY=secret");
  httplib::Client http = client();
  EXPECT_EQ(http.Get("/health")->status, 200);
  EXPECT_EQ(http.Get("/v1/models")->status, 401);
  http.set_default_headers({{"Authorization", "Bearer secret"}});
  EXPECT_THAT(http.Get("/v1/models")->body, HasSubstr("tiny_llama"));
  EXPECT_EQ(http.Get("/v2/models")->status, 404);
  auto status_of = [&](const json& body) {
    auto response = http.Post("/v1/completions", body.dump(), "application/json");
    EXPECT_NE(json::parse(response->body).value("error", json(nullptr)).is_null(), response->status != 200);
    return response->status;
  };
  EXPECT_EQ(status_of({{"prompt", "the fox"}, {"no_such_field", 1}}), 400);
  EXPECT_EQ(status_of({{"prompt", {1, 9999}}}), 400);
  EXPECT_EQ(status_of({{"prompt", std::vector<int>(40, 1)}}), 400);
  EXPECT_EQ(status_of({{"prompt", {1, 2}}, {"max_tokens", 5}}), 200);
}

TEST_F(ServeCommand, TwoRanksAnswerAsOne) {
  json body = {{"prompt", "the fox"}, {"seed", 4}, {"max_tokens", 20}, {"stop", {"zzz"}}, {"logprobs", 1}};
  start("");
  json alone = post("/v1/completions", body).at("choices");
  EXPECT_EQ(stop(SIGINT), 0);
  start("", "launch -n 2 --");
  EXPECT_EQ(post("/v1/completions", body).at("choices").at(0).at("text"), alone.at(0).at("text"));
  EXPECT_EQ(stop(SIGINT), 0);
}

TEST_F(ServeCommand, APortThatIsTakenIsSaidBeforeTheModelIsLoaded) {
  start("");
  Outcome outcome = weft(fmt::format("serve --model no_such_model --port {}", port_));
  expect_one_line_error(outcome, 3, HasSubstr(std::to_string(port_)));
}

}  // namespace
