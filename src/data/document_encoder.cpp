#include "data/document_encoder.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace weft {
namespace {

// Rendering a conversation up to each answer takes time of their product.
constexpr size_t kMaxRenderedBytes = size_t{1} << 30;

void append(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

size_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

/// As Stanford's Alpaca was trained.
std::string alpaca_prompt(const Instruction& one) {
  const std::string instruction = "### Instruction:\n" + one.instruction + "\n\n";
  if (one.input.empty()) {
    return "Below is an instruction that describes a task. Write a response that appropriately completes the "
           "request.\n\n" +
           instruction + "### Response:\n";
  }
  return "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
         "response that appropriately completes the request.\n\n" +
         instruction + "### Input:\n" + one.input + "\n\n### Response:\n";
}

/// A turn as text: [begin, end) of the conversation, of which an answer begins at `answer`.
struct Turn {
  size_t begin = 0, answer = 0, end = 0;
  bool is_answer = false;
};

/// Renders the beginnings of a conversation, each of which the whole must begin with.
class TurnFinder {
 public:
  TurnFinder(const Tokenizer& tokenizer, std::span<const ChatMessage> messages, const std::string& format)
      : tokenizer_(tokenizer),
        messages_(messages),
        format_(format),
        text_(render_chat(tokenizer, messages, false, format)) {
    if (messages.size() * 2 > kMaxRenderedBytes / std::max<size_t>(text_.size(), 1)) {
      fail_input("a conversation of {} messages and {} bytes is too long; split it", messages.size(), text_.size());
    }
  }

  const std::string& text() const { return text_; }

  std::vector<Turn> turns() const {
    std::vector<Turn> turns;
    size_t begin = 0;
    for (size_t i = 0; i < messages_.size(); ++i) {
      Turn turn = {.begin = begin, .is_answer = messages_[i].role == "assistant"};
      if (turn.is_answer) turn.answer = prefix_length(i, true);
      turn.end = prefix_length(i + 1, false);
      begin = turn.end;
      turns.push_back(turn);
    }
    return turns;
  }

 private:
  size_t prefix_length(size_t num_messages, bool add_generation_prompt) const {
    const std::string prefix =
        render_chat(tokenizer_, messages_.subspan(0, num_messages), add_generation_prompt, format_);
    if (!text_.starts_with(prefix)) {
      fail_input("message {}: the chat format does not let an answer begin here", num_messages + 1);
    }
    return prefix.size();
  }

  const Tokenizer& tokenizer_;
  std::span<const ChatMessage> messages_;
  const std::string& format_;
  std::string text_;
};

}  // namespace

DocumentEncoder::DocumentEncoder(std::shared_ptr<const Tokenizer> tokenizer, const DocumentEncoderOptions& options)
    : tokenizer_(std::move(tokenizer)),
      chat_format_(options.chat_format),
      separate_texts_(options.separate_texts),
      field_names_(options.field_names) {
  if (!chat_format_.empty()) check_chat_format(*tokenizer_, chat_format_);
  find_special_tokens(options);
  can_cut_lines_ = probe_cuts();
  has_chat_format_ = probe_chat_format();
}

void DocumentEncoder::find_special_tokens(const DocumentEncoderOptions& options) {
  if (options.special_tokens) {
    const std::vector<int32_t> with = tokenizer_->encode("a", true);
    const std::vector<int32_t> without = tokenizer_->encode("a", false);
    const auto text = std::search(with.begin(), with.end(), without.begin(), without.end());
    if (text != with.end()) {
      prefix_.assign(with.begin(), text);
      suffix_.assign(text + static_cast<std::ptrdiff_t>(without.size()), with.end());
    }
  }
  if (!options.end_token) return;
  std::optional<int32_t> end;
  if (!options.end_token_text.empty()) {
    end = tokenizer_->token_to_id(options.end_token_text);
    if (!end) fail_input("end token '{}' is not in the vocabulary", printable(options.end_token_text));
  } else if (!tokenizer_->end_ids().empty() && suffix_.empty()) {
    end = tokenizer_->end_ids().front();  // the end of text has the lowest id
  }
  if (end) suffix_.push_back(*end);
}

bool DocumentEncoder::probe_cuts() const {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kProbes = {
      {{"one\n", "two"}, {"The end.\n", "Once more"}, {"x1\n", "2y"}, {"\xE6\x9D\xB1\n", "\xE4\xBA\xAC"}}};
  return std::all_of(kProbes.begin(), kProbes.end(), [&](const auto& probe) {
    std::vector<int32_t> parts = tokenizer_->encode(probe.first, false);
    append(parts, tokenizer_->encode(probe.second, false));
    return tokenizer_->encode(std::string(probe.first) + std::string(probe.second), false) == parts;
  });
}

bool DocumentEncoder::probe_chat_format() const {
  const ChatMessage messages[] = {{"user", "a"}, {"assistant", "b"}};
  try {
    render_chat(*tokenizer_, messages, false, chat_format_);
    return true;
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_input) throw;
    return false;
  }
}

