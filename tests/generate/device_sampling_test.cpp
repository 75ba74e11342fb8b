// Generation on a device that chooses the tokens itself, by memory that the host may not touch (kernels/guarded.h).
#include <gtest/gtest.h>

#include "core/error.h"
#include "generate/generator.h"
#include "kernels/guarded.h"
#include "models/registry.h"
#include "support/paths.h"

namespace weft {
namespace {

/// A model of tests/data, and how often it has been asked to compute.
class CountedModel final : public LanguageModel {
 public:
  CountedModel(Context& context, const std::string& name) : LanguageModel({}) {
    OpenedModel opened = open_model({.path = test_data("hf/") + name, .family = {}, .compat = {}});
    model_ = opened.make({});
    load_parameters(context, opened, *model_, {.dtype = DType::f32});
  }
  const ModelInfo& info() const override { return model_->info(); }
  Tensor hidden(Context& context, const Batch& batch, KvCache* cache) override {
    ++num_passes;
    return model_->hidden(context, batch, cache);
  }
  Tensor local_logits(Context& context, const Tensor& hidden, const Batch* batch) override {
    return model_->local_logits(context, hidden, batch);
  }
  KvCacheShape kv_cache_shape(DType dtype) const override { return model_->kv_cache_shape(dtype); }

  int num_passes = 0;

 private:
  std::unique_ptr<LanguageModel> model_;
};

/// Requests that differ in all that says how tokens are chosen.
std::vector<GenerationRequest> requests_of_all_kinds(int64_t vocab_size) {
  std::vector<GenerationRequest> requests;
  auto add = [&](const auto& change) {
    GenerationRequest request;
    RandomKey key{.seed = 4, .step = static_cast<uint32_t>(requests.size())};
    for (uint64_t i = 0; i < 3 + 5 * requests.size() % 11; ++i) {
      request.prompt.push_back(static_cast<int32_t>(key.bits(i) % static_cast<uint64_t>(vocab_size)));
    }
    request.sequence = requests.size();
    request.max_new_tokens = 20 + static_cast<int64_t>(requests.size()) % 3;
    request.sampling.greedy = false;
    request.sampling.seed = 77;
    change(request);
    requests.push_back(request);
  };
  add([](GenerationRequest& request) { request.sampling.greedy = true; });
  add([](GenerationRequest&) {});
  add([](GenerationRequest& request) { request.sampling.temperature = 0.6; });
  add([](GenerationRequest& request) { request.sampling.top_k = 7; });
  add([](GenerationRequest& request) { request.sampling.top_p = 0.8; });
  add([](GenerationRequest& request) { request.sampling.min_p = 0.2; });
  add([](GenerationRequest& request) {
    request.sampling.top_k = 30;
    request.sampling.top_p = 0.9;
    request.sampling.forbidden_ids = {1, 5, 9, 5};
  });
  add([](GenerationRequest& request) { request.sampling.penalty = 1.4; });
  add([](GenerationRequest& request) {
    request.sampling.greedy = true;
    request.sampling.penalty = 3;
    request.sampling.penalty_range = {1, 4};
  });
  add([](GenerationRequest& request) {
    request.sampling.penalty = 2;
    request.sampling.penalty_window = 1;
  });
  add([](GenerationRequest& request) {
    request.sampling.penalty = 1.5;
    request.sampling.penalty_window = 4;
    request.sampling.window_mode = PenaltyWindow::block;
    request.sampling.padded_length = 64;
  });
  add([](GenerationRequest& request) {
    request.sampling.presence_penalty = 0.5;
    request.sampling.frequency_penalty = 0.25;
    request.sampling.logit_bias = {{3, 2}};
  });
  add([](GenerationRequest& request) {
    request.sampling.temperature = 2;
    request.min_new_tokens = 9;
    for (int32_t id = 0; id < 70; ++id) request.end_ids.push_back(id);
  });
  return requests;
}

class DeviceSampling : public ::testing::TestWithParam<const char*> {
 protected:
  Context host_ = make_cpu_context(1);
  Context device_ = make_context(make_guarded_allocator(), 1);
};

TEST_P(DeviceSampling, ChoosesWhatTheHostChoosesInBatchesOfAnySize) {
  CountedModel on_host(host_, GetParam()), on_device(device_, GetParam());
  std::vector<GenerationRequest> requests = requests_of_all_kinds(on_host.info().vocab_size);
  std::vector<std::vector<int32_t>> expected;
  for (const GenerationResult& result : Generator(host_, on_host, {.max_batch = 1}).run(requests)) {
    expected.push_back(result.ids);
  }
  EXPECT_LT(expected.back().size(), 20u) << "one ends early";
  for (int64_t max_batch : {1, 3, 64}) {
    Generator generator(device_, on_device, {.max_batch = max_batch, .prefill_chunk = 16});
    for (int round = 0; round < 2; ++round) {
      auto results = generator.run(requests);
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(results[i].ids, expected[i])
            << "request " << i << ", round " << round << ", batches of " << max_batch;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DeviceSampling, ::testing::Values("llama_gqa", "gpt2"), [](const auto& tested) {
  return std::string(tested.param);
});

/// What runs ahead is seen by the passes that have been queued when a token becomes known.
TEST(DeviceSamplingLoop, QueuesTheNextPassBeforeAnyTokenIsKnown) {
  Context device = make_context(make_guarded_allocator(), 1);
  CountedModel model(device, "llama_gqa");
  for (GenerationRequest request : requests_of_all_kinds(model.info().vocab_size)) {
    if (adds_to_logits(request.sampling)) continue;  // on the host
    request.end_ids = {};
    model.num_passes = 0;
    int64_t known = 0;
    GenerationHooks hooks;
    hooks.on_token = [&](const DrawnToken&) {
      ++known;
      EXPECT_EQ(model.num_passes, std::min(known + 1, request.max_new_tokens)) << "request " << request.sequence;
    };
    Generator(device, model, {.max_batch = 1}).run(std::span(&request, 1), hooks);
    EXPECT_EQ(known, request.max_new_tokens);
  }
}

TEST(DeviceSamplingLoop, SaysSoWhereNoTokenCanBeChosen) {
  Context device = make_context(make_guarded_allocator(), 1);
  CountedModel model(device, "llama_gqa");
  GenerationRequest request;
  request.prompt = {1, 2, 3};
  request.sampling.greedy = false;
  for (int32_t id = 0; id < model.info().vocab_size; ++id) request.sampling.forbidden_ids.push_back(id);
  EXPECT_THROW(Generator(device, model, {}).run(std::span(&request, 1)), Error);
}

}  // namespace
}  // namespace weft
