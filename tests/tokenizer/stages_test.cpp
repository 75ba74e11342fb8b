// Every stage type of tokenizer.json against Hugging Face's `tokenizers` (make_stages_golden.py).
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tokenizer/loaders.h"
#include "tokenizer/reference_rows.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

using nlohmann::json;

const json& stage_cases() {
  static const json cases = json::parse(test::read_file(test::tokenizer_data("stages.json")));
  return cases;
}

class TokenizerStages : public ::testing::TestWithParam<size_t> {};

TEST_P(TokenizerStages, GiveTheReferenceIdsAndTexts) {
  const json& example = stage_cases()[GetParam()];
  const auto tokenizer = load_tokenizer_json_text(example["tokenizer"].dump(), example["name"].get<std::string>());
  ASSERT_GT(example["rows"].size(), 50);
  test::expect_reference_rows(*tokenizer, example["rows"]);
}

INSTANTIATE_TEST_SUITE_P(References,
                         TokenizerStages,
                         ::testing::Range<size_t>(0, stage_cases().size()),
                         [](const auto& instance) {
                           return stage_cases()[instance.param]["name"].template get<std::string>();
                         });

}  // namespace
}  // namespace weft
