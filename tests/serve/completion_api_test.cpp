#include "serve/completion_api.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "core/random.h"
#include "support/paths.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class CompletionApi : public testing::Test {
 protected:
  CompletionApi() {
    info_.vocab_size = 160;
    info_.attention = AttentionPattern::causal;
    model_ = {.name = "tiny",
              .info = &info_,
              .tokenizer = tokenizer_.get(),
              .chat_format = {},
              .context = 64,
              .max_new_tokens = 20,
              .end_ids = {1, 2},
              .chat_end_ids = {2}};
  }

  CompletionRequest read(CompletionKind kind, const std::string& body) const {
    return read_completion_request(kind, body, model_);
  }
  CompletionRequest completion(const std::string& more) const {
    return read(CompletionKind::completion, R"({"prompt": [5, 6])" + more + "}");
  }
  std::string refusal(CompletionKind kind, const std::string& body) const {
    try {
      read(kind, body);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_input);
      return error.what();
    }
    return "not refused: " + body;
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = load_tokenizer(test_data("tiny_tokenizer/tokenizer.json"));
  ModelInfo info_;
  ServedModel model_;
};

TEST_F(CompletionApi, DefaultsAreThoseOfTheApi) {
  CompletionRequest read = completion("");
  ASSERT_EQ(read.requests.size(), 1u);
  const GenerationRequest& request = read.requests[0];
  EXPECT_THAT(request.prompt, ElementsAre(5, 6));
  EXPECT_FALSE(request.sampling.greedy);
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_EQ(request.max_new_tokens, 20);
  EXPECT_THAT(request.end_ids, ElementsAre(1, 2));
  EXPECT_EQ(request.num_logprobs, -1);
  EXPECT_FALSE(read.is_streamed);
  EXPECT_NE(request.sampling.seed, completion("").requests[0].sampling.seed) << "another answer each time";
}

TEST_F(CompletionApi, ReadsEveryField) {
  CompletionRequest read = completion(
      R"(, "n": 2, "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.5, "seed": 7,
         "stop": ["a", "b"], "max_tokens": 1000, "min_tokens": 3, "logprobs": 4, "stream": true,
         "stream_options": {"include_usage": true}, "ignore_eos": true, "stop_token_ids": [9], "user": "me",
         "presence_penalty": 0.5, "frequency_penalty": -1, "logit_bias": {"7": -100, "3": 1.5}, "echo": false, "best_of": 1)");
  ASSERT_EQ(read.requests.size(), 2u);
  const GenerationRequest& request = read.requests[1];
  EXPECT_TRUE(request.sampling.greedy);
  EXPECT_EQ(request.sampling.top_p, 0.5);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.min_p, 0.1);
  EXPECT_EQ(request.sampling.penalty, 1.5);
  EXPECT_EQ(request.sampling.presence_penalty, 0.5);
  EXPECT_EQ(request.sampling.frequency_penalty, -1);
  EXPECT_THAT(request.sampling.logit_bias, ElementsAre(std::pair{3, 1.5}, std::pair{7, -100.0}));
  EXPECT_EQ(request.sampling.seed, 7u);
  EXPECT_EQ(request.sequence, 1u);
  EXPECT_THAT(request.stop_strings, ElementsAre("a", "b"));
  EXPECT_EQ(request.max_new_tokens, 62) << "what the context leaves";
  EXPECT_EQ(request.min_new_tokens, 3);
  EXPECT_THAT(request.end_ids, ElementsAre(9));
  EXPECT_EQ(request.num_logprobs, 4);
  EXPECT_TRUE(read.is_streamed);
  EXPECT_TRUE(read.includes_usage);
}

TEST_F(CompletionApi, PromptsAreTextsOrIdsOneOrMany) {
  auto prompts = [&](const std::string& prompt) {
    std::vector<std::vector<int32_t>> ids;
    for (const GenerationRequest& request : read(CompletionKind::completion, R"({"prompt": )" + prompt + "}").requests)
      ids.push_back(request.prompt);
    return ids;
  };
  std::vector<int32_t> text = tokenizer_->encode("the fox", true);
  EXPECT_THAT(prompts(R"("the fox")"), ElementsAre(text));
  EXPECT_THAT(prompts(R"(["the fox", [3, 4]])"), ElementsAre(text, std::vector<int32_t>{3, 4}));
  EXPECT_THAT(prompts("[3, 4]"), ElementsAre(std::vector<int32_t>{3, 4}));
}

TEST_F(CompletionApi, AConversationIsRenderedInTheModelsFormat) {
  auto ids = [&](const std::string& messages) {
    return read(CompletionKind::chat, R"({"messages": )" + messages + "}").requests.at(0).prompt;
  };
  auto text = tokenizer_->decode(ids(R"([{"role": "developer", "content": "the"},
                                         {"role": "user", "content": [{"type": "text", "text": "fox"}]}])"),
                                 false);
  EXPECT_THAT(text, testing::AllOf(HasSubstr("system"), HasSubstr("fox"), HasSubstr("assistant")));
}

