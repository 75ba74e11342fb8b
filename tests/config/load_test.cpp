#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "config/check_run_config.h"
#include "config/run.pb.h"
#include "config/run_config.h"
#include "core/error.h"
#include "support/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

/// A folder of configs, removed at the end.
class LoadConfig : public testing::Test {
 protected:
  LoadConfig() : folder_(testing::TempDir() + "weft_" + testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::create_directories(folder_ / "common");
  }
  ~LoadConfig() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }

  fs::path folder_;
};

std::string error_of(const std::string& path, const std::vector<std::string>& overrides = {}) {
  try {
    load_run_config(path, overrides);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    return error.what();
  }
  return "no error";
}

std::string override_error(const std::string& override) {
  try {
    parse_run_config("data { sources { path: 'd' } }", "x.textproto", {override});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input);
    return error.what();
  }
  return "no error";
}

TEST_F(LoadConfig, text_and_json_say_the_same) {
  const char* text = R"(
    # a comment
    model { path: "a\"b/\303\244" }
    data { sources { path: "x" weight: 2 } sources { path: "y" } sequence_length: 64 shuffle: false }
    lora { target_modules: ["q_proj", "v_proj"] layers: [0, 3] }
    train { steps: 7 learning_rate: 1e-3 seed: 18446744073709551615 optimizer { kind: LION } })";
  const char* json = R"({
    "model": {"path": "a\"b\/\u00e4"},
    "data": {"sources": [{"path": "x", "weight": 2}, {"path": "y"}], "sequence_length": "64", "shuffle": false},
    "lora": {"target_modules": ["q_proj", "v_proj"], "layers": [0, 3]},
    "train": {"steps": 7, "learning_rate": 1e-3, "seed": 18446744073709551615, "optimizer": {"kind": "LION"}}
  })";
  RunConfig from_text = load_run_config(write("a.textproto", text));
  RunConfig from_json = load_run_config(write("a.json", json));
  EXPECT_EQ(from_text.message().model().path(), "a\"b/ä");
  EXPECT_EQ(from_text.message().data().sources(0).weight(), 2);
  EXPECT_EQ(from_text.message().train().seed(), UINT64_MAX);
  EXPECT_EQ(from_text.to_text(), from_json.to_text());
  EXPECT_EQ(from_json.location("data.sources[1].path"), (folder_ / "a.json:3:56").string());
}

TEST_F(LoadConfig, the_printed_config_reads_back_as_the_same_run) {
  RunConfig config = load_run_config(source_path("configs/smollm2-lora.textproto"), {"train.learning_rate=0.1"});
  std::string text = config.to_text();
  EXPECT_THAT(text, HasSubstr("learning_rate: 0.1\n"));
  EXPECT_THAT(text, HasSubstr("max_bad_steps: 5\n"));
  for (auto& [name, written] : {std::pair{"r.textproto", text}, std::pair{"r.json", config.to_json()}}) {
    RunConfig again = load_run_config(write(name, written));
    check_run_config(again);
    EXPECT_EQ(again.to_text(), text) << name;
  }
  RunConfig from_adapter = load_run_config(source_path("configs/smollm2-full.textproto"), {"lora.adapter=a"});
  check_run_config(parse_run_config(from_adapter.to_text(), "r.textproto"));
  RunConfig full = load_run_config(source_path("configs/smollm2-full.textproto"));
  EXPECT_FALSE(parse_run_config(full.to_text(), "f").message().has_lora());
  EXPECT_FALSE(parse_run_config(full.to_text(), "f").message().evaluation().has_generation());
}

TEST_F(LoadConfig, a_config_replaces_fields_of_the_one_it_extends) {
  write("common/base.textproto",
        "model { path: 'm' family: 'llama' }\ntrain { steps: 5 optimizer { beta1: 0.8 beta2: 0.9 } }\n"
        "data { sources { path: 'a' } sources { path: 'b' } }\nsamples { prompts: 'x' }");
  write("middle.textproto", "extends: 'common/base.textproto'\ntrain { steps: 6 }");
  std::string path = write("top.textproto",
                           "extends: 'middle.textproto'\ntrain { optimizer { beta2: 0.95 } }\n"
                           "data { sources { path: 'c' } }");
  RunConfig config = load_run_config(path);
  const auto& message = config.message();
  EXPECT_EQ(message.model().family(), "llama");
  EXPECT_EQ(message.train().steps(), 6);
  EXPECT_EQ(message.train().optimizer().beta1(), 0.8);
  EXPECT_EQ(message.train().optimizer().beta2(), 0.95);
  EXPECT_EQ(message.data().sources_size(), 1);
  EXPECT_EQ(message.data().sources(0).path(), "c");
  EXPECT_EQ(message.samples().prompts_size(), 1);
  EXPECT_FALSE(message.has_extends());
  EXPECT_EQ(config.location("train.optimizer.beta1"), (folder_ / "common/base.textproto:2:30").string());
  EXPECT_EQ(config.location("train.steps"), (folder_ / "middle.textproto:2:9").string());
  EXPECT_EQ(config.location("data.sources[0].weight"), path + ":3:8");
  EXPECT_EQ(config.location("data.sources[1].path"), path + ":3:1");
  EXPECT_EQ(config.location("output.directory"), path);
}

