// The built program on tiny real checkpoints: answers, shapes of output, exit codes.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/command_test.h"
#include "support/paths.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using weft::test_data;
using weft::testing::Outcome;

const fs::path kData = test_data();

class Commands : public weft::testing::TinyLlamaTest {
 protected:
  Outcome generate(const std::string& arguments, const std::string& input = {}) const {
    return weft("generate --model tiny_llama --dtype f32 --quiet " + arguments, input);
  }
};

const std::string kPrompt = "'135 109 109 31 96 76 48'";
// Of tests/data/hf/llama_gqa/golden.h5, generate/new_tokens; prompts of 7, 4 and 5 tokens.
const std::string kAnswers =
    "102 140 63 157 65 44 72 124 71 105 75 11 26 152 2 86\n"
    "115 64 111 10 79 63 75 123 21 136 106 59 158 42 77 53\n"
    "97 106 68 142 111 11 46 78 150 13 114 132 15 109 19 153\n";

TEST_F(Commands, GreedyIdsAreTheReferencesAtEveryBatchSize) {
  for (int batch : {1, 2, 3}) {
    Outcome outcome = generate(fmt::format(
        "--ids {} '10 52 80 153' '98,43,146,147,14' --batch {} --ignore-end --max-new-tokens 16", kPrompt, batch));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, kAnswers);
    EXPECT_EQ(outcome.err, "");
  }
}

TEST_F(Commands, PromptsComeFromArgumentsOptionsFilesAndStandardInput) {
  std::ofstream(folder_ / "prompts.txt") << "10 52 80 153\r\n\n98 43 146 147 14\n";
  std::string flags = " --ids --ignore-end --max-new-tokens 16 ";
  EXPECT_EQ(generate(flags + kPrompt + " --prompt-file prompts.txt").out, kAnswers);
  EXPECT_EQ(generate(flags + "--prompt-file -", "135 109 109 31 96 76 48\n10 52 80 153\n98 43 146 147 14").out,
            kAnswers);
  EXPECT_EQ(generate(flags + "--prompt-file - --whole-file", "135 109 109\n31 96 76 48\n").out,
            kAnswers.substr(0, kAnswers.find('\n') + 1));
  EXPECT_EQ(generate(flags + "-p " + kPrompt + " -p '10 52 80 153' --prompt='98 43 146 147 14'").out, kAnswers);
}

TEST_F(Commands, BracketsBelongToTheArgument) {
  std::string flags = " --max-new-tokens 1 --json -- ";
  EXPECT_EQ(json::parse(generate(flags + "'[INST] Hi, there [/INST]'").out).at("prompt"), "[INST] Hi, there [/INST]");
  Outcome two = generate(flags + R"('["a","b"]' '[]')");
  EXPECT_EQ(std::count(two.out.begin(), two.out.end(), '\n'), 2) << two.out << two.err;
  EXPECT_THAT(weft("launch -n 2 --dry-run -- generate '[a, b]' x").err, HasSubstr("generate '[a, b]' x\n"));
}

TEST_F(Commands, JsonHasOneObjectAnAnswer) {
  Outcome outcome = generate(
      "--json 'the fox' 'The lazy dog' --max-new-tokens 5 --temperature 1 --num-return-sequences 2 --ignore-end");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::istringstream lines(outcome.out);
  std::string line;
  int count = 0;
  for (; std::getline(lines, line); ++count) {
    json object = json::parse(line);
    EXPECT_EQ(object.at("prompt"), count < 2 ? "the fox" : "The lazy dog");
    EXPECT_EQ(object.at("sequence"), count % 2);
    EXPECT_EQ(object.at("ids").size(), 5u);
    EXPECT_EQ(object.at("new_tokens"), 5);
    EXPECT_EQ(object.at("finish_reason"), "length");
    EXPECT_TRUE(object.at("text").is_string());
    EXPECT_GT(object.at("tokens_per_second").get<double>(), 0);
    EXPECT_GT(object.at("prompt_tokens").get<int>(), 1);
  }
  EXPECT_EQ(count, 4);
}