TEST_F(CompletionApi, WhatCannotBeUsedIsNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"nonsense", "no JSON"},
      {"[1]", "no JSON object"},
      {"{}", "'prompt' is missing"},
      {R"({"prompt": {}})", "'prompt' must be text"},
      {R"({"prompt": [1, "a"]})", "'prompt' must be text"},
      {R"({"prompt": "a", "frob": 1})", "unknown field 'frob'"},
      {R"({"prompt": "a", "temperature": "hot"})", "'temperature' must be a number from 0"},
      {R"({"prompt": "a", "top_p": 2})", "'top_p'"},
      {R"({"prompt": "a", "n": 0})", "'n' must be an integer from 1"},
      {R"({"prompt": "a", "n": 1.5})", "'n' must be an integer"},
      {R"({"prompt": "a", "stop": 5})", "'stop'"},
      {R"({"prompt": "a", "stream": 1})", "'stream' must be true or false"},
      {R"({"prompt": "a", "max_tokens": 0})", "'max_tokens'"},
      {R"({"prompt": "a", "presence_penalty": 500})", "'presence_penalty' must be a number from -100"},
      {R"({"prompt": "a", "logit_bias": {"160": 1}})", "'logit_bias' must be an object of token ids, 0 to 159"},
      {R"({"prompt": "a", "logit_bias": [1]})", "'logit_bias'"},
      {R"({"prompt": "a", "echo": true})", "'echo' is not supported"},
      {R"({"prompt": "a", "stop_token_ids": "x"})", "'stop_token_ids' must be"},
  };
  for (const auto& [body, message] : cases) {
    EXPECT_THAT(refusal(CompletionKind::completion, body), HasSubstr(message)) << body;
  }
  std::string ids = "[1";
  for (int i = 0; i < 63; ++i) ids += ",1";
  EXPECT_THAT(refusal(CompletionKind::completion, R"({"prompt": )" + ids + "]}"), HasSubstr("context is 64"));
  EXPECT_THAT(refusal(CompletionKind::chat, R"({"messages": []})"), HasSubstr("'messages'"));
  EXPECT_THAT(refusal(CompletionKind::chat, R"({"messages": [{"role": "user"}]})"), HasSubstr("'content'"));
  EXPECT_THAT(refusal(CompletionKind::chat, R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})"),
              HasSubstr("must be text"));
  EXPECT_THAT(refusal(CompletionKind::chat, R"({"messages": [{"role": "user", "content": "a"}], "tools": [{}]})"),
              HasSubstr("'tools' is not supported"));
}

/// Whatever a client sends, it is read or refused.
TEST_F(CompletionApi, AnyBodyIsReadOrRefused) {
  const std::string bodies[] = {
      R"({"prompt": ["the fox", [1, 2]], "n": 2, "temperature": 0.5, "stop": ["a"], "logprobs": 1, "stream": true})",
      R"({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "y"}]}],)"
      R"( "logprobs": true, "top_logprobs": 2, "seed": -3, "stop_token_ids": [7], "logit_bias": {"5": 1e2}})"};
  constexpr std::string_view kPieces[] = {
      "null", "-1", "1e999", "\"", "{}", "[]", ",", ":", "9223372036854775808", "\xff"};
  RandomKey key{.seed = 5};
  size_t num_read = 0;
  for (uint64_t round = 0; round < 20000; ++round) {
    std::string body = bodies[round % 2];
    for (uint64_t change = 0; change <= key.bits(4 * round) % 3; ++change) {
      uint64_t bits = key.bits(4 * round + 1 + change);
      std::string_view piece = kPieces[(bits >> 24) % std::size(kPieces)];
      body.replace(bits % body.size(), (bits >> 16) % 6, piece);
    }
    try {
      read(round % 2 == 0 ? CompletionKind::completion : CompletionKind::chat, body);
      ++num_read;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::bad_input) << body;
    }
  }
  EXPECT_GT(num_read, 100u);
}

GenerationResult result_of(std::string text, std::vector<int32_t> ids, FinishReason reason) {
  GenerationResult result;
  result.ids = std::move(ids);
  result.text = std::move(text);
  result.finish_reason = reason;
  result.prompt_tokens = 2;
  return result;
}

TEST_F(CompletionApi, AWholeAnswerHasAllChoicesAndCountsAPromptOnce) {
  CompletionRequest request = completion(R"(, "n": 2)");
  CompletionAnswer answer(request, model_, "cmpl-1", 99);
  json object =
      answer.whole({result_of("one", {5, 6, 2}, FinishReason::end), result_of("two", {7}, FinishReason::length)});
  EXPECT_EQ(object["object"], "text_completion");
  EXPECT_EQ(object["id"], "cmpl-1");
  EXPECT_EQ(object["model"], "tiny");
  EXPECT_EQ(object["choices"][0]["text"], "one");
  EXPECT_EQ(object["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(object["choices"][1]["index"], 1);
  EXPECT_EQ(object["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(object["usage"], json::parse(R"({"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6})"));
}

TEST_F(CompletionApi, ChunksOfAConversationCarryWhatIsNew) {
  CompletionRequest request = read(
      CompletionKind::chat, R"({"messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 1})");
  EXPECT_EQ(request.requests[0].num_logprobs, 1);
  CompletionAnswer answer(request, model_, "chatcmpl-1", 99);
  EXPECT_EQ(answer.first_chunk(0)["choices"][0]["delta"]["role"], "assistant");
  AnswerStream::Part part;
  EXPECT_TRUE(answer.chunk(0, part).is_null());
  part.tokens.push_back({.id = 9, .text = "x", .logprobs = TokenLogprobs{.logprob = -0.5F, .top = {{9, -0.5F}}}});
  json chunk = answer.chunk(0, part);
  EXPECT_EQ(chunk["object"], "chat.completion.chunk");
  EXPECT_EQ(chunk["choices"][0]["delta"], json::parse(R"({"content": "x"})"));
  EXPECT_EQ(chunk["choices"][0]["finish_reason"], nullptr);
  json described = chunk["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(described["logprob"], -0.5);
  EXPECT_EQ(described["token"], described["top_logprobs"][0]["token"]);
  AnswerStream::Part last;
  last.result = result_of("x", {9}, FinishReason::stop);
  EXPECT_EQ(answer.chunk(0, last)["choices"][0]["finish_reason"], "stop");
  EXPECT_THAT(answer.usage_chunk({*last.result})["choices"], IsEmpty());
}

}  // namespace
}  // namespace weft
