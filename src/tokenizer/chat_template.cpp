#include "tokenizer/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace weft {

namespace {

struct ChatRequest {
  const Tokenizer& tokenizer;
  std::span<const ChatMessage> messages;
  bool add_generation_prompt = false;
};

std::string bos_text(const Tokenizer& tokenizer) {
  return tokenizer.bos_id() ? tokenizer.id_to_token(*tokenizer.bos_id()) : std::string();
}

/// Jinja's trim: white space as Python's str.strip has it, in the ASCII range.
std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\n\v\f\r\x1C\x1D\x1E\x1F";
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

std::string llama3_turn(std::string_view role, std::string_view content) {
  return fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", role, content);
}

std::string llama3_turns(const ChatRequest& request, std::span<const ChatMessage> messages) {
  std::string text;
  for (const ChatMessage& message : messages) text += llama3_turn(message.role, trim(message.content));
  if (request.add_generation_prompt) text += "<|start_header_id|>assistant<|end_header_id|>\n\n";
  return text;
}

std::string render_llama3(const ChatRequest& request) {
  return bos_text(request.tokenizer) + llama3_turns(request, request.messages);
}

/// The date is the one the template falls back to, so that a prompt is the same every day.
std::string render_llama31(const ChatRequest& request) {
  const bool has_system = !request.messages.empty() && request.messages[0].role == "system";
  std::string system = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
  if (has_system) system += trim(request.messages[0].content);
  return bos_text(request.tokenizer) + llama3_turn("system", system) +
         llama3_turns(request, request.messages.subspan(has_system ? 1 : 0));
}

/// The system text that a ChatML template itself supplies: the one it writes out between its markers. Empty when it has
/// none.
std::string default_system_text(std::string_view chat_template) {
  constexpr std::string_view kEnd = "<|im_end|>";
  for (const std::string_view begin_mark : {"<|im_start|>system\n", "<|im_start|>system\\n"}) {
    for (size_t begin = chat_template.find(begin_mark); begin != std::string_view::npos;
         begin = chat_template.find(begin_mark, begin + 1)) {
      const std::string_view rest = chat_template.substr(begin + begin_mark.size());
      const std::string_view text = rest.substr(0, rest.find(kEnd));
      const bool is_written_out =
          rest.find(kEnd) != std::string_view::npos && text.find_first_of("'\"{}") == std::string_view::npos;
      if (is_written_out) return std::string(text);
    }
  }
  return {};
}

std::string render_chatml(const ChatRequest& request) {
  std::string text;
  const auto add_turn = [&](std::string_view role, std::string_view content) {
    text += fmt::format("<|im_start|>{}\n{}<|im_end|>\n", role, content);
  };
  const std::string system = default_system_text(request.tokenizer.chat_template());
  const bool lacks_system = request.messages.empty() || request.messages[0].role != "system";
  if (lacks_system && !request.messages.empty() && !system.empty()) add_turn("system", system);
  for (const ChatMessage& message : request.messages) add_turn(message.role, message.content);
  if (request.add_generation_prompt) text += "<|im_start|>assistant\n";
  return text;
}

std::string render_gemma(const ChatRequest& request) {
  std::string text = bos_text(request.tokenizer);
  for (size_t i = 0; i < request.messages.size(); ++i) {
    const ChatMessage& message = request.messages[i];
    if (message.role == "system") {
      fail_input("chat format gemma has no system role; put the text into the first user message");
    }
    const std::string_view expected = i % 2 == 0 ? "user" : "assistant";
    if (message.role != expected) {
      fail_input(
          "chat format gemma: message {} has role '{}', expected '{}': user and assistant take turns, the user first",
          i + 1,
          printable(message.role),
          expected);
    }
    text += fmt::format("<start_of_turn>{}\n{}<end_of_turn>\n", i % 2 == 0 ? "user" : "model", trim(message.content));
  }
  if (request.add_generation_prompt) text += "<start_of_turn>model\n";
  return text;
}

/// A blank line ends a turn, so there is none inside it.
std::string fold_blank_lines(std::string_view text) {
  std::string folded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    if (text[i] != '\n' || !folded.ends_with('\n')) folded += text[i];
  }
  return folded;
}

std::string render_rwkv(const ChatRequest& request) {
  std::string text;
  for (const ChatMessage& message : request.messages) {
    if (message.role != "user" && message.role != "assistant") {
      fail_input("chat format rwkv has no role '{}', only user and assistant; put the text into the first user message",
                 printable(message.role));
    }
    text += message.role == "user" ? "User:" : "Assistant:";
    const std::string content = fold_blank_lines(trim(message.content));
    text += fmt::format("{}{}\n\n", content.empty() ? "" : " ", content);
  }
  if (request.add_generation_prompt) text += "Assistant:";
  return text;
}

