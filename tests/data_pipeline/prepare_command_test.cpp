// The built program: what `weft prepare` prints and how it ends.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include "data/token_file.h"
#include "data_pipeline/token_files.h"
#include "support/paths.h"

namespace weft {
namespace {

using testing::HasSubstr;

class PrepareCommand : public test::FolderTest {
 protected:
  struct Outcome {
    int exit_code = -1;
    std::string out, err;
  };
  Outcome prepare(const std::string& arguments) const {
    const std::string line = "cd '" + folder_.string() + "' && '" + weft_binary() + "' prepare --tokenizer '" +
                             test_data("tiny_tokenizer") + "' " + arguments + " >out 2>err";
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, test::file_bytes(path("out")), test::file_bytes(path("err"))};
  }
};

TEST_F(PrepareCommand, PrintsOneLineAndWritesTheFile) {
  test::write_bytes(path("a.txt"), "the fox\nthe dog\n");
  const Outcome outcome = prepare("--out a.tokens --split-lines --no-special-tokens --no-end-token a.txt");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("a.tokens: 2 documents, "));
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
  EXPECT_EQ(TokenFile(path("a.tokens")).num_documents(), 2);
}

TEST_F(PrepareCommand, ABadLineIsOneLineOfErrorOrSkipped) {
  test::write_bytes(path("a.jsonl"), "{\"text\": \"the fox\"}\n{\"text\": 3}\n");
  const Outcome bad = prepare("--out a.tokens a.jsonl");
  EXPECT_EQ(bad.exit_code, 3);
  EXPECT_EQ(bad.out, "");
  EXPECT_THAT(bad.err, HasSubstr("a.jsonl:2: \"text\" is a number, expected a string"));
  EXPECT_EQ(std::count(bad.err.begin(), bad.err.end(), '\n'), 1) << bad.err;
  const Outcome skipped = prepare("--out a.tokens --skip-bad-lines a.jsonl");
  EXPECT_EQ(skipped.exit_code, 0) << skipped.err;
  EXPECT_THAT(skipped.out, HasSubstr("1 bad lines skipped"));
}

}  // namespace
}  // namespace weft