TEST_F(LoadConfig, files_that_are_no_configs) {
  EXPECT_EQ(error_of(folder_ / "none"), (folder_ / "none: no such file").string());
  EXPECT_EQ(error_of(folder_ / "common"), (folder_ / "common: a folder, not a config").string());
  EXPECT_EQ(error_of("/dev/null"), "/dev/null: no regular file");
  EXPECT_EQ(error_of(write("huge", std::string((1 << 20) + 1, ' '))),
            (folder_ / "huge: larger than 1 MB; is it a config?").string());
  EXPECT_THAT(error_of(std::string(5000, 'x')), HasSubstr("xxx…: no such file"));
}

TEST_F(LoadConfig, extending_in_a_circle_or_nothing_is_an_error) {
  std::string a = write("a.textproto", "extends: 'b.textproto'");
  std::string b = write("b.textproto", "\nextends: './common/../a.textproto'");
  EXPECT_EQ(error_of(a), b + ":2:1: extends '" + a + "', which is this file or extends it; remove one of the two");
  std::string c = write("c.textproto", "extends: 'none'");
  EXPECT_EQ(error_of(c), c + ":1:1: extends '" + (folder_ / "none").string() + "': no such file");
  for (int i = 0; i < 20; ++i) {
    write(std::to_string(i), "extends: '" + std::to_string(i + 1) + "'");
  }
  EXPECT_THAT(error_of(folder_ / "0"), HasSubstr("more than 16 files deep"));
}

TEST(Overrides, every_form) {
  RunConfig config = parse_run_config("data { sources { path: 'a' } } lora { target_modules: ['x', 'y'] rank: 2 }",
                                      "x.textproto",
                                      {"train.learning_rate=3e-4",
                                       "train.schedule.kind=Piecewise_Linear",
                                       "train.schedule.points={step: 1 factor: 1}, {step: 5 factor: 0.5}",
                                       "train.schedule.points[1].factor=0.25",
                                       "train.schedule.points+={step: 9}",
                                       "lora.target_modules=q_proj,v_proj",
                                       "lora.target_modules+=a,b",
                                       "lora.layers=1,2",
                                       "data.sources[1].path=b\"=c",
                                       "data.shuffle=false",
                                       "samples.prompts+=Once upon, a time",
                                       "train.adversarial={kind: FGM}",
                                       "model.family="});
  const auto& message = config.message();
  EXPECT_EQ(message.train().learning_rate(), 3e-4);
  EXPECT_EQ(message.train().schedule().kind(), config::ScheduleConfig::PIECEWISE_LINEAR);
  ASSERT_EQ(message.train().schedule().points_size(), 3);
  EXPECT_EQ(message.train().schedule().points(1).factor(), 0.25);
  EXPECT_EQ(message.train().schedule().points(2).step(), 9);
  EXPECT_THAT(message.lora().target_modules(), ElementsAre("q_proj", "v_proj", "a,b"));
  EXPECT_THAT(message.lora().layers(), ElementsAre(1, 2));
  EXPECT_EQ(message.lora().rank(), 2);
  EXPECT_EQ(message.data().sources(0).path(), "a");
  EXPECT_EQ(message.data().sources(1).path(), "b\"=c");
  EXPECT_FALSE(message.data().shuffle());
  EXPECT_THAT(message.samples().prompts(), ElementsAre("Once upon, a time"));
  EXPECT_EQ(message.train().adversarial().kind(), config::AdversarialConfig::FGM);
  EXPECT_EQ(config.location("train.learning_rate"), "--set train.learning_rate");
  EXPECT_EQ(config.location("data.sources[1].path"), "--set data.sources[1].path");
  EXPECT_EQ(config.location("data.sources[0].path"), "x.textproto:1:18");
  EXPECT_EQ(config.location("lora.target_modules[2]"), "--set lora.target_modules");
}

