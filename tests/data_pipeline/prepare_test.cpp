#include "data/prepare.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include <chrono>
#include <functional>
#include <random>

#include "core/error.h"
#include "data/tokenizer_fingerprint.h"
#include "data_pipeline/token_files.h"
#include "support/paths.h"

namespace weft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

std::shared_ptr<const Tokenizer> tiny_tokenizer() {
  static const auto tokenizer = load_tokenizer(test_data("tiny_tokenizer"));
  return tokenizer;
}

std::string random_text(size_t bytes, unsigned seed) {
  static const std::vector<std::string> words = {"the", "quick", "brown fox", "jumps\n", "over.\n\n", "Lazy\n", "dog"};
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < bytes) text += words[random() % words.size()] + (random() % 3 == 0 ? "" : " ");
  return text;
}

class PrepareTest : public test::FolderTest {
 protected:
  std::string write(const std::string& name, const std::string& bytes) {
    test::write_bytes(path(name), bytes);
    return path(name);
  }

  PrepareOptions options(std::vector<std::string> inputs, const std::string& output = "out.tokens") const {
    PrepareOptions options;
    options.inputs = std::move(inputs);
    options.output = path(output);
    return options;
  }

  /// The documents of a file as text.
  static std::vector<std::string> documents(const std::string& file_path) {
    const TokenFile file(file_path);
    std::vector<std::string> texts;
    for (int64_t i = 0; i < file.num_documents(); ++i) {
      std::vector<int32_t> ids(static_cast<size_t>(file.document_begin(i + 1) - file.document_begin(i)));
      file.read_tokens(file.document_begin(i), file.document_begin(i + 1), ids.data());
      texts.push_back(tiny_tokenizer()->decode(ids, false));
    }
    return texts;
  }

  /// A text, lines of JSON and a second text, of a few megabytes.
  std::vector<std::string> write_mixed_inputs() {
    std::string lines;
    for (unsigned i = 0; i < 4000; ++i) {
      if (i % 5 == 0) {
        lines += R"({"messages": [{"role": "user", "content": "the fox"}, {"role": "assistant", "content": "dog"}]})";
      } else {
        lines += R"({"text": "the quick brown fox jumps over the lazy dog )" + std::to_string(i) + "\"}";
      }
      lines += "\n";
    }
    return {write("a.txt", random_text(1 << 19, 1)), write("b.jsonl", lines), write("c.txt", random_text(1 << 18, 2))};
  }
};

TEST_F(PrepareTest, ATextFileIsADocument) {
  const PrepareStatistics statistics =
      prepare_tokens(options({write("a.txt", "\xEF\xBB\xBFthe fox\n"), write("empty.txt", ""), write("b.txt", "dog")}),
                     tiny_tokenizer());
  EXPECT_THAT(documents(path("out.tokens")), ElementsAre("<s>the fox\n<|im_end|>", "<s>dog<|im_end|>"));
  EXPECT_EQ(statistics.num_documents, 2);
  const TokenFile file(path("out.tokens"));
  EXPECT_EQ(statistics.num_tokens, file.num_tokens());
  EXPECT_EQ(statistics.num_scored_tokens, file.num_tokens());
  EXPECT_FALSE(file.has_loss_spans());
  EXPECT_EQ(file.tokenizer_fingerprint(), tokenizer_fingerprint(*tiny_tokenizer()));
  EXPECT_FALSE(std::filesystem::exists(path("out.tokens.partial")));
}

TEST_F(PrepareTest, LinesAndParagraphsAreDocumentsWhenAskedFor) {
  const std::string text = "\none\ntwo\r\n\n \t\n\nthree\n\nfour";
  for (const int64_t unit_bytes : {1, 7, 1000}) {
    PrepareOptions lines = options({write("a.txt", text)});
    lines.text_split = TextSplit::lines;
    lines.documents = {.special_tokens = false, .end_token = false};
    lines.unit_bytes = unit_bytes;
    prepare_tokens(lines, tiny_tokenizer());
    EXPECT_THAT(documents(path("out.tokens")), ElementsAre("one", "two", "three", "four"));
    lines.text_split = TextSplit::paragraphs;
    prepare_tokens(lines, tiny_tokenizer());
    EXPECT_THAT(documents(path("out.tokens")), ElementsAre("one\ntwo", "three", "four"));
  }
}