TEST_F(Commands, FollowAnswersEveryLineInOrderAndGoesOnAfterOneItCannotUse) {
  std::string flags = "--ids --ignore-end --max-new-tokens 16 --follow";
  std::string lines = "135 109 109 31 96 76 48\n\n10 52 80 153\n7 9999\n98 43 146 147 14";
  std::string second = kAnswers.substr(kAnswers.find('\n') + 1);
  size_t border = kAnswers.size() - second.size() + second.find('\n') + 1;
  std::string expected = kAnswers.substr(0, border) + "\n" + kAnswers.substr(border);
  for (const char* more : {"", " --batch 1", " --batch 2"}) {
    Outcome outcome = generate(flags + more, lines);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_EQ(outcome.out, expected);
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("9999"), HasSubstr("0 to 159")));
  }
  Outcome shared =
      shell("timeout 120 WEFT launch -n 2 -- generate --model tiny_llama --dtype f32 --quiet " + flags, lines);
  EXPECT_EQ(shared.exit_code, 0) << shared.err;
  EXPECT_EQ(shared.out, expected);
  Outcome objects = generate(flags + " --json --num-return-sequences 2 --temperature 1", "10 52\n7 9999\n");
  std::istringstream stream(objects.out);
  std::vector<json> answers;
  for (std::string line; std::getline(stream, line);) answers.push_back(json::parse(line));
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[1].at("sequence"), 1);
  EXPECT_EQ(answers[2].at("prompt"), "7 9999");
  EXPECT_THAT(answers[2].at("error").get<std::string>(), HasSubstr("9999"));
  expect_one_line_error(generate("--follow 'a prompt'"), 2, HasSubstr("standard input"));
  expect_one_line_error(generate("--follow --beams 2", "x"), 2, HasSubstr("--follow"));
}

TEST_F(Commands, JsonLinesHoldTextsOrConversationsAndGiveTheirIdsBack) {
  std::string lines =
      R"({"prompt": "the fox\nthe dog", "id": 7})"
      "\n"
      R"({"id": {"row": "a"}, "messages": [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "dog"},)"
      R"( {"role": "user", "content": "quick"}]})"
      "\n";
  for (const char* from : {"--prompt-file -", "--follow"}) {
    Outcome outcome = generate(fmt::format("--jsonl {} --json --max-new-tokens 3 --ignore-end", from), lines);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    std::istringstream stream(outcome.out);
    std::vector<json> answers;
    for (std::string line; std::getline(stream, line);) answers.push_back(json::parse(line));
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[0].at("id"), 7);
    EXPECT_EQ(answers[0].at("prompt"), "the fox\nthe dog");
    EXPECT_EQ(answers[1].at("id").at("row"), "a");
    EXPECT_EQ(answers[1].at("messages").size(), 3u);
    EXPECT_GT(answers[1].at("prompt_tokens"), answers[0].at("prompt_tokens"));
  }
  expect_one_line_error(generate("--jsonl --prompt-file -", "{\"prompt\": \"a\"}\nnothing\n"), 3, HasSubstr("-:2"));
  expect_one_line_error(generate("--jsonl --prompt-file -", "{\"text\": \"a\"}\n"), 3, HasSubstr("'text'"));
  expect_one_line_error(generate("--jsonl x"), 2, HasSubstr("--prompt-file"));
  expect_one_line_error(generate("--whole-file x"), 2, HasSubstr("--whole-file"));
  expect_one_line_error(generate("--min-new-tokens 9 --max-new-tokens 3 x"), 2, HasSubstr("--min-new-tokens 9"));
}

TEST_F(Commands, LogprobsAreOfEveryToken) {
  Outcome outcome = generate("--json --logprobs 2 --ids --ignore-end --max-new-tokens 3 " + kPrompt);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  json list = json::parse(outcome.out).at("logprobs");
  ASSERT_EQ(list.size(), 3u);
  for (const json& token : list) {
    EXPECT_LT(token.at("logprob"), 0);
    EXPECT_EQ(token.at("top").at(0).at("id"), token.at("id"));
    EXPECT_EQ(token.at("top").size(), 2u);
    EXPECT_GE(token.at("top").at(0).at("logprob"), token.at("top").at(1).at("logprob"));
  }
  expect_one_line_error(generate("--logprobs 2 x"), 2, HasSubstr("--json"));
}

TEST_F(Commands, EndIdsEndAnAnswer) {
  std::string flags = "--ids --max-new-tokens 16 --ignore-end --end-id 157 --end-id 44 ";
  EXPECT_EQ(generate(flags + kPrompt).out, "102 140 63 157\n");
}