struct ChatFormat {
  std::string_view name;
  std::string_view marker;                 // in the templates of this format
  std::string_view second_marker;          // as well, if not empty
  std::string_view tokenizer;              // if not empty, recognised by the tokenizer's type instead
  std::string_view end_of_turn;            // the text that ends an answer, where no special token does
  std::array<std::string_view, 3> tokens;  // that the vocabulary has to have; empty: none
  std::string (*render)(const ChatRequest& request);
};

constexpr std::array<std::string_view, 3> kLlama3Tokens = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};

// In the order of recognition.
constexpr std::array<ChatFormat, 5> kFormats = {{
    {"llama3.1", "<|start_header_id|>", "Cutting Knowledge Date", "", "", kLlama3Tokens, render_llama31},
    {"llama3", "<|start_header_id|>", "", "", "", kLlama3Tokens, render_llama3},
    {"chatml", "<|im_start|>", "", "", "", {"<|im_start|>", "<|im_end|>"}, render_chatml},
    {"gemma", "<start_of_turn>", "", "", "", {"<start_of_turn>", "<end_of_turn>"}, render_gemma},
    {"rwkv", "", "", "rwkv", "\n\n", {}, render_rwkv},
}};

std::string format_names() {
  std::string names;
  for (const ChatFormat& format : kFormats) names += fmt::format("{}{}", names.empty() ? "" : ", ", format.name);
  return names;
}

bool is_recognised(const ChatFormat& format, const Tokenizer& tokenizer) {
  if (!format.tokenizer.empty()) return tokenizer.type() == format.tokenizer;
  const auto holds = [&](std::string_view marker) {
    return tokenizer.chat_template().find(marker) != std::string::npos;
  };
  return holds(format.marker) && holds(format.second_marker);
}

/// Null when there is none.
const ChatFormat* find_format(const Tokenizer& tokenizer, std::string_view name) {
  const auto* found = std::find_if(kFormats.begin(), kFormats.end(), [&](const ChatFormat& format) {
    return name.empty() ? is_recognised(format, tokenizer) : format.name == name;
  });
  return found == kFormats.end() ? nullptr : found;
}

/// What marks the turns of a format that the user named has to be known as such.
void check_tokens(const ChatFormat& format, const Tokenizer& tokenizer) {
  std::string missing;
  for (const std::string_view token : format.tokens) {
    if (token.empty() || tokenizer.token_to_id(token)) continue;
    missing += fmt::format("{}{}", missing.empty() ? "" : ", ", token);
  }
  if (missing.empty()) return;
  fail_input("--chat-format {}: the tokenizer's vocabulary lacks {}; name the format that the model was made for",
             format.name,
             missing);
}

const ChatFormat& require_format(const Tokenizer& tokenizer, std::string_view name) {
  if (const ChatFormat* format = find_format(tokenizer, name)) {
    if (!name.empty()) check_tokens(*format, tokenizer);
    return *format;
  }
  if (!name.empty()) fail_input("--chat-format {}: no such format; known are {}", printable(name), format_names());
  if (tokenizer.chat_template().empty()) {
    fail_input(
        "this model comes without a chat template; name its chat format with --chat-format (of weft generate, chat, "
        "serve and prepare), one of {}",
        format_names());
  }
  fail_input(
      "this model's chat template is of no format that Weft knows; name one with --chat-format (of weft generate, "
      "chat, "
      "serve and prepare), one of {}, or give plain prompts",
      format_names());
}

}  // namespace

std::string render_chat(const Tokenizer& tokenizer,
                        std::span<const ChatMessage> messages,
                        bool add_generation_prompt,
                        std::string_view format) {
  return require_format(tokenizer, format).render({tokenizer, messages, add_generation_prompt});
}

void check_chat_format(const Tokenizer& tokenizer, std::string_view format) {
  require_format(tokenizer, format);
}

std::vector<int32_t> chat_end_ids(const Tokenizer& tokenizer, std::string_view format) {
  std::vector<int32_t> ids = tokenizer.end_ids();
  const ChatFormat* found = find_format(tokenizer, format);
  if (found == nullptr || found->end_of_turn.empty()) return ids;
  const std::vector<int32_t> end = tokenizer.encode(found->end_of_turn, false);
  if (end.size() == 1) ids.push_back(end[0]);
  return ids;
}

}  // namespace weft
