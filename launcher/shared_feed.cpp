#include "launcher/shared_feed.h"

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "launcher/common.h"
#include "parallel/communicator.h"

namespace weft {

// Every member but penalty_range, which may be absent.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(SamplerOptions,
                                   greedy,
                                   temperature,
                                   top_k,
                                   top_p,
                                   min_p,
                                   penalty,
                                   penalty_window,
                                   window_mode,
                                   presence_penalty,
                                   frequency_penalty,
                                   logit_bias,
                                   forbidden_ids,
                                   seed,
                                   padded_length)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Condition, label, values)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(GenerationRequest,
                                   prompt,
                                   source,
                                   condition,
                                   sampling,
                                   sequence,
                                   max_new_tokens,
                                   min_new_tokens,
                                   end_ids,
                                   stop_strings,
                                   num_logprobs)

namespace {

constexpr const char* kPenaltyRange = "penalty_range";

nlohmann::json to_json(const GenerationRequest& request) {
  nlohmann::json object = request;
  if (request.sampling.penalty_range) object[kPenaltyRange] = *request.sampling.penalty_range;
  return object;
}

GenerationRequest request_from_json(const nlohmann::json& object) {
  GenerationRequest request = object;
  auto range = object.find(kPenaltyRange);
  if (range != object.end()) request.sampling.penalty_range = range->get<std::pair<int64_t, int64_t>>();
  return request;
}

}  // namespace

std::string to_bytes(const RequestFeed::Update& update) {
  nlohmann::json requests = nlohmann::json::array();
  for (const GenerationRequest& request : update.requests) requests.push_back(to_json(request));
  std::vector<uint8_t> bytes = nlohmann::json::to_cbor({requests, update.cancelled, update.is_closed});
  return {bytes.begin(), bytes.end()};
}

RequestFeed::Update update_from_bytes(const std::string& bytes) {
  nlohmann::json list = nlohmann::json::from_cbor(bytes);
  RequestFeed::Update update{.requests = {}, .cancelled = list[1], .is_closed = list[2]};
  for (const nlohmann::json& object : list[0]) update.requests.push_back(request_from_json(object));
  return update;
}

RequestFeed::Update SharedFeed::next(int64_t places, bool is_idle) {
  if (ranks_.size() == 1) return source_->next(places, is_idle);
  Update update;
  std::string bytes;
  if (ranks_.rank() == 0) {
    update = source_->next(places, is_idle);
    bool says_nothing = update.requests.empty() && update.cancelled.empty() && !update.is_closed;
    if (!says_nothing) bytes = to_bytes(update);
  } else if (is_idle) {
    std::this_thread::sleep_for(std::chrono::milliseconds(kPollMs));
  }
  broadcast_string(context_, ranks_, bytes);
  if (ranks_.rank() != 0 && !bytes.empty()) update = update_from_bytes(bytes);
  return update;
}

}  // namespace weft
