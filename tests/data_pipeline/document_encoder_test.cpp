#include "data/document_encoder.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/text_units.h"
#include "data/tokenizer_fingerprint.h"
#include "data_pipeline/token_files.h"
#include "support/paths.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

/// Without taking possession of it.
std::shared_ptr<const Tokenizer> borrow(const Tokenizer& tokenizer) {
  return {std::shared_ptr<void>(), &tokenizer};
}

std::shared_ptr<const Tokenizer> tiny_tokenizer() {
  static const auto tokenizer = load_tokenizer(test_data("tiny_tokenizer"));
  return tokenizer;
}

std::vector<int> mask_of(const TokenDocument& document) {
  std::vector<int> mask(document.ids.size());
  for (const LossSpan& span : document.loss_spans) {
    std::fill(mask.begin() + static_cast<std::ptrdiff_t>(span.begin),
              mask.begin() + static_cast<std::ptrdiff_t>(span.end),
              1);
  }
  return mask;
}

/// The text that is learned, span by span.
std::vector<std::string> learned(const Tokenizer& tokenizer, const TokenDocument& document) {
  std::vector<std::string> texts;
  for (const LossSpan& span : document.loss_spans) {
    texts.push_back(tokenizer.decode(std::span(document.ids).subspan(span.begin, span.end - span.begin), false));
  }
  return texts;
}

TEST(DocumentEncoder, ConversationsAreThoseOfTransformersWithTheAnswersMasked) {
  const std::map<std::string, const Tokenizer*> tokenizers = {{"smollm2", &test::smollm2_tokenizer()},
                                                              {"llama3_1", &test::llama3_tokenizer()},
                                                              {"gemini", &test::gemma_tokenizer()}};
  std::istringstream lines(test::file_bytes(test_data("data_pipeline/chat_golden.jsonl")));
  int num_cases = 0;
  for (std::string line; std::getline(lines, line); ++num_cases) {
    const json row = json::parse(line);
    const DocumentEncoder encoder(borrow(*tokenizers.at(row["tokenizer"])), {.chat_format = row["format"]});
    if (row["mask"].get<std::vector<int>>() == std::vector<int>(row["ids"].size())) {
      EXPECT_THROW(encoder.encode(parse_training_document(line)), Error);
      continue;
    }
    const TokenDocument document = encoder.encode(parse_training_document(line));
    EXPECT_EQ(document.ids, row["ids"].get<std::vector<int32_t>>()) << line;
    EXPECT_EQ(mask_of(document), row["mask"].get<std::vector<int>>()) << line;
  }
  EXPECT_EQ(num_cases, 13);
}

TEST(DocumentEncoder, AnAnswerIsLearnedWithItsEndTokenAndNothingElse) {
  const DocumentEncoder encoder(tiny_tokenizer(), {});
  const TokenDocument document = encoder.encode_chat(
      {{"system", "the fox"}, {"user", "quick"}, {"assistant", "brown <|im_end|> dog"}, {"user", "a"}});
  EXPECT_EQ(tiny_tokenizer()->decode(document.ids, false),
            "<|im_start|>system\nthe fox<|im_end|>\n<|im_start|>user\nquick<|im_end|>\n"
            "<|im_start|>assistant\nbrown <|im_end|> dog<|im_end|>\n<|im_start|>user\na<|im_end|>\n");
  EXPECT_THAT(learned(*tiny_tokenizer(), document), ElementsAre("brown <|im_end|> dog<|im_end|>"));
}

TEST(DocumentEncoder, ACompletionIsLearnedWithItsEndToken) {
  const DocumentEncoder encoder(tiny_tokenizer(), {});
  const TokenDocument document = encoder.encode_completion("the quick ", "brown fox");
  EXPECT_EQ(tiny_tokenizer()->decode(document.ids, false), "<s>the quick brown fox<|im_end|>");
  // " brown" is one token, which the prompt alone doesn't have.
  EXPECT_THAT(learned(*tiny_tokenizer(), document), ElementsAre(" brown fox<|im_end|>"));
  EXPECT_THAT(learned(*tiny_tokenizer(), encoder.encode_completion("the", " dog")), ElementsAre(" dog<|im_end|>"));
  EXPECT_THAT(learned(*tiny_tokenizer(), encoder.encode_completion("the", "")), ElementsAre("<|im_end|>"));
  const DocumentEncoder bare(tiny_tokenizer(), {.special_tokens = false, .end_token = false});
  EXPECT_EQ(tiny_tokenizer()->decode(bare.encode_completion("the", " dog").ids, false), "the dog");
  EXPECT_THAT([&] { bare.encode_completion("the", ""); }, ThrowsMessage<Error>(HasSubstr("without tokens")));
}

