// Clients in threads of their own, one generator.
#include "serve/request_queue.h"

#include <gmock/gmock.h>

#include <thread>

#include "core/error.h"
#include "generate/toy_model.h"

namespace weft {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

GenerationRequest request_of(int32_t seed, int64_t max_new_tokens) {
  GenerationRequest request;
  for (int32_t i = 0; i < 3 + seed % 5; ++i) request.prompt.push_back((seed * 7 + i * 3) % 64);
  request.max_new_tokens = max_new_tokens;
  return request;
}

/// All that a stream still brings.
GenerationResult wait_for_end(AnswerStream& stream, std::vector<int32_t>& ids) {
  for (;;) {
    AnswerStream::Part part = stream.wait(seconds(10));
    for (const AnswerStream::Token& token : part.tokens) ids.push_back(token.id);
    if (part.result) return *part.result;
  }
}

class Serving : public testing::Test {
 protected:
  ~Serving() override {
    queue_.close();
    if (thread_.joinable()) thread_.join();
  }

  void start() {
    thread_ = std::thread([this] {
      Generator generator(context_, model_, {.max_batch = 3, .prefill_chunk = 8});
      generator.serve(queue_, queue_.hooks());
    });
  }

  Context context_ = make_cpu_context(1);
  ToyModel model_;
  RequestQueue queue_{6, milliseconds(5)};
  std::thread thread_;
};

TEST_F(Serving, EveryClientGetsItsOwnAnswer) {
  start();
  std::vector<std::thread> clients;
  std::atomic<int> num_right = 0;
  for (int32_t client = 0; client < 6; ++client) {
    clients.emplace_back([&, client] {
      for (int32_t round = 0; round < 5; ++round) {
        GenerationRequest request = request_of(client * 10 + round, 4 + (client + round) % 9);
        auto streams = queue_.submit({request});
        if (streams.size() != 1) return;
        std::vector<int32_t> ids;
        GenerationResult result = wait_for_end(*streams[0], ids);
        auto expected = model_.expected_answer(request.prompt, static_cast<size_t>(request.max_new_tokens));
        num_right += ids == expected && result.ids == expected ? 1 : 0;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(num_right, 30);
  EXPECT_EQ(queue_.counts().requests, 30);
  EXPECT_EQ(queue_.counts().finished, 30);
  EXPECT_EQ(queue_.counts().running, 0);
}

TEST_F(Serving, RefusesMoreThanItHolds) {
  std::vector<GenerationRequest> four(4, request_of(1, 5));
  auto first = queue_.submit(four);
  EXPECT_EQ(first.size(), 4u);
  EXPECT_TRUE(queue_.submit(four).empty());
  auto rest = queue_.submit({request_of(2, 5), request_of(3, 5)});
  EXPECT_EQ(rest.size(), 2u);
  EXPECT_EQ(queue_.counts().refused, 1);
  start();
  for (const auto& stream : first) {
    std::vector<int32_t> ids;
    EXPECT_EQ(wait_for_end(*stream, ids).ids, model_.expected_answer(four[0].prompt, 5));
  }
}

TEST_F(Serving, ACancelledAnswerEndsWhetherItHasBegunOrNot) {
  std::vector<GenerationRequest> requests(4, request_of(1, 4000));
  auto streams = queue_.submit(requests);
  start();
  EXPECT_FALSE(streams[0]->wait(seconds(10)).tokens.empty());
  queue_.cancel(streams[3].get());  // three grow at a time
  queue_.cancel(streams[0].get());
  std::vector<int32_t> ids;
  EXPECT_EQ(wait_for_end(*streams[0], ids).finish_reason, FinishReason::interrupted);
  queue_.cancel(streams[1].get());
  queue_.cancel(streams[2].get());
  EXPECT_EQ(wait_for_end(*streams[2], ids).finish_reason, FinishReason::interrupted);
  EXPECT_EQ(queue_.counts().waiting, 0);
}

TEST_F(Serving, AClosedQueueAnswersWhatItHasAndTakesNothing) {
  auto streams = queue_.submit({request_of(1, 30), request_of(2, 30), request_of(3, 30), request_of(4, 30)});
  queue_.close();
  EXPECT_TRUE(queue_.submit({request_of(5, 3)}).empty());
  start();
  thread_.join();
  for (int32_t i = 0; i < 4; ++i) {
    std::vector<int32_t> ids;
    EXPECT_EQ(wait_for_end(*streams[static_cast<size_t>(i)], ids).ids,
              model_.expected_answer(request_of(i + 1, 30).prompt, 30));
  }
}

}  // namespace
}  // namespace weft