TEST_F(Commands, SamplingIsDecidedByTheSeedAlone) {
  std::string prompts =
      " --ids '1 2 3' '4 5' '6 7 8 9' --temperature 1.3 --top-p 0.95 --ignore-end --max-new-tokens 12 ";
  std::string reference = generate(prompts + "--seed 5 --batch 3").out;
  EXPECT_EQ(generate(prompts + "--seed 5 --batch 1").out, reference);
  EXPECT_EQ(generate(prompts + "--seed 5 --batch 2 --prefill-chunk 1").out, reference);
  EXPECT_EQ(generate(prompts + "--seed 5 --batch 2 --device guarded").out, reference);
  EXPECT_NE(generate(prompts + "--seed 6").out, reference);
}

TEST_F(Commands, StreamedTextEqualsTheWholeText) {
  std::string flags = "'the quick brown' --max-new-tokens 60 --ignore-end --temperature 2 --seed 3";
  Outcome streamed = generate(flags);
  Outcome whole = generate(flags + " --no-stream");
  ASSERT_EQ(streamed.exit_code, 0) << streamed.err;
  EXPECT_EQ(streamed.out, whole.out);
  std::string text = json::parse(generate(flags + " --json").out).at("text");
  EXPECT_EQ(streamed.out, text.ends_with('\n') ? text : text + "\n");
}

TEST_F(Commands, AStopStringEndsTheAnswerBeforeIt) {
  std::string flags = "'the quick brown' --max-new-tokens 60 --ignore-end --json ";
  std::string text = json::parse(generate(flags).out).at("text");
  ASSERT_GT(text.size(), 12u);
  std::string stop = text.substr(6, 4);
  json object = json::parse(generate(flags + fmt::format("--stop '{}'", stop)).out);
  EXPECT_EQ(object.at("text"), text.substr(0, text.find(stop)));
  EXPECT_EQ(object.at("finish_reason"), "stop");
}

TEST_F(Commands, TheSeedsPenaltiesGiveTheSeedsTokens) {
  // tests/data/seed/llama-gqa/golden.h5, generate_penalty/p1 … p5: rows padded to 16, all begun where the longest
  // prompt ends.
  struct Case {
    std::string flags;
    std::string answers;
  };
  std::string last = "107 59 20 117 114 33 89 115 42\n";
  std::string middle = "51 68 15 108 115 92 20 122 83\n";
  std::vector<Case> cases = {
      {"--penalty 1.5", "65 2 38 112 59 89 92 73 122\n" + middle + last},
      {"--penalty 1.3 --penalty-window 8", "65 2 38 112 59 89 2 103 117\n" + middle + last},
      {"--penalty 1.2 --max-penalty-range 1 3", "65 2 2 65 75 65 23 79 51\n" + middle + last},
      {"--penalty 1.4 --penalty-window 8 --max-penalty-range 2 4 --temperature 0.7 --greedy",
       "65 2 2 65 75 51 68 51 88\n" + middle + "107 59 20 117 114 33 33 102 115\n"},
      {"--temperature 2 --greedy", "65 2 2 65 65 65 94 103 2\n" + middle + "107 59 20 117 114 33 33 33 37\n"},
  };
  for (const Case& each : cases) {
    for (const char* device : {"cpu", "guarded"}) {
      Outcome outcome = weft(fmt::format(
          "generate --model '{}' --family llama --compat bert4keras3 --dtype f32 --quiet --ids '44 31 109 80 24 0 0' "
          "'26 43 7 0 0 0 0' '49 94 10 119 71 108 27' --max-new-tokens 9 --ignore-end --padded-length 16 "
          "--penalty-window-mode block --device {} {}",
          (kData / "seed/llama-gqa").string(),
          device,
          each.flags));
      EXPECT_EQ(outcome.out, each.answers) << device << ": " << each.flags << outcome.err;
    }
  }
}