TEST(DocumentEncoder, TextsGetWhatTheTokenizerPutsAroundThem) {
  const auto text_of = [](const DocumentEncoderOptions& options) {
    return tiny_tokenizer()->decode(DocumentEncoder(tiny_tokenizer(), options).encode_text("the fox").ids, false);
  };
  EXPECT_EQ(text_of({}), "<s>the fox<|im_end|>");
  EXPECT_EQ(text_of({.end_token = false}), "<s>the fox");
  EXPECT_EQ(text_of({.special_tokens = false}), "the fox<|im_end|>");
  EXPECT_EQ(text_of({.end_token_text = "</s>"}), "<s>the fox</s>");
  EXPECT_THAT([&] { text_of({.end_token_text = "<eot>"}); },
              ThrowsMessage<Error>(HasSubstr("end token '<eot>' is not in the vocabulary")));
  EXPECT_TRUE(DocumentEncoder(tiny_tokenizer(), {}).encode_text("").ids.empty());
}

TEST(DocumentEncoder, BadLinesSayWhatIsWrong) {
  const DocumentEncoder encoder(borrow(test::gemma_tokenizer()), {.chat_format = "gemma"});
  const std::vector<std::pair<std::string, std::string>> table = {
      {"", "not JSON at byte"},
      {"{", "not JSON at byte"},
      {R"({"text": "a"} x)", "not JSON at byte"},
      {"{\"text\": \"\xFF\"}", "not JSON at byte"},
      {"17", "found a number"},
      {"\"text\"", "found a string"},
      {"[]", "found a list"},
      {"{}", "found none of them"},
      {R"({"content": "a"})", "found none of them"},
      {R"({"text": 1})", "\"text\" is a number, expected a string"},
      {R"({"text": null})", "\"text\" is null, expected a string"},
      {R"({"text": {"a": "b"}})", "\"text\" is an object, expected a string"},
      {R"({"text": ["a"]})", "\"text\" is a list, expected a string"},
      {R"({"text": "a", "prompt": "b", "completion": "c"})", "found more than one of them"},
      {R"({"prompt": "b"})", "a \"prompt\" without \"completion\""},
      {R"({"completion": "b"})", "a \"completion\" without \"prompt\""},
      {R"({"messages": "hi"})", "\"messages\" is a string, expected a list"},
      {R"({"messages": {"role": "user"}})", "\"messages\" is an object, expected a list"},
      {R"({"messages": []})", "found none of them"},
      {R"({"messages": ["hi"]})", "message 1 is a string, expected an object"},
      {R"({"messages": [[]]})", "message 1 is a list, expected an object"},
      {R"({"messages": [{"role": "user"}]})", "message 1 has no content"},
      {R"({"messages": [{"content": "user"}]})", "message 1 has no role"},
      {R"({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": 2}]})",
       "message 2: content is a number, expected a string"},
      {R"({"messages": [{"role": "user", "content": ["a"]}]})", "message 1: content is a list, expected a string"},
      {R"({"messages": [{"role": "user", "content": "a"}]})", "a conversation without an answer"},
      {R"({"messages": [{"role": "system", "content": "a"}]})", "no system role"},
      {R"({"messages": [{"role": "user", "content": "a"}, {"role": "usr", "content": "a"}]})",
       "message 2 has role 'usr', expected system, user, assistant or tool"},
      {R"({"messages": [{"role": "assistant", "content": "a"}]})", "expected 'user'"},
      {R"({"question": "a", "answer": "b"})", "found none of them but question, answer"},
      {R"({"conversations": "hi"})", "\"conversations\" is a string, expected a list"},
      {R"({"conversations": [{"from": "human"}]})", "message 1 has no value"},
      {R"({"conversations": [{"value": "a"}]})", "message 1 has no from"},
      {R"({"conversations": [{"from": "human", "value": 1}]})", "message 1: value is a number, expected a string"},
      {R"({"conversations": [{"from": "alien", "value": "a"}]})", "message 1 has \"from\" 'alien', expected human"},
      {R"({"messages": [{"from": "human", "value": "a"}]})", "message 1 has role 'human', expected system"},
      {R"({"instruction": "a"})", "an \"instruction\" without \"output\""},
      {R"({"output": "a"})", "an \"output\" without \"instruction\""},
      {R"({"instruction": "a", "output": 3})", "\"output\" is a number, expected a string"},
      {R"({"instruction": "a", "input": ["b"], "output": "c"})", "\"input\" is a list, expected a string"},
      {R"({"instruction": "a", "output": "c", "history": [["d", "e"]]})", "\"history\" is not read"},
      {R"({"instruction": "a", "output": "c", "prompt": "d", "completion": "e"})", "found more than one of them"},
  };
  for (const auto& [line, message] : table) {
    const auto encode = [&, &text = line] { encoder.encode(parse_training_document(text)); };
    EXPECT_THAT(encode, ThrowsMessage<Error>(testing::AllOf(HasSubstr(message), testing::Not(HasSubstr("\n")))))
        << line;
  }
}