TEST_F(PrepareTest, MixedJsonLinesKeepWhatIsScoredOfEach) {
  const std::string file =
      write("a.jsonl",
            R"({"text": "the fox"})"
            "\n\n"
            R"({"messages": [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "dog"}]})"
            "\n"
            R"({"prompt": "the", "completion": " dog"})");
  const PrepareStatistics statistics = prepare_tokens(options({file}), tiny_tokenizer());
  EXPECT_EQ(statistics.num_documents, 3);
  const TokenFile tokens(path("out.tokens"));
  ASSERT_TRUE(tokens.has_loss_spans());
  std::vector<std::string> learned;
  for (const LossSpan& span : tokens.loss_spans(0, tokens.num_tokens())) {
    std::vector<int32_t> ids(span.end - span.begin);
    tokens.read_tokens(static_cast<int64_t>(span.begin), static_cast<int64_t>(span.end), ids.data());
    learned.push_back(tiny_tokenizer()->decode(ids, false));
  }
  EXPECT_THAT(learned, ElementsAre("<s>the fox<|im_end|>", "dog<|im_end|>", " dog<|im_end|>"));
}

TEST_F(PrepareTest, AListOfRecordsIsTheLinesOfThem) {
  std::string list = "\xEF\xBB\xBF \n[", lines;
  for (int i = 0; i < 50; ++i) {
    const std::string record =
        i % 3 == 0 ? R"({"text": "the } ] \" fox {", "meta": {"a": [1, "]"]}})"
                   : R"({"instruction": "the", "input": "fox", "output": "dog )" + std::to_string(i) + "\"}";
    list += (i == 0 ? "" : ",\n  ") + record;
    lines += record + "\n";
  }
  prepare_tokens(options({write("lines.jsonl", lines)}, "lines.tokens"), tiny_tokenizer());
  for (const int64_t unit_bytes : {1, 100, 1 << 20}) {
    PrepareOptions one = options({write("list.json", list + "\n]\n")}, "list.tokens");
    one.unit_bytes = unit_bytes;
    EXPECT_EQ(prepare_tokens(one, tiny_tokenizer()).num_documents, 50);
    EXPECT_EQ(test::file_bytes(path("list.tokens")), test::file_bytes(path("lines.tokens"))) << unit_bytes;
  }
}

TEST_F(PrepareTest, ABadListSaysWhichRecordIsWrong) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"[\n{\"text\": \"a\"},\n\n{\"question\": \"b\"}]", "list.json:4: expected {\"text\": \"…\"}"},
      {"[{\"text\": \"a\"}, 7]", "list.json:1: expected {\"text\": \"…\"}"},
      {"[{\"text\": \"a\"}", "list.json: the list of records has no end"},
      {"[{\"text\": \"a\"}, {\"text\": \"b]", "list.json:1: not JSON at byte"},
      {"[\n{\"text\": \"a\"}\n]\n[]", "list.json:3: not JSON at byte"},
      {"[]", "nothing to prepare"},
  };
  for (const auto& [text, message] : table) {
    const PrepareOptions one = options({write("list.json", text)});
    EXPECT_THAT([&] { prepare_tokens(one, tiny_tokenizer()); }, ThrowsMessage<Error>(HasSubstr(message))) << text;
  }
}

TEST_F(PrepareTest, ThreadsUnitsAndCommitsDoNotChangeTheBytes) {
  const std::vector<std::string> inputs = write_mixed_inputs();
  prepare_tokens(options(inputs), tiny_tokenizer());
  const std::string expected = test::file_bytes(path("out.tokens"));
  // The first text as a whole, which the pieces must equal.
  const std::string text = test::file_bytes(inputs[0]);
  EXPECT_EQ(documents(path("out.tokens"))[0], "<s>" + text + "<|im_end|>");
  for (const int threads : {1, 2, 7}) {
    for (const int64_t unit_bytes : {1000, 30000}) {
      PrepareOptions other = options(inputs, "other.tokens");
      other.num_threads = threads;
      other.unit_bytes = unit_bytes;
      other.commit_bytes = 100000;
      prepare_tokens(other, tiny_tokenizer());
      EXPECT_TRUE(test::file_bytes(path("other.tokens")) == expected) << threads << " " << unit_bytes;
    }
  }
}