TEST_F(Commands, HelpShowsExamplesAndStandardErrorStaysEmpty) {
  for (const char* command :
       {"generate", "chat", "perplexity", "tokenize", "launch", "inspect", "plan", "verify", "bench"}) {
    Outcome outcome = weft(fmt::format("{} --help", command));
    EXPECT_EQ(outcome.exit_code, 0) << command;
    EXPECT_THAT(outcome.out, AllOf(HasSubstr(fmt::format("Usage: weft {}", command)), HasSubstr("Examples:")));
    EXPECT_EQ(outcome.err, "");
  }
  Outcome version = weft("--version");
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, testing::MatchesRegex("weft [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

// What transformers' generate gives for three prompts (tests/generate/make_beam_golden.py).
TEST_F(Commands, BeamSearchFindsWhatTransformersFinds) {
  json golden = json::parse(std::ifstream(kData / "beam/golden.json")).at("decoders")[0];
  ASSERT_EQ(golden.at("model"), "llama_gqa");
  std::ofstream prompts(folder_ / "prompts.txt");
  for (const json& prompt : golden.at("prompts")) prompts << prompt.dump() << "\n";
  prompts.close();
  // The case without end ids, which the model's own would not be.
  for (const json& search : golden.at("searches")) {
    if (!search.at("end_ids").empty()) continue;
    int num_beams = search.at("num_beams");
    Outcome outcome = generate(fmt::format(
        "--ids --prompt-file prompts.txt --ignore-end --max-new-tokens {} --beams {} --num-return-sequences {} "
        "--length-penalty {} --json",
        golden.at("max_new_tokens").get<int>(),
        num_beams,
        num_beams,
        search.at("length_penalty").get<double>()));
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    std::istringstream lines(outcome.out);
    std::string line;
    for (const json& results : search.at("results")) {
      for (size_t place = 0; place < results.size(); ++place) {
        ASSERT_TRUE(std::getline(lines, line));
        json object = json::parse(line);
        EXPECT_EQ(object.at("sequence"), place);
        EXPECT_EQ(object.at("ids"), results[place].at("ids"));
        EXPECT_NEAR(object.at("score").get<double>(), results[place].at("score").get<double>(), 1e-4);
      }
    }
    EXPECT_FALSE(std::getline(lines, line));
  }
}

TEST_F(Commands, BeamsPrintTextAndOneLineOfIdsAnAnswer) {
  Outcome text = generate("'the fox' --beams 3 --max-new-tokens 6 --ignore-end");
  ASSERT_EQ(text.exit_code, 0) << text.err;
  json object = json::parse(generate("'the fox' --beams 3 --max-new-tokens 6 --ignore-end --json").out);
  std::string expected = object.at("text");
  EXPECT_EQ(text.out, expected.ends_with('\n') ? expected : expected + "\n");
  Outcome ids = generate("--ids " + kPrompt + " --beams 3 --num-return-sequences 3 --max-new-tokens 6 --ignore-end");
  EXPECT_EQ(std::count(ids.out.begin(), ids.out.end(), '\n'), 3);
  Outcome one = generate("--ids " + kPrompt + " --beams 1 --max-new-tokens 16 --ignore-end");
  EXPECT_EQ(one.out, kAnswers.substr(0, kAnswers.find('\n') + 1));
  Outcome seed = generate("--ids " + kPrompt + " --beams 3 --beam-mode bert4keras --max-new-tokens 16 --ignore-end");
  EXPECT_EQ(std::count(seed.out.begin(), seed.out.end(), '\n'), 1) << seed.err;
}

TEST_F(Commands, WrongCommandLinesExitWithTwo) {
  expect_one_line_error(weft(""), 2, HasSubstr("--help"));
  expect_one_line_error(weft("generate"), 2, HasSubstr("--model"));
  expect_one_line_error(weft("generate --model tiny_llama --nonsense x"), 2, HasSubstr("nonsense"));
  expect_one_line_error(weft("frobnicate"), 2, HasSubstr("frobnicate"));
  expect_one_line_error(generate(""), 2, HasSubstr("--prompt-file"));
  expect_one_line_error(generate("x --temperature -1"), 2, HasSubstr("temperature"));
  expect_one_line_error(generate("x --top-p 0"), 2, HasSubstr("top-p"));
  expect_one_line_error(generate("x --max-penalty-range 3 1"), 2, HasSubstr("max-penalty-range"));
  expect_one_line_error(generate("x --num-return-sequences 3"), 2, HasSubstr("sampling"));
  expect_one_line_error(generate("x --ids --chat"), 2, HasSubstr("--ids"));
  expect_one_line_error(generate("x --length-penalty 2"), 2, HasSubstr("--length-penalty needs --beams"));
  expect_one_line_error(generate("x --beams 4 --top-k 5"), 2, HasSubstr("--top-k and --beams exclude each other"));
  expect_one_line_error(generate("x --beams 4 --stop a"), 2, HasSubstr("--stop and --beams"));
  expect_one_line_error(generate("x --beams 4 --temperature 0"), 2, HasSubstr("temperature"));
  expect_one_line_error(generate("x --beams 4 --num-return-sequences 5"), 2, HasSubstr("--num-return-sequences 5"));
  expect_one_line_error(generate("x --beams 4 --early-stopping maybe"), 2, HasSubstr("--early-stopping"));
  expect_one_line_error(generate("x --beams 4 --min-ends 2"), 2, HasSubstr("--beam-mode bert4keras"));
  expect_one_line_error(
      generate("x --beams 4 --beam-mode bert4keras --num-return-sequences 2"), 2, HasSubstr("a single answer"));
  expect_one_line_error(generate("x --device cuda"), 2, HasSubstr("CUDA"));
  expect_one_line_error(
      generate("x --tensor-parallel 2"), 2, AllOf(HasSubstr("--tensor-parallel 2"), HasSubstr("weft launch -n 2")));
  expect_one_line_error(weft("generate --model tiny_llama --dtype f8 x"), 2, HasSubstr("dtype"));
}

TEST_F(Commands, UnusableInputExitsWithThree) {
  std::string many;
  for (int i = 0; i < 200; ++i) many += "7 ";
  expect_one_line_error(
      generate("--ids --prompt-file -", many), 3, AllOf(HasSubstr("200"), HasSubstr("128"), HasSubstr("shorten")));
  expect_one_line_error(generate("--ids '1 2 160'"), 3, AllOf(HasSubstr("160"), HasSubstr("159")));
  expect_one_line_error(generate("--ids '1 two'"), 3, HasSubstr("token ids"));
  expect_one_line_error(generate("--ids ''"), 3, HasSubstr("no tokens"));
  expect_one_line_error(generate("--prompt-file absent.txt"), 3, HasSubstr("absent.txt"));
  expect_one_line_error(weft("generate --model absent --quiet x"), 3, HasSubstr("absent"));
  fs::remove(model_ / "tokenizer.json");
  expect_one_line_error(generate("x"), 3, HasSubstr("token"));
  EXPECT_EQ(generate("--ids '1 2' --max-new-tokens 2").exit_code, 0);
}

TEST_F(Commands, ChatKeepsTheConversationAndTakesCommands) {
  std::string flags = "chat --model tiny_llama --dtype f32 --quiet --max-new-tokens 6 --ignore-end";
  Outcome once = weft(flags, "the fox\n");
  ASSERT_EQ(once.exit_code, 0) << once.err;
  EXPECT_NE(once.out, "");
  Outcome twice = weft(flags, "the fox\nthe fox\n");
  ASSERT_TRUE(twice.out.starts_with(once.out));
  EXPECT_NE(twice.out, once.out + once.out) << "the second answer knows the first message";
  EXPECT_EQ(weft(flags, "the fox\n/reset\nthe fox\n/exit\nthe dog\n").out, once.out + once.out);
  Outcome system = weft(flags, "/system the\nthe fox\n");
  EXPECT_EQ(system.out, weft(flags + " --system the", "the fox\n").out);
  EXPECT_NE(system.out, once.out);
  EXPECT_THAT(weft(flags, "/help\n").err, HasSubstr("/reset"));
  Outcome beyond = weft(flags, std::string(400, '!') + "\nthe fox\n");
  EXPECT_EQ(beyond.exit_code, 0);
  EXPECT_THAT(beyond.err, AllOf(HasSubstr("context"), HasSubstr("/reset")));
  EXPECT_EQ(beyond.out, once.out);
}

TEST_F(Commands, SessionsGoOnFromWhatWasSaved) {
  fs::create_symlink(kData / "hf/rwkv6/rwkv6.pth", folder_ / "rwkv6.pth");
  for (const std::string model : {"tiny_llama", "rwkv6.pth"}) {
    std::string flags = "generate --dtype f32 --quiet --ids --ignore-end --model " + model + " ";
    std::string straight = weft(flags + "'10 52 80 13' --max-new-tokens 16").out;
    Outcome first = weft(flags + "'10 52 80 13' --max-new-tokens 6 --save-session a.session");
    ASSERT_EQ(first.exit_code, 0) << first.err;
    Outcome second = weft(flags + "--session a.session --max-new-tokens 10 --save-session b.session");
    ASSERT_EQ(second.exit_code, 0) << second.err;
    first.out.back() = ' ';
    EXPECT_EQ(first.out + second.out, straight) << model;
    EXPECT_EQ(weft(flags + "--session b.session '7 8' --max-new-tokens 3").exit_code, 0);

    ASSERT_EQ(weft_on_ranks(2, flags + "'10 52 80 13' --max-new-tokens 6 --save-session c.session").exit_code, 0);
    EXPECT_FALSE(fs::exists(folder_ / "c.session"));
    EXPECT_EQ(weft_on_ranks(2, flags + "--session c.session --max-new-tokens 10").out, second.out) << model;
    Outcome missing = weft_on_ranks(2, flags + "--session b.session --max-new-tokens 1");
    EXPECT_EQ(missing.exit_code, 3);
    EXPECT_THAT(missing.err, HasSubstr("b.session.0-of-2"));
    ASSERT_EQ(weft_on_ranks(2, flags + "'4 4' --max-new-tokens 3 --save-session d.session").exit_code, 0);
    fs::copy(folder_ / "c.session.1-of-2", folder_ / "d.session.1-of-2", fs::copy_options::overwrite_existing);
    Outcome mixed = weft_on_ranks(2, flags + "--session d.session --max-new-tokens 1");
    EXPECT_EQ(mixed.exit_code, 3);
    EXPECT_THAT(mixed.err, HasSubstr("different texts"));
  }
  auto refused = [&](const std::string& arguments, int code, const std::string& message) {
    expect_one_line_error(generate("--session b.session " + arguments), code, HasSubstr(message));
  };
  refused("--ids 1", 3, "another model");
  refused("--ids 1 2", 2, "one prompt");
  refused("--ids 1 --beams 2", 2, "without beams");
  refused("--chat hello", 2, "weft chat");
}

TEST_F(Commands, AConversationGoesOnInAnotherCall) {
  std::string flags = "chat --model tiny_llama --dtype f32 --quiet --max-new-tokens 6 --ignore-end";
  Outcome both = weft(flags, "the fox\nthe dog\n");
  Outcome first = weft(flags + " --save-session talk", "the fox\n");
  Outcome second = weft(flags + " --session talk", "the dog\n");
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(first.out + second.out, both.out);
  generate("--ids 1 --save-session no_talk");
  expect_one_line_error(weft(flags + " --session no_talk", "the dog\n"), 3, HasSubstr("no conversation"));
}

TEST_F(Commands, ChatAnswersAsGenerateDoes) {
  Outcome chat = weft("chat --model tiny_llama --dtype f32 --quiet --max-new-tokens 20 --ignore-end", "the fox\n");
  Outcome generated = generate("--chat 'the fox' --max-new-tokens 20 --ignore-end --json");
  EXPECT_EQ(chat.out, json::parse(generated.out).at("text").get<std::string>() + "\n");
}

TEST_F(Commands, TokenizeTextAndBack) {
  EXPECT_EQ(weft("tokenize --tokenizer tiny_llama --text 'the quick fox'").out, "95 140 136\n");
  EXPECT_EQ(weft("tokenize --tokenizer tiny_llama/tokenizer.json --add-special-tokens", "the quick fox").out,
            "1 95 140 136\n");
  EXPECT_EQ(weft("tokenize --tokenizer tiny_llama --decode", "95 140,136\n").out, "the quick fox");
}

TEST_F(Commands, TokenizeJsonLinesAndBack) {
  std::string lines;
  for (int i = 0; i < 500; ++i)
    lines += json{{"text", fmt::format("the fox {} \n \"quoted\" dog", i)}, {"other", i}}.dump() + "\n";
  for (int threads : {1, 3}) {
    Outcome ids = weft(fmt::format("tokenize --tokenizer tiny_llama --jsonl --threads {}", threads), lines);
    ASSERT_EQ(ids.exit_code, 0) << ids.err;
    Outcome texts = weft("tokenize --tokenizer tiny_llama --jsonl --decode", ids.out);
    std::istringstream stream(texts.out);
    std::string line;
    int count = 0;
    for (; std::getline(stream, line); ++count) {
      EXPECT_EQ(json::parse(line), (json{{"text", fmt::format("the fox {} \n \"quoted\" dog", count)}}));
    }
    EXPECT_EQ(count, 500);
  }
  // Id 80 is the first byte of two, alone no character.
  EXPECT_EQ(weft("tokenize --tokenizer tiny_llama --jsonl --decode", "{\"ids\":[80]}").out,
            "{\"text\":\"\xEF\xBF\xBD\"}\n");
}

TEST_F(Commands, TokenizeDescribesTheTokens) {
  json described = json::parse(weft("tokenize --tokenizer tiny_llama --json --text 'the quick fox'").out);
  EXPECT_EQ(described.at("ids"), json({95, 140, 136}));
  EXPECT_EQ(described.at("offsets"), json({{0, 3}, {3, 9}, {9, 13}}));
  EXPECT_EQ(described.at("segment_ids"), json({0, 0, 0}));
  EXPECT_EQ(described.at("tokens").size(), 3u);
  EXPECT_FALSE(described.contains("sequence_ids"));
  json special =
      json::parse(weft("tokenize --tokenizer tiny_llama --json --add-special-tokens --text 'the \xC3\xA9'").out);
  EXPECT_EQ(special.at("offsets").at(0), nullptr);
  EXPECT_EQ(special.at("offsets").at(1), json({0, 3}));
  EXPECT_EQ(special.at("offsets").back().at(1), 5) << "characters, not bytes";
}

TEST_F(Commands, TokenizeTakesPairsOfTexts) {
  std::string lines = "the quick\tfox\r\n\nthe fox\n";
  EXPECT_EQ(weft("tokenize --tokenizer tiny_llama --lines", lines).out.substr(0, 7), "95 140 ");
  EXPECT_EQ(weft("tokenize --tokenizer tiny_llama --lines", "the quick fox\n\nthe\n").out, "95 140 136\n\n95\n");
  std::istringstream printed(weft("tokenize --tokenizer tiny_llama --lines --json --threads 2", lines).out);
  std::string line;
  ASSERT_TRUE(std::getline(printed, line));
  json pair = json::parse(line);
  auto second = static_cast<size_t>(std::count(pair.at("segment_ids").begin(), pair.at("segment_ids").end(), 1));
  ASSERT_GT(second, 0u);
  EXPECT_EQ(pair.at("ids").size(), 2 + second);
  EXPECT_EQ(pair.at("sequence_ids"), pair.at("segment_ids"));
  EXPECT_EQ(pair.at("offsets").at(2).at(0), 0);
  EXPECT_EQ(pair.at("offsets").back().at(1), 3);
  Outcome from_json =
      weft("tokenize --tokenizer tiny_llama --jsonl --json", "{\"first\": \"the quick\", \"second\": \"fox\"}\n");
  EXPECT_EQ(json::parse(from_json.out), pair) << from_json.err;
  json ids = json::parse(
      weft("tokenize --tokenizer tiny_llama --jsonl", "{\"first\": \"the quick\", \"second\": \"fox\"}\n").out);
  EXPECT_EQ(ids.at("ids"), pair.at("ids"));
  EXPECT_EQ(ids.at("segment_ids"), pair.at("segment_ids"));
}

TEST_F(Commands, TokenizeCutsTexts) {
  auto cut = [&](const std::string& flags) {
    return weft("tokenize --tokenizer tiny_llama --text 'the quick fox' " + flags).out;
  };
  EXPECT_EQ(cut("--max-length 2"), "95 140\n");
  EXPECT_EQ(cut("--max-length 2 --truncate-from left"), "140 136\n");
  EXPECT_EQ(cut("--max-length 2 --truncate-from 1"), "95 136\n");
  EXPECT_EQ(cut("--max-length 2 --add-special-tokens"), "1 95\n");
  Outcome wrong = weft("tokenize --tokenizer tiny_llama --text a --max-length 2 --truncate-from middle");
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("--truncate-from middle: expected right, left or a token's index"));
}

TEST_F(Commands, TokenizeNamesTheLineThatItCannotUse) {
  auto refuse = [&](const std::string& flags, const std::string& input, const testing::Matcher<std::string>& says) {
    Outcome outcome = weft("tokenize --tokenizer tiny_llama " + flags, input);
    EXPECT_EQ(outcome.exit_code, 3);
    EXPECT_THAT(outcome.err, says);
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  };
  refuse("--jsonl", "{\"text\": \"a\"}\n{\"txt\": \"a\"}\n", HasSubstr("line 2"));
  refuse("--jsonl", "nonsense\n", HasSubstr("line 1"));
  refuse("--jsonl", "{\"text\": 7}\n", HasSubstr("line 1"));
  refuse("--jsonl --decode", "{\"ids\": [1, -3]}\n", AllOf(HasSubstr("line 1"), HasSubstr("-3")));
  refuse("--jsonl --decode", "{\"ids\": [1, 4000000000]}\n", HasSubstr("line 1"));
  refuse("--decode", "1 2 x", HasSubstr("x"));
  refuse("--decode", "1 99999", HasSubstr("99999"));
}

TEST_F(Commands, PerplexityPrintsOneLineOrJson) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the quick fox jumps over the lazy dog. ";
  std::ofstream(folder_ / "text.txt") << text;
  Outcome outcome = weft("perplexity --model tiny_llama --dtype f32 --quiet --text text.txt --max-tokens 300");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              testing::MatchesRegex("perplexity [0-9]+\\.[0-9]{4} \\(300 tokens, nll [0-9]+\\.[0-9]{4}\\)\n"));
  Outcome overlapping = weft(
      "perplexity --model tiny_llama --dtype f32 --quiet --text text.txt --max-tokens 300 --context 64 --stride 16 "
      "--json");
  json object = json::parse(overlapping.out);
  EXPECT_EQ(object.at("tokens"), 300);
  EXPECT_EQ(object.at("scored_tokens"), 299);
  EXPECT_NEAR(std::exp(object.at("nll").get<double>()), object.at("perplexity").get<double>(), 1e-6);
  expect_one_line_error(
      weft("perplexity --model tiny_llama --quiet --text text.txt --context 500"), 2, HasSubstr("128"));
}

