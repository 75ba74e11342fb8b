#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include "config/run.pb.h"
#include "config/run_config.h"
#include "core/error.h"

namespace weft {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(ExplainConfig, a_field_has_type_default_and_comment) {
  EXPECT_EQ(explain_config("train.clip_norm"),
            "train.clip_norm: double = 1\n    The gradients' global norm is cut to this; 0: never.\n");
  EXPECT_THAT(explain_config("train.learning_rate"), StartsWith("train.learning_rate: double = 0.0001\n"));
}

TEST(ExplainConfig, an_enum_lists_its_values_with_their_comments) {
  std::string text = explain_config("train.gradient_checkpointing");
  EXPECT_THAT(text, StartsWith("train.gradient_checkpointing: KEEP | SELECTIVE | BLOCK = KEEP\n    Gradient"));
  EXPECT_THAT(text, HasSubstr("\n    BLOCK: Blocks are computed again in backward; their inputs are kept.\n"));
}

TEST(ExplainConfig, a_message_lists_its_fields) {
  std::string text = explain_config("train.schedule");
  EXPECT_THAT(text, StartsWith("train.schedule: ScheduleConfig\n"));
  EXPECT_THAT(text, HasSubstr("\ntrain.schedule.warmup_steps: int64 = 0\n"));
  EXPECT_THAT(text, HasSubstr("\ntrain.schedule.points: list of SchedulePoint\n"));
  EXPECT_THAT(explain_config("data.sources[0].path"), StartsWith("data.sources.path: string\n"));
}

TEST(ExplainConfig, a_name_alone_finds_all_fields_that_have_it) {
  EXPECT_THAT(explain_config("lookahead_steps"), StartsWith("train.optimizer.lookahead_steps: int64 = 0\n"));
  std::string text = explain_config("every_steps");
  for (const char* path : {"checkpoint.every_steps: ", "evaluation.every_steps: ", "samples.every_steps: "}) {
    EXPECT_THAT(text, HasSubstr(path));
  }
}

TEST(ExplainConfig, an_unknown_name_gives_the_nearest) {
  try {
    explain_config("train.learnin_rate");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the schema has no field 'train.learnin_rate'; did you mean 'train.learning_rate'?");
  }
}

void expect_documented(const google::protobuf::Descriptor& type, const std::string& prefix) {
  for (int i = 0; i < type.field_count(); ++i) {
    std::string path = prefix + type.field(i)->name();
    EXPECT_THAT(explain_config(path), HasSubstr("\n    ")) << path;
    if (type.field(i)->message_type()) expect_documented(*type.field(i)->message_type(), path + ".");
  }
}

TEST(ExplainConfig, every_field_is_documented) {
  expect_documented(*config::RunConfig::descriptor(), "");
  EXPECT_THAT(explain_config(""), HasSubstr("\nparallel: ParallelConfig\n"));
}

}  // namespace
}  // namespace weft
