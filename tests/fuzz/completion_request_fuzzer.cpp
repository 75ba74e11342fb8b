// Bodies of HTTP requests; the first byte says of which path.
#include "fuzz/checkpoint_fuzzer.h"
#include "serve/completion_api.h"

namespace {

const weft::ServedModel& model() {
  static const std::shared_ptr<const weft::Tokenizer> tokenizer =
      weft::load_tokenizer(WEFT_TEST_DATA "/tiny_tokenizer/tokenizer.json");
  static const weft::ModelInfo info = [] {
    weft::ModelInfo tiny;
    tiny.vocab_size = tokenizer->vocab_size();
    tiny.attention = weft::AttentionPattern::causal;
    return tiny;
  }();
  static const weft::ServedModel served = {.name = "tiny",
                                           .info = &info,
                                           .tokenizer = tokenizer.get(),
                                           .chat_format = {},
                                           .context = 64,
                                           .max_new_tokens = 16,
                                           .end_ids = {1},
                                           .chat_end_ids = {2}};
  return served;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  auto kind = data[0] % 2 == 0 ? weft::CompletionKind::completion : weft::CompletionKind::chat;
  std::string body(data + 1, data + size);
  return weft::expect_only_input_errors([&] { weft::read_completion_request(kind, body, model()); });
}