TEST_F(PrepareTest, KilledAnywhereItGoesOnAndEndsWithTheSameBytes) {
  const std::vector<std::string> inputs = write_mixed_inputs();
  PrepareOptions killed = options(inputs, "killed.tokens");
  killed.unit_bytes = 4096;
  killed.commit_bytes = 1;
  killed.num_threads = 2;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  prepare_tokens(killed, tiny_tokenizer());
  const auto duration = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start).count();
  const std::string expected = test::file_bytes(path("killed.tokens"));
  std::mt19937 random(3);
  int num_kills = 0;
  int num_resumed = 0;
  while (num_kills < 40 || num_resumed < 5) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const PrepareStatistics statistics = prepare_tokens(killed, tiny_tokenizer());
      _exit(statistics.resumed_bytes > 0 ? 1 : 0);
    }
    usleep(static_cast<useconds_t>(random() % duration));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (!WIFEXITED(status)) {
      ASSERT_LT(++num_kills, 2000);
      continue;
    }
    num_resumed += WEXITSTATUS(status);
    ASSERT_TRUE(test::file_bytes(path("killed.tokens")) == expected);
    EXPECT_FALSE(std::filesystem::exists(path("killed.tokens.partial")));
    std::filesystem::remove(path("killed.tokens"));
  }
}

TEST_F(PrepareTest, ATornJournalCostsOnlyItsLastLine) {
  const std::vector<std::string> inputs = write_mixed_inputs();
  prepare_tokens(options(inputs), tiny_tokenizer());
  const std::string expected = test::file_bytes(path("out.tokens"));
  PrepareOptions stopped = options(inputs, "stopped.tokens");
  stopped.unit_bytes = 4096;
  stopped.commit_bytes = 20000;
  // A bad line near the end stops it with its work done so far.
  const std::string lines = test::file_bytes(inputs[1]);
  const auto stop_with = [&](const std::function<void(const std::string&)>& damage) {
    std::filesystem::remove_all(path("stopped.tokens.partial"));
    const pid_t child = fork();
    if (child == 0) {
      prepare_tokens(stopped, tiny_tokenizer());
      _exit(0);
    }
    const std::string journal = path("stopped.tokens.partial/journal");
    while (test::file_bytes(journal).size() < 1500) usleep(200);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    damage(journal);
    const int64_t resumed = prepare_tokens(stopped, tiny_tokenizer()).resumed_bytes;
    EXPECT_TRUE(test::file_bytes(path("stopped.tokens")) == expected);
    return resumed;
  };
  EXPECT_GT(stop_with([](const auto&) {}), 0);
  EXPECT_GT(stop_with([](const auto& journal) {
              const std::string bytes = test::file_bytes(journal);
              test::write_bytes(journal, bytes.substr(0, bytes.size() - 3));
            }),
            0);
  EXPECT_GT(stop_with([](const auto& journal) {
              std::string bytes = test::file_bytes(journal);
              bytes[bytes.size() - 4] ^= 1;
              test::write_bytes(journal, bytes + "0123456789abcdef 1 2 3\n");
            }),
            0);
  EXPECT_EQ(stop_with([](const auto& journal) {
              std::string bytes = test::file_bytes(journal);
              bytes[20] ^= 1;
              test::write_bytes(journal, bytes);
            }),
            0);
  EXPECT_EQ(stop_with([](const auto& journal) {
              std::filesystem::remove(std::filesystem::path(journal).parent_path() / "tokens");
            }),
            0);
}