/// The same on two ranks that share the weights.
TEST_F(Commands, TwoRanksAnswerAsOne) {
  std::string flags = " --model tiny_llama --dtype f32 --quiet ";
  std::string drawing =
      "generate" + flags +
      "'the fox' 'a dog' --temperature 1.2 --seed 9 --max-new-tokens 20 --stop e --json --num-return-sequences 3";
  auto texts = [](const Outcome& outcome) {
    std::vector<std::string> found;
    std::istringstream lines(outcome.out);
    for (std::string line; std::getline(lines, line);) found.push_back(json::parse(line).at("text"));
    return found;
  };
  Outcome shared = weft("launch -n 2 -- " + drawing);
  EXPECT_EQ(shared.exit_code, 0) << shared.err;
  EXPECT_EQ(texts(shared).size(), 6u);
  EXPECT_EQ(texts(shared), texts(weft(drawing)));

  std::string chat = "chat" + flags + "--max-new-tokens 6 --ignore-end";
  std::string conversation = "the fox\n/reset\na dog\nquick jumps\n";
  EXPECT_EQ(weft("launch -n 2 -- " + chat, conversation).out, weft(chat, conversation).out);

  std::string perplexity = "perplexity" + flags + "--json --text -";
  auto nll = [](const Outcome& outcome) { return json::parse(outcome.out).at("nll").get<double>(); };
  std::string text = "the quick fox jumps over the lazy dog";
  EXPECT_NEAR(nll(weft("launch -n 2 -- " + perplexity, text)), nll(weft(perplexity, text)), 1e-5);
}

