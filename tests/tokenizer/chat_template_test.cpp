#include "tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const std::vector<ChatMessage> kConversation = {{"user", "Hi there"}, {"assistant", "Hello"}, {"user", "Bye"}};

std::vector<int32_t> chat_ids(const Tokenizer& tokenizer, std::string_view format) {
  return tokenizer.encode(render_chat(tokenizer, kConversation, true, format), false);
}

TEST(ChatTemplate, SmolLM2RendersAsItsOwnTemplateDoes) {
  const auto cases = json::parse(test::read_file(test::tokenizer_data("smollm2/chat_cases.json")));
  ASSERT_EQ(cases.size(), 4);
  for (const json& example : cases) {
    std::vector<ChatMessage> messages;
    for (const json& message : example["messages"]) messages.push_back({message["role"], message["content"]});
    const std::string text = render_chat(test::smollm2_tokenizer(), messages, example["add_generation_prompt"]);
    EXPECT_EQ(text, example["text"].get<std::string>());
    EXPECT_EQ(test::smollm2_tokenizer().encode(text, false), example["ids"].get<std::vector<int32_t>>());
  }
}

TEST(ChatTemplate, GemmaGivesTheReferenceIds) {
  EXPECT_THAT(chat_ids(test::gemma_tokenizer(), "gemma"),
              ElementsAre(2,
                          106,
                          1645,
                          108,
                          2151,
                          1104,
                          107,
                          108,
                          106,
                          2516,
                          108,
                          4521,
                          107,
                          108,
                          106,
                          1645,
                          108,
                          38620,
                          107,
                          108,
                          106,
                          2516,
                          108));
}

TEST(ChatTemplate, Llama3GivesTheReferenceIds) {
  EXPECT_THAT(chat_ids(test::llama3_tokenizer(), "llama3"),
              ElementsAre(128000,
                          128006,
                          882,
                          128007,
                          271,
                          13347,
                          1070,
                          128009,
                          128006,
                          78191,
                          128007,
                          271,
                          9906,
                          128009,
                          128006,
                          882,
                          128007,
                          271,
                          1383,
                          68,
                          128009,
                          128006,
                          78191,
                          128007,
                          271));
}

TEST(ChatTemplate, GemmaHasNoSystemRoleAndTakesTurns) {
  const std::vector<ChatMessage> with_system = {{"system", "Be brief."}, {"user", "Hi"}};
  const std::vector<ChatMessage> twice = {{"user", "Hi"}, {"user", "Hi"}};
  EXPECT_THAT([&] { render_chat(test::gemma_tokenizer(), with_system, true, "gemma"); },
              ThrowsMessage<Error>(HasSubstr("no system role")));
  EXPECT_THAT([&] { render_chat(test::gemma_tokenizer(), twice, true, "gemma"); },
              ThrowsMessage<Error>(HasSubstr("message 2 has role 'user', expected 'assistant'")));
}

TEST(ChatTemplate, UnknownFormatsAreNamedWithTheKnownOnes) {
  EXPECT_THAT([] { render_chat(test::llama3_tokenizer(), kConversation, true, "alpaca"); },
              ThrowsMessage<Error>(
                  HasSubstr("--chat-format alpaca: no such format; known are llama3.1, llama3, chatml, gemma")));
  EXPECT_THAT([] { render_chat(test::llama3_tokenizer(), kConversation, true); },
              ThrowsMessage<Error>(AllOf(HasSubstr("without a chat template"), HasSubstr("--chat-format"))));
  EXPECT_THAT([] { check_chat_format(test::llama3_tokenizer(), "chatml"); },
              ThrowsMessage<Error>(HasSubstr("vocabulary lacks <|im_start|>, <|im_end|>;")));
  check_chat_format(test::llama3_tokenizer(), "llama3.1");
}

// A small vocabulary with the real templates beside it: what a template is recognised by, and what it adds.
class TemplateFolder : public ::testing::Test {
 protected:
  static std::string render(const std::string& chat_template, const std::vector<ChatMessage>& messages) {
    const json tokenizer = {{"added_tokens", {{{"id", 1}, {"content", "<bos>"}, {"special", true}}}},
                            {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", json::array()}}}};
    const std::string path = test::write_file("template/tokenizer.json", tokenizer.dump());
    test::write_file("template/tokenizer_config.json",
                     json{{"bos_token", "<bos>"}, {"chat_template", chat_template}}.dump());
    return render_chat(*load_tokenizer(path), messages, true);
  }
};

TEST_F(TemplateFolder, QwenAddsTheSystemTextThatItsTemplateWritesOut) {
  const std::string qwen =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
      "'<|im_start|>system\\nYou are a "
      "helpful assistant.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
      "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  EXPECT_EQ(render(qwen, {{"user", " Hi "}}),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n Hi "
            "<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render(qwen, {{"system", "S"}, {"user", "Hi"}}),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(TemplateFolder, YiAddsNoSystemText) {
  const std::string yi =
      "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% for message "
      "in messages "
      "%}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if "
      "add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  EXPECT_EQ(render(yi, {{"user", "Hi"}}), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(TemplateFolder, Llama31AlwaysHasASystemBlock) {
  const std::string llama31 =
      "… '<|start_header_id|>system<|end_header_id|>' … 'Cutting Knowledge Date: December 2023' …";
  EXPECT_EQ(
      render(llama31, {{"system", " S "}, {"user", "Hi"}}),
      "<bos><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul "
      "2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_"
      "header_"
      "id|>\n\n");
}

TEST_F(TemplateFolder, AnUnknownTemplateIsAnError) {
  EXPECT_THAT(
      [] {
        render("{{ messages[0]['content'] }}", {{"user", "Hi"}});
      },
      ThrowsMessage<Error>(HasSubstr("of no format that Weft knows")));
}

}  // namespace
}  // namespace weft