std::vector<std::pair<std::string, std::string>> messages_of(const TrainingDocument& document) {
  std::vector<std::pair<std::string, std::string>> messages;
  for (const ChatMessage& message : document.messages) messages.emplace_back(message.role, message.content);
  return messages;
}

TEST(DocumentEncoder, ConversationsOfShareGptAreThoseOfMessages) {
  const TrainingDocument document = parse_training_document(
      R"({"id": "7", "system": "s", "conversations": [{"from": "human", "value": "a"}, {"value": "b", "from": "gpt"},)"
      R"( {"from": "observation", "value": "c"}, {"from": "function_call", "value": "d", "weight": 1}]})");
  EXPECT_THAT(messages_of(document),
              ElementsAre(std::pair("system", "s"),
                          std::pair("user", "a"),
                          std::pair("assistant", "b"),
                          std::pair("tool", "c"),
                          std::pair("assistant", "d")));
  // A system message of its own stays the first.
  const TrainingDocument own = parse_training_document(
      R"({"system": "s", "conversations": [{"from": "system", "value": "t"}, {"from": "user", "value": "a"}]})");
  EXPECT_THAT(messages_of(own), ElementsAre(std::pair("system", "t"), std::pair("user", "a")));
}

TEST(DocumentEncoder, InstructionsAreConversationsOrCompletionsOfAlpacasPrompt) {
  const std::string record = R"({"instruction": "quick", "input": "the fox", "output": "dog", "text": "all of it"})";
  const TrainingDocument document = parse_training_document(record);
  ASSERT_TRUE(document.instruction.has_value());
  EXPECT_FALSE(document.text.has_value());
  const DocumentEncoder chat(tiny_tokenizer(), {});
  const TokenDocument conversation = chat.encode(document);
  EXPECT_EQ(conversation.ids, chat.encode_chat({{"user", "quick\nthe fox"}, {"assistant", "dog"}}).ids);
  EXPECT_THAT(learned(*tiny_tokenizer(), conversation), ElementsAre("dog<|im_end|>"));
  const DocumentEncoder separate(tiny_tokenizer(), {.separate_texts = true});
  EXPECT_EQ(separate.encode(document).ids, separate.encode_separately("quick\nthe fox", "dog").ids);
  // Gemma's tokenizer here comes without a chat template.
  const DocumentEncoder plain(borrow(test::gemma_tokenizer()), {});
  const std::string text = test::gemma_tokenizer().decode(plain.encode(document).ids, true);
  EXPECT_EQ(
      text,
      "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
      "response that appropriately completes the request.\n\n### Instruction:\nquick\n\n### Input:\nthe fox\n\n"
      "### Response:\ndog");
  const TrainingDocument without = parse_training_document(R"({"instruction": "a", "input": "", "output": "b"})");
  EXPECT_EQ(test::gemma_tokenizer().decode(plain.encode(without).ids, true),
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\na\n\n### Response:\nb");
}

TEST(DocumentEncoder, FieldsMayHaveOtherNames) {
  const FieldNames names =
      parse_field_names({"prompt=question", "completion=best answer", "messages=turns", "role=who"});
  const TrainingDocument pair = parse_training_document(R"({"question": "a", "best answer": "b"})", names);
  EXPECT_EQ(pair.prompt, "a");
  EXPECT_EQ(pair.completion, "b");
  const TrainingDocument chat = parse_training_document(R"({"turns": [{"who": "user", "content": "a"}]})", names);
  EXPECT_THAT(messages_of(chat), ElementsAre(std::pair("user", "a")));
  for (const char* wrong : {"question", "prompt=", "question=prompt", "=a"}) {
    EXPECT_THAT([&] { parse_field_names({wrong}); }, ThrowsMessage<Error>(HasSubstr("expected NAME=FIELD"))) << wrong;
  }
}

TEST(DocumentEncoder, OtherFieldsAndDeepNestingArePassedOver) {
  const std::string deep(100000, '[');
  const std::string closed(100000, ']');
  const TrainingDocument document = parse_training_document(
      R"({"id": 3, "meta": {"text": 7, "messages": [1, {"role": 2}], "deep": )" + deep + closed +
      R"(}, "messages": [{"role": "user", "name": {"role": "x"}, "content": "a", "tools": [{"content": 1}]}], "z": [1]})");
  ASSERT_EQ(document.messages.size(), 1);
  EXPECT_EQ(document.messages[0].role, "user");
  EXPECT_EQ(document.messages[0].content, "a");
}

TEST(DocumentEncoder, LongConversationsAreRefusedInsteadOfTakingForever) {
  constexpr int kMessages = 100000;
  std::vector<ChatMessage> messages;
  messages.reserve(kMessages);
  for (int i = 0; i < kMessages; ++i) messages.push_back({i % 2 == 0 ? "user" : "assistant", "a"});
  const DocumentEncoder encoder(tiny_tokenizer(), {});
  EXPECT_THAT([&] { encoder.encode_chat(messages); }, ThrowsMessage<Error>(HasSubstr("is too long; split it")));
}

TEST(Cuts, PartsGiveTheTokensOfTheWhole) {
  std::string text;
  for (const auto& row : test::read_golden("smollm2")) text += row.text + "\n";
  const std::vector<const Tokenizer*> tokenizers = {
      &test::smollm2_tokenizer(), &test::llama3_tokenizer(), &test::gemma_tokenizer(), tiny_tokenizer().get()};
  for (const Tokenizer* tokenizer : tokenizers) {
    ASSERT_TRUE(DocumentEncoder(borrow(*tokenizer), {}).can_cut_lines());
    std::vector<int32_t> ids;
    std::string_view rest = text;
    int num_parts = 0;
    while (!rest.empty()) {
      size_t cut = 0;
      for (size_t end = 40; cut == 0 && end < rest.size(); end += 40) cut = last_cut_between_lines(rest.substr(0, end));
      if (cut == 0) cut = rest.size();
      const std::vector<int32_t> part = tokenizer->encode(rest.substr(0, cut), false);
      ids.insert(ids.end(), part.begin(), part.end());
      rest.remove_prefix(cut);
      ++num_parts;
    }
    EXPECT_GT(num_parts, 100);
    EXPECT_EQ(ids, tokenizer->encode(text, false));
  }
}

TEST(Cuts, StandOnlyBetweenVisibleCharacters) {
  EXPECT_EQ(last_cut_between_lines("one\ntwo"), 4);
  EXPECT_EQ(last_cut_between_lines("one.\n(two"), 5);
  EXPECT_EQ(last_cut_between_lines("\xE6\x9D\xB1\n\xE4\xBA\xAC"), 4);
  for (const std::string text : {"",
                                 "one",
                                 "one\n",
                                 "\none",
                                 "one \ntwo",
                                 "one\n two",
                                 "one\n\ntwo",
                                 "one\r\ntwo",
                                 "one>\ntwo",
                                 "one\n<two",
                                 "one\n\xE3\x80\x80two",
                                 "one\xC2\xA0\ntwo",
                                 "one\xE2\x80\x83\ntwo"}) {
    EXPECT_EQ(last_cut_between_lines(text), 0) << testing::PrintToString(text);
  }
}

TEST(TokenizerFingerprint, TellsTokenizersApart) {
  const uint64_t tiny = tokenizer_fingerprint(*tiny_tokenizer());
  EXPECT_EQ(tiny, tokenizer_fingerprint(*load_tokenizer(test_data("tiny_tokenizer/tokenizer.json"))));
  EXPECT_NE(tiny, tokenizer_fingerprint(test::smollm2_tokenizer()));
  EXPECT_NE(tiny, 0);
}

}  // namespace
}  // namespace weft
