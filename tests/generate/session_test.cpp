#include "generate/session.h"

#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "generate/generator.h"
#include "generate/toy_model.h"
#include "models/registry.h"
#include "support/paths.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class SessionTest : public testing::Test {
 protected:
  static GenerationRequest greedy(std::vector<int32_t> prompt, int64_t max_new_tokens) {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.max_new_tokens = max_new_tokens;
    return request;
  }

  static std::string message_of(const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_input);
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
  }

  std::string path_ = (fs::path(testing::TempDir()) / "a.session").string();
  Context context_ = make_cpu_context(1);
};

TEST_F(SessionTest, GoesOnWhereTheAnswerEndedAndComputesNothingAgain) {
  ToyModel model;
  std::vector<int32_t> expected = model.expected_answer({3, 1, 2}, 20);
  Generator first(context_, model, {});
  first.run(std::vector{greedy({9, 9}, 4)});
  first.run(std::vector{greedy({3, 1, 2}, 12)});
  first.save_session(path_, "a note");
  EXPECT_FALSE(fs::exists(fs::path(path_).parent_path() / ".a.session.part.safetensors"));

  Generator second(context_, model, {});
  Session session = second.load_session(path_);
  EXPECT_EQ(session.notes, "a note");
  EXPECT_EQ(session.cached, 3 + 11);
  ASSERT_EQ(session.ids.size(), 3u + 12);
  model.num_computed = 0;
  auto results = second.run(std::vector{greedy(session.ids, 8)});
  EXPECT_EQ(results[0].ids, std::vector<int32_t>(expected.begin() + 12, expected.end()));
  EXPECT_EQ(model.num_computed, 8);
}

TEST_F(SessionTest, WhatCannotBeSavedIsCalledByItsNameAndLeavesNothing) {
  ToyModel model;
  Generator generator(context_, model, {});
  generator.run(std::vector{greedy({3, 1, 2}, 2)});
  fs::path folder = fs::path(testing::TempDir()) / "in_the_way.session";
  fs::create_directories(folder / "inside");
  EXPECT_THAT(message_of([&] { generator.save_session(folder.string()); }),
              testing::StartsWith(folder.string() + ": the session cannot be saved: cannot be renamed"));
  EXPECT_FALSE(fs::exists(folder.parent_path() / ".in_the_way.session.part.safetensors"));
  fs::remove_all(folder);
}

TEST_F(SessionTest, WhatWasLoadedCanBeSavedAgain) {
  ToyModel model;
  Generator first(context_, model, {});
  EXPECT_THAT(message_of([&] { first.save_session(path_); }), HasSubstr("nothing to save"));
  first.run(std::vector{greedy({3, 1, 2}, 5)});
  first.save_session(path_);
  Generator second(context_, model, {});
  Session session = second.load_session(path_);
  second.save_session(path_ + "2");
  Generator third(context_, model, {});
  EXPECT_EQ(third.load_session(path_ + "2").ids, session.ids);
}

TEST_F(SessionTest, OtherModelsAndDamagedFilesAreRefused) {
  ToyModel model;
  Generator first(context_, model, {});
  first.run(std::vector{greedy({3, 1, 2}, 5)});
  first.save_session(path_);
  auto load = [&](const GeneratorOptions& options) {
    Generator generator(context_, model, options);
    generator.load_session(path_);
  };
  EXPECT_THAT(message_of([&] { load({.cache_dtype = DType::bf16}); }),
              HasSubstr("another model, --dtype or --quantize"));

  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-3, std::ios::end);
  int byte = file.get();
  file.seekp(-3, std::ios::end);
  file.put(static_cast<char>(byte ^ 0x55));
  file.close();
  EXPECT_THAT(message_of([&] { load({}); }), HasSubstr("damaged session"));
  fs::resize_file(path_, fs::file_size(path_) - 8);
  EXPECT_THAT(message_of([&] { load({}); }), HasSubstr("damaged or truncated"));
  std::ofstream(path_) << "no session";
  EXPECT_THAT(message_of([&] { load({}); }), HasSubstr("no safetensors file"));
  fs::remove(path_);
  EXPECT_THAT(message_of([&] { load({}); }), HasSubstr("a.session"));
}

TEST_F(SessionTest, StatesOfARecurrentModelGoOnToTheBit) {
  OpenedModel opened = open_model({.path = test_data("hf/rwkv6/rwkv6.pth"), .family = {}, .compat = {}});
  auto model = opened.make({});
  load_parameters(context_, opened, *model, {.dtype = DType::f32});
  KvCacheShape shape = model->kv_cache_shape(DType::f32);
  auto logits_of = [&](KvCache& cache, const std::vector<int32_t>& ids, int64_t past, int64_t slot) {
    Batch batch;
    batch.ids = ids;
    batch.sequences = {{.begin = 0, .length = static_cast<int64_t>(ids.size()), .past = past, .slot = slot}};
    return model->logits(context_, model->hidden(context_, batch, &cache));
  };
  std::vector<int32_t> begun = {5, 17, 90, 4, 33, 8}, next = {12, 7, 101};
  KvCache straight(context_, shape, 2, 16);
  logits_of(straight, begun, 0, 1);
  write_session(path_, *model, straight, 1, {.ids = begun, .cached = 6});
  Tensor expected = logits_of(straight, next, 6, 1);

  KvCache resumed(context_, shape, 3, 32);
  SessionFile(path_, *model, shape).read_into(resumed, 2);
  Tensor actual = logits_of(resumed, next, 6, 2);
  ASSERT_EQ(actual.bytes(), expected.bytes());
  EXPECT_EQ(std::memcmp(actual.raw(), expected.raw(), expected.bytes()), 0);

  static_cast<float*>(model->parameters().find("ln_out.weight")->value.raw())[0] += 1;
  EXPECT_THAT(message_of([&] { SessionFile(path_, *model, shape); }), HasSubstr("another model"));
}

}  // namespace
}  // namespace weft
