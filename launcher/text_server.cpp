#include "launcher/text_server.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "launcher/common.h"
#include "launcher/interrupt.h"
#include "launcher/shared_feed.h"
#include "models/sentence_settings.h"
#include "parallel/communicator.h"
#include "serve/http_server.h"

namespace weft {
namespace {

bool is_reranker(const ModelInfo& info) {
  const TaskHead& head = info.task_head;
  return head.kind == TaskHead::Kind::sequence_classification && head.labels.size() == 1;
}

Pooling resolve_pooling(const TextServerOptions& options, const InferenceModel& loaded) {
  if (is_reranker(loaded.model->info())) return Pooling::classified;
  std::string name = options.pooling;
  if (name.empty()) name = read_sentence_pooling(loaded.opened.path);
  return name.empty() ? Pooling::mean : parse_pooling(name);
}

int64_t resolve_length(const TextServerOptions& options, const InferenceModel& loaded) {
  int64_t most = loaded.model->info().max_positions;
  if (most > 0 && options.max_length > most) {
    fail(ExitCode::usage, "serve: --context {} is more than the model's {} tokens", options.max_length, most);
  }
  int64_t length = options.max_length > 0 ? options.max_length : read_sentence_length(loaded.opened.path);
  if (length == 0) return most;
  return most > 0 ? std::min(length, most) : length;
}

/// Texts that only rank 0 sees coming, for all ranks.
class SharedTexts {
 public:
  SharedTexts(const Context& context, Communicator& ranks) : context_(context), ranks_(ranks) {}

  /// What rank 0 gives; false when nothing more comes.
  bool share(std::vector<TokenisedText>& texts, bool is_finished) {
    if (ranks_.size() == 1) return !is_finished;
    std::vector<std::vector<int32_t>> lists;
    bool says_nothing = texts.empty() && !is_finished;
    if (ranks_.rank() == 0 && !says_nothing) {
      lists.push_back({is_finished ? 1 : 0});
      for (const TokenisedText& text : texts) {
        lists.push_back(text.ids);
        lists.push_back(text.segments);
      }
    } else if (ranks_.rank() != 0 && !was_busy_) {
      std::this_thread::sleep_for(std::chrono::milliseconds(SharedFeed::kPollMs));
    }
    broadcast_ids(context_, ranks_, lists);
    if (ranks_.rank() != 0) {
      texts.clear();
      for (size_t i = 1; i + 1 < lists.size(); i += 2) texts.push_back({.ids = lists[i], .segments = lists[i + 1]});
    }
    was_busy_ = !texts.empty();
    return lists.empty() || lists[0][0] == 0;
  }

 private:
  const Context& context_;
  Communicator& ranks_;
  bool was_busy_ = false;
};

/// `queue` is null on all ranks but 0.
void answer_texts(InferenceModel& loaded,
                  const SentenceEncoderOptions& encoding,
                  TextQueue* queue,
                  const InterruptFlag& interrupt) {
  // A batch of texts for each thread.
  int64_t most_tokens = encoding.batch_tokens * std::max(loaded.context.num_threads, 1);
  SharedTexts shared(loaded.context, loaded.mesh->tensor_parallel());
  std::vector<TokenisedText> texts;
  for (bool goes_on = true; goes_on;) {
    if (queue != nullptr) {
      if (interrupt.is_set() && !queue->is_closed()) {
        log::info("no more requests are taken; what has begun is answered");
        queue->close();
      }
      texts = queue->take(most_tokens);
    }
    goes_on = shared.share(texts, queue != nullptr && texts.empty() && queue->is_finished());
    if (texts.empty()) continue;
    std::vector<float> rows = encode_sentences(loaded.context, *loaded.model, texts, encoding);
    if (queue != nullptr) queue->give(rows);
  }
}

}  // namespace

bool is_text_encoder(const ModelInfo& info) {
  return info.attention == AttentionPattern::bidirectional && !info.has_source;
}

void serve_texts(const TextServerOptions& options,
                 InferenceModel& loaded,
                 std::unique_ptr<HttpServer> given,
                 const InterruptFlag& interrupt) {
  const ModelInfo& info = loaded.model->info();
  ServedEncoder served{.name = options.name,
                       .info = &info,
                       .tokenizer = loaded.tokenizer.get(),
                       .max_length = resolve_length(options, loaded),
                       .is_score_raw = is_regression(*loaded.opened.config)};
  SentenceEncoderOptions encoding{.pooling = resolve_pooling(options, loaded),
                                  .normalise = !is_reranker(info),
                                  .batch_tokens = options.batch_tokens};
  TextQueue queue(options.max_requests, std::chrono::milliseconds(SharedFeed::kPollMs));
  // Ends before what it answers from.
  std::unique_ptr<HttpServer> server = std::move(given);
  // A first text shows what the model lacks before clients do.
  encode_sentences(loaded.context, *loaded.model, {{.ids = {0}}}, encoding);
  if (server != nullptr) {
    server->start(queue, served, is_reranker(info));
    log::info("{} answers at http://{}, texts of up to {} tokens",
              options.name,
              options.address,
              served.max_length > 0 ? std::to_string(served.max_length) : "any number of");
  }
  try {
    answer_texts(loaded, encoding, server != nullptr ? &queue : nullptr, interrupt);
  } catch (...) {
    queue.abandon();
    throw;
  }
}

}  // namespace weft