TEST_F(Commands, EveryRankLeavesWithTheExitCode) {
  std::string flags = "launch -n 2 -- generate --model tiny_llama --quiet ";
  Outcome bad_input = weft(flags + "--ids '1 2 160'");
  EXPECT_EQ(bad_input.exit_code, 3);
  EXPECT_THAT(bad_input.err, HasSubstr("160"));
  EXPECT_EQ(weft(flags + "--prompt-file absent.txt").exit_code, 3);
  Outcome usage = weft(flags + "x --tensor-parallel 1");
  EXPECT_EQ(usage.exit_code, 2);
  EXPECT_THAT(usage.err, HasSubstr("--tensor-parallel 1"));
  EXPECT_EQ(weft("bench --no-masters=99999999999999999999 x").exit_code, 2);
}

TEST_F(Commands, CtrlCAtThePromptLeavesTheChat) {
  Outcome outcome = shell(
      "(echo the fox; sleep 3) | timeout --preserve-status -s INT 1.5 WEFT chat --model tiny_llama --dtype f32 "
      "--quiet");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out, "");
}

TEST_F(Commands, CtrlCEndsGenerateWithWhatIsComplete) {
  Outcome outcome = shell(
      "timeout --preserve-status -s INT 1.5 WEFT generate --model tiny_llama --quiet --ids 7 --temperature 1 "
      "--num-return-sequences 4096 "
      "--max-new-tokens 120 --batch 1 --ignore-end");
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_NE(outcome.out, "");
  EXPECT_TRUE(outcome.out.ends_with('\n'));
}

}  // namespace