TEST_F(PrepareTest, AChangedInputBeginsAnew) {
  const std::string input = write("a.jsonl", "{\"text\": \"the\"}\n{\"text\": \"fox\"}\nbad\n");
  PrepareOptions stopped = options({input});
  stopped.unit_bytes = 10;
  stopped.commit_bytes = 1;
  EXPECT_THAT([&] { prepare_tokens(stopped, tiny_tokenizer()); },
              ThrowsMessage<Error>(HasSubstr("a.jsonl:3: not JSON at byte")));
  // Going on from the second line, it is still the third that is bad.
  EXPECT_THAT([&] { prepare_tokens(stopped, tiny_tokenizer()); },
              ThrowsMessage<Error>(HasSubstr("a.jsonl:3: not JSON at byte")));
  EXPECT_TRUE(std::filesystem::exists(path("out.tokens.partial/journal")));
  write("a.jsonl", "{\"text\": \"dog\"}\n{\"text\": \"fox\"}\n");
  EXPECT_EQ(prepare_tokens(stopped, tiny_tokenizer()).resumed_bytes, 0);
  EXPECT_THAT(documents(path("out.tokens")), ElementsAre("<s>dog<|im_end|>", "<s>fox<|im_end|>"));
}

TEST_F(PrepareTest, BadLinesAreCountedWhenSkipped) {
  const std::string input = write("a.jsonl", "{\"text\": \"the\"}\nbad\n{\"text\": 3}\n{\"text\": \"fox\"}\n");
  PrepareOptions skipping = options({input});
  EXPECT_THAT([&] { prepare_tokens(skipping, tiny_tokenizer()); }, ThrowsMessage<Error>(HasSubstr("a.jsonl:2: ")));
  EXPECT_FALSE(std::filesystem::exists(path("out.tokens.partial"))) << "nothing was done that is worth going on from";
  skipping.skip_bad_lines = true;
  EXPECT_EQ(prepare_tokens(skipping, tiny_tokenizer()).num_skipped_lines, 2);
  EXPECT_THAT(documents(path("out.tokens")), ElementsAre("<s>the<|im_end|>", "<s>fox<|im_end|>"));
}

TEST_F(PrepareTest, UnusableInputsAreOneClearLineEach) {
  const std::vector<std::pair<PrepareOptions, std::string>> table = {
      {options({}), "no input given"},
      {options({path("missing.txt")}), "missing.txt: cannot open: No such file"},
      {options({path("")}), "not a regular file"},
      {options({write("a.csv", "x")}), "a.csv: is it text or JSON lines?"},
      {options({write("empty.txt", "")}), "nothing to prepare: no text in 1 input files"},
      {options({write("a.txt", "x")}, "missing/folder/\x01/../../../a.txt/out"), "there is no folder "},
      {options({write("a.txt", "x")}, ""), "not a file's name"},
  };
  for (const auto& row : table) {
    EXPECT_THAT([&] { prepare_tokens(row.first, tiny_tokenizer()); }, ThrowsMessage<Error>(HasSubstr(row.second)));
  }
}

TEST_F(PrepareTest, OneProcessAtATimePreparesAFile) {
  std::filesystem::create_directories(path("out.tokens.partial"));
  const int lock = open(path("out.tokens.partial/journal.lock").c_str(), O_RDWR | O_CREAT, 0644);
  ASSERT_EQ(flock(lock, LOCK_EX), 0);
  EXPECT_THAT([&] { prepare_tokens(options({write("a.txt", "x")}), tiny_tokenizer()); },
              ThrowsMessage<Error>(HasSubstr("another process is preparing")));
  close(lock);
}

TEST_F(PrepareTest, SourcesOfARunArePreparedOnceAndFoundAgainByContent) {
  const std::string text = write("a.txt", "the fox");
  const std::string folder = path("cache");
  const auto prepare = [&](const std::string& file) {
    return prepare_source(file, folder, tiny_tokenizer(), {}, 1, false);
  };
  const std::string first = prepare(text);
  EXPECT_THAT(documents(first), ElementsAre("<s>the fox<|im_end|>"));
  EXPECT_EQ(prepare(first), first);
  const auto written = std::filesystem::last_write_time(first);
  EXPECT_EQ(prepare(text), first);
  EXPECT_EQ(std::filesystem::last_write_time(first), written);
  write("a.txt", "the dog");
  EXPECT_NE(prepare(text), first);
  EXPECT_THAT([&] { prepare(write("a.bin", "x")); },
              ThrowsMessage<Error>(HasSubstr("expected a name ending in .txt, .jsonl or .tokens")));
}

}  // namespace
}  // namespace weft