TokenDocument DocumentEncoder::encode_text(std::string_view text) const {
  TokenDocument document;
  const std::vector<int32_t> ids = tokenizer_->encode(text, false);
  if (ids.empty()) return document;
  document.ids.reserve(prefix_.size() + ids.size() + suffix_.size());
  for (const auto* part : {&prefix_, &ids, &suffix_}) append(document.ids, *part);
  document.loss_spans = {{0, document.ids.size()}};
  return document;
}

TokenDocument DocumentEncoder::encode_completion(std::string_view prompt, std::string_view completion) const {
  const std::vector<int32_t> prompt_ids = tokenizer_->encode(prompt, false);
  const std::vector<int32_t> ids = tokenizer_->encode(std::string(prompt) + std::string(completion), false);
  TokenDocument document;
  for (const auto* part : {&prefix_, &ids, &suffix_}) append(document.ids, *part);
  const uint64_t begin = prefix_.size() + common_prefix(prompt_ids, ids);
  if (begin >= document.ids.size()) fail_input("a completion without tokens");
  document.loss_spans = {{begin, document.ids.size()}};
  return document;
}

TokenDocument DocumentEncoder::encode_separately(std::string_view prompt, std::string_view completion) const {
  const std::vector<int32_t> prompt_ids = tokenizer_->encode(prompt, false);
  const std::vector<int32_t> completion_ids = tokenizer_->encode(completion, false);
  if (prompt_ids.empty()) fail_input("a prompt without tokens");
  if (completion_ids.empty()) fail_input("a completion without tokens");
  TokenDocument document;
  for (const auto* part : {&prefix_, &prompt_ids, &suffix_}) append(document.ids, *part);
  const uint64_t begin = document.ids.size();
  for (const auto* part : {&completion_ids, &suffix_}) append(document.ids, *part);
  document.loss_spans = {{begin, document.ids.size()}};
  return document;
}

size_t DocumentEncoder::end_of_answer(const std::vector<int32_t>& ids, size_t begin) const {
  const auto is_special = [&](int32_t id) { return tokenizer_->is_special(id); };
  const auto last = std::find_if(ids.rbegin(), ids.rend() - static_cast<std::ptrdiff_t>(begin), is_special);
  // Without an end token everything belongs to the answer.
  return last == ids.rend() - static_cast<std::ptrdiff_t>(begin) ? ids.size() : static_cast<size_t>(ids.rend() - last);
}

TokenDocument DocumentEncoder::encode_chat(const std::vector<ChatMessage>& messages, size_t first_scored) const {
  const TurnFinder finder(*tokenizer_, messages, chat_format_);
  const std::string_view text = finder.text();
  TokenDocument document;
  // Every turn begins with a special token, which no token of the text before reaches over.
  const std::vector<Turn> turns = finder.turns();
  for (size_t i = 0; i < turns.size(); ++i) {
    const Turn& turn = turns[i];
    const std::vector<int32_t> ids = tokenizer_->encode(text.substr(turn.begin, turn.end - turn.begin), false);
    if (turn.is_answer && i >= first_scored) {
      const auto head = tokenizer_->encode(text.substr(turn.begin, turn.answer - turn.begin), false);
      const size_t begin = common_prefix(head, ids);
      const size_t end = end_of_answer(ids, begin);
      const uint64_t start = document.ids.size();
      if (begin < end) document.loss_spans.push_back({start + begin, start + end});
    }
    append(document.ids, ids);
  }
  if (document.loss_spans.empty()) fail_input("a conversation without an answer of the assistant");
  return document;
}

TokenDocument DocumentEncoder::encode_instruction(const Instruction& one) const {
  const std::string request = one.input.empty() ? one.instruction : one.instruction + "\n" + one.input;
  if (separate_texts_) return encode_separately(request, one.output);
  if (has_chat_format_) return encode_chat({{"user", request}, {"assistant", one.output}});
  return encode_completion(alpaca_prompt(one), one.output);
}

TokenDocument DocumentEncoder::encode(const TrainingDocument& document) const {
  if (document.text) return encode_text(*document.text);
  if (document.completion && separate_texts_) return encode_separately(*document.prompt, *document.completion);
  if (document.completion) return encode_completion(*document.prompt, *document.completion);
  if (document.instruction) return encode_instruction(*document.instruction);
  return encode_chat(document.messages);
}

}  // namespace weft