TEST(Overrides, nothing_after_the_sign_removes) {
  RunConfig config =
      parse_run_config("data { sources { path: 'a' } } lora { rank: 2 }", "x.textproto", {"lora=", "data.sources="});
  EXPECT_FALSE(config.message().has_lora());
  EXPECT_EQ(config.message().data().sources_size(), 0);
  EXPECT_EQ(config.location("data.sources[0].path"), "--set data.sources");
}

TEST(Overrides, mistakes) {
  const std::pair<const char*, const char*> cases[] = {
      {"train.steps", "--set train.steps: an override is FIELD=VALUE"},
      {"=5", "--set : an override is FIELD=VALUE"},
      {"train.learning_rat=1",
       "--set train.learning_rat: train has no field 'learning_rat'; did you mean 'learning_rate'?"},
      {"train.optimiser.beta1=1",
       "--set train.optimiser.beta1: train has no field 'optimiser'; did you mean 'optimizer'?"},
      {"train.steps.x=1", "--set train.steps.x: steps is a value and has no fields"},
      {"train=1", "--set train: train is a message; write 'train={…}' or set its fields"},
      {"train.steps=5.5", "--set train.steps: steps needs an integer, found 5.5"},
      {"train.steps=5 epochs: 3", "--set train.steps: steps needs an integer, found '5 epochs: 3'"},
      {"train.steps=", "--set train.steps: steps needs an integer, found ''"},
      {"train.seed=-1", "--set train.seed: seed must be at least 0"},
      {"train.learning_rate=fast", "--set train.learning_rate: learning_rate needs a number, found fast"},
      {"data.shuffle=maybe", "--set data.shuffle: shuffle needs true or false, found maybe"},
      {"train.optimizer.kind=adamv", "--set train.optimizer.kind: kind cannot be 'ADAMV'; did you mean ADAMW?"},
      {"train.steps+=1", "--set train.steps: steps is no list; += adds to lists"},
      {"data.sources.path=x", "--set data.sources.path: sources is a list; name an element: sources[0]"},
      {"data.sources[2].path=x", "--set data.sources[2].path: sources has 1 elements; the next is sources[1]"},
      {"data.sources[x].path=x", "--set data.sources[x].path: 'sources[x]' is no element; write sources[0]"},
      {"data.sources[99999999999].path=x",
       "--set data.sources[99999999999].path: 'sources[99999999999]' is no element; write sources[0]"},
      {"lora[0].rank=1", "--set lora[0].rank: lora is no list"},
      {"data.sources[0]=x", "--set data.sources[0]: an element cannot be set as a whole; set its fields, or the list"},
      {"lora={rnk: 2}", "--set lora: lora has no field 'rnk'; did you mean 'rank'?"},
      {"extends=x", "--set extends: only a file can extend another"},
  };
  for (const auto& [override, error] : cases) EXPECT_EQ(override_error(override), error) << override;
}

TEST(Overrides, a_check_names_the_override) {
  RunConfig config = load_run_config(source_path("configs/smollm2-full.textproto"), {"train.steps=0"});
  try {
    check_run_config(config);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "--set train.steps: train.steps is 0; must be at least 1");
  }
}

TEST(RunnableConfigs, all_of_configs_pass_the_checks) {
  int num_configs = 0;
  for (const auto& entry : fs::directory_iterator(source_path("configs"))) {
    if (entry.path().extension() != ".textproto") continue;
    ++num_configs;
    RunConfig config = load_run_config(entry.path().string());
    EXPECT_NO_THROW(check_run_config(config)) << entry.path();
    int64_t tensor = config.message().parallel().tensor();
    int64_t data = std::max<int64_t>(1, config.message().parallel().data());
    EXPECT_NO_THROW(check_against_ranks(config, static_cast<int>(tensor * data))) << entry.path();
  }
  EXPECT_GE(num_configs, 4);
}

TEST(RankLayout, divides_rows_and_ranks) {
  RunConfig config = parse_run_config("train { batch_size: 48 micro_batch_size: 4 } parallel { tensor: 2 }", "x");
  RankLayout layout = check_against_ranks(config, 6);
  EXPECT_EQ(layout.tensor, 2);
  EXPECT_EQ(layout.data, 3);
  EXPECT_EQ(layout.micro_batch_size, 4);
  EXPECT_EQ(layout.num_micro_batches, 4);
  layout = check_against_ranks(parse_run_config("train { batch_size: 48 }", "x"), 2);
  EXPECT_EQ(layout.micro_batch_size, 24);
  EXPECT_EQ(layout.num_micro_batches, 1);
}

}  // namespace
}  // namespace weft
