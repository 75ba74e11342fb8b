#include "launcher/answer_printer.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/log.h"

namespace weft {

namespace {

using Json = nlohmann::ordered_json;

Json logprobs_to_json(const GenerationResult& result, const Tokenizer* tokenizer) {
  auto describe = [&](int32_t id, float logprob) {
    Json object = {{"id", id}};
    if (tokenizer != nullptr) object["token"] = tokenizer->decode(std::span(&id, 1), false);
    object["logprob"] = logprob;
    return object;
  };
  Json list = Json::array();
  for (size_t i = 0; i < result.logprobs.size(); ++i) {
    const TokenLogprobs& of = result.logprobs[i];
    Json object = describe(result.ids[i], of.logprob);
    Json top = Json::array();
    for (auto [id, logprob] : of.top) top.push_back(describe(id, logprob));
    if (!top.empty()) object["top"] = std::move(top);
    list.push_back(std::move(object));
  }
  return list;
}

/// As it was given.
Json describe(const Prompt& prompt) {
  Json object = Json::object();
  if (!prompt.id.empty()) object["id"] = Json::parse(prompt.id);
  if (prompt.messages.empty()) {
    object["prompt"] = prompt.text;
  } else {
    for (const ChatMessage& message : prompt.messages) {
      object["messages"].push_back({{"role", message.role}, {"content", message.content}});
    }
  }
  return object;
}

}  // namespace

void write_answer(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void AnswerPrinter::add_prompt(const Prompt& prompt) {
  for (size_t sequence = 0; sequence < format_.answers_a_prompt; ++sequence) {
    places_.push_back(answers_.size());
    answers_.push_back({.prompt = prompt, .sequence = sequence, .result = nullptr, .message = {}});
  }
}

void AnswerPrinter::add_unusable_prompt(const Prompt& prompt, const std::string& message) {
  log::error("{}", message);
  answers_.push_back({.prompt = prompt, .result = nullptr, .message = message, .is_complete = true});
  print_complete();
}

void AnswerPrinter::on_token(const DrawnToken& token) {
  if (format_.is_streaming && !token.text.empty()) write_answer(token.text);
}

void AnswerPrinter::on_finish(size_t index, const GenerationResult& result) {
  Answer& answer = answers_[places_[index]];
  answer.result = std::make_unique<GenerationResult>(result);
  answer.is_complete = true;
  print_complete();
}

void AnswerPrinter::on_finish(size_t prompt, const BeamResults& results) {
  for (size_t sequence = 0; sequence < format_.answers_a_prompt; ++sequence) {
    Answer& answer = answers_[places_[prompt * format_.answers_a_prompt + sequence]];
    if (sequence < results.size()) answer.result = std::make_unique<GenerationResult>(results[sequence]);
    answer.is_complete = true;
  }
  print_complete();
}

void AnswerPrinter::print_complete() {
  for (; num_printed_ < answers_.size() && answers_[num_printed_].is_complete; ++num_printed_) {
    print(answers_[num_printed_]);
    answers_[num_printed_] = {};
  }
}

void AnswerPrinter::print(const Answer& answer) {
  if (answer.result == nullptr && answer.message.empty()) return;
  if (format_.is_json) {
    write_answer(to_json(answer) + "\n");
  } else if (answer.result == nullptr) {
    write_answer("\n");
  } else if (format_.is_ids) {
    write_answer(fmt::format("{}\n", fmt::join(answer.result->ids, " ")));
  } else {
    if (!format_.is_streaming) write_answer(answer.result->text);
    if (!answer.result->text.ends_with('\n')) write_answer("\n");
  }
}

std::string AnswerPrinter::to_json(const Answer& answer) const {
  Json object = describe(answer.prompt);
  if (answer.result == nullptr) {
    object["error"] = answer.message;
  } else {
    const GenerationResult& result = *answer.result;
    auto num_tokens = static_cast<double>(result.ids.size());
    object.update({
        {"sequence", answer.sequence},
        {"text", result.text},
        {"ids", result.ids},
        {"finish_reason", finish_reason_name(result.finish_reason)},
        {"prompt_tokens", result.prompt_tokens},
        {"new_tokens", result.ids.size()},
        {"first_token_seconds", result.first_token_seconds},
        {"tokens_per_second", result.decode_seconds > 0 ? (num_tokens - 1) / result.decode_seconds : 0.0},
    });
    if (format_.has_score) object["score"] = result.score;
    if (!result.logprobs.empty()) object["logprobs"] = logprobs_to_json(result, format_.tokenizer);
  }
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace weft
