// Measures llama.cpp through its library, as `weft bench` measures Weft: scripts/bench_peers.sh compiles this against
// the header and libraries that the Python package llama-cpp-python brings.
//
//   llama_peer decode MODEL THREADS BATCH PROMPT_TOKENS NEW_TOKENS
//   llama_peer prefill MODEL THREADS PROMPT_TOKENS
//   llama_peer answer MODEL THREADS NEW_TOKENS TEXT     prints the greedy continuation, each token as it comes
//
// The first two print one JSON line: tokens a second, and the peak resident memory of the process.
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void stop(const std::string& message) {
  std::fprintf(stderr, "llama_peer: %s\n", message.c_str());
  std::exit(1);
}

struct Session {
  llama_model* model = nullptr;
  llama_context* context = nullptr;
  const llama_vocab* vocab = nullptr;
};

/// `context_tokens` a sequence; the batch holds a whole prompt, as llama.cpp's own benchmark has it.
Session open_session(const char* path, int threads, int context_tokens, int num_sequences) {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  Session session;
  session.model = llama_model_load_from_file(path, llama_model_default_params());
  if (session.model == nullptr) stop(std::string("cannot load ") + path);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(context_tokens * num_sequences);
  params.n_batch = static_cast<uint32_t>(std::max(context_tokens, 512));
  params.n_seq_max = static_cast<uint32_t>(num_sequences);
  params.n_threads = threads;
  params.n_threads_batch = threads;
  session.context = llama_init_from_model(session.model, params);
  if (session.context == nullptr) stop("no context");
  session.vocab = llama_model_get_vocab(session.model);
  return session;
}

std::vector<llama_token> random_prompt(const Session& session, int length, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<llama_token> any(100, llama_vocab_n_tokens(session.vocab) - 1);
  std::vector<llama_token> tokens(static_cast<size_t>(length));
  for (llama_token& token : tokens) token = any(generator);
  return tokens;
}

llama_token greedy(const Session& session, int output) {
  const float* logits = llama_get_logits_ith(session.context, output);
  return static_cast<llama_token>(std::max_element(logits, logits + llama_vocab_n_tokens(session.vocab)) - logits);
}

/// Only the last token's logits are asked for.
void prefill(const Session& session, const std::vector<llama_token>& tokens, int sequence) {
  const int length = static_cast<int>(tokens.size());
  llama_batch batch = llama_batch_init(length, 0, 1);
  batch.n_tokens = length;
  for (int i = 0; i < length; ++i) {
    batch.token[i] = tokens[static_cast<size_t>(i)];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = i + 1 == length;
  }
  if (llama_decode(session.context, batch) != 0) stop("prefill failed");
  llama_batch_free(batch);
}

/// One greedy step of every sequence; `tokens` are their last tokens before and after.
void decode_step(const Session& session, llama_batch& batch, std::vector<llama_token>& tokens, int position) {
  batch.n_tokens = static_cast<int>(tokens.size());
  for (int i = 0; i < batch.n_tokens; ++i) {
    batch.token[i] = tokens[static_cast<size_t>(i)];
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = i;
    batch.logits[i] = 1;
  }
  if (llama_decode(session.context, batch) != 0) stop("decode failed");
  for (int i = 0; i < batch.n_tokens; ++i) tokens[static_cast<size_t>(i)] = greedy(session, i);
}

/// Seconds that `new_tokens` steps of `num_sequences` sequences take, after their prompts.
double decode_seconds(const Session& session, int num_sequences, int prompt_tokens, int new_tokens) {
  llama_memory_clear(llama_get_memory(session.context), true);
  std::vector<llama_token> tokens;
  for (int sequence = 0; sequence < num_sequences; ++sequence) {
    prefill(session, random_prompt(session, prompt_tokens, static_cast<unsigned>(sequence)), sequence);
    tokens.push_back(greedy(session, -1));
  }
  llama_batch batch = llama_batch_init(num_sequences, 0, 1);
  const Clock::time_point begin = Clock::now();
  for (int step = 0; step < new_tokens; ++step) decode_step(session, batch, tokens, prompt_tokens + step);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  llama_batch_free(batch);
  return seconds;
}

double prefill_seconds(const Session& session, int prompt_tokens) {
  llama_memory_clear(llama_get_memory(session.context), true);
  const std::vector<llama_token> prompt = random_prompt(session, prompt_tokens, 1);
  const Clock::time_point begin = Clock::now();
  prefill(session, prompt, 0);
  greedy(session, -1);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

long peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::atol(line.c_str() + 6) * 1024;
  }
  return 0;
}

void report(double tokens, double seconds) {
  std::printf("{\"value\": %.3f, \"unit\": \"tokens/s\", \"peak_resident_bytes\": %ld}\n",
              tokens / seconds,
              peak_resident_bytes());
}

void answer(const Session& session, const std::string& text, int new_tokens) {
  std::vector<llama_token> prompt(text.size() + 8);
  const int length = llama_tokenize(session.vocab,
                                    text.data(),
                                    static_cast<int>(text.size()),
                                    prompt.data(),
                                    static_cast<int>(prompt.size()),
                                    /*add_special=*/true,
                                    /*parse_special=*/true);
  if (length <= 0) stop("the prompt has no tokens");
  prompt.resize(static_cast<size_t>(length));
  prefill(session, prompt, 0);
  std::vector<llama_token> token = {greedy(session, -1)};
  llama_batch batch = llama_batch_init(1, 0, 1);
  for (int step = 0; step < new_tokens; ++step) {
    char piece[256];
    const int size = llama_token_to_piece(session.vocab, token[0], piece, sizeof piece, 0, true);
    std::fwrite(piece, 1, static_cast<size_t>(std::max(size, 0)), stdout);
    std::fflush(stdout);
    if (step + 1 < new_tokens) decode_step(session, batch, token, length + step);
  }
  llama_batch_free(batch);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const int threads = argc > 3 ? std::atoi(argv[3]) : 0;
  if (mode == "decode" && argc == 7) {
    const int batch = std::atoi(argv[4]);
    const int prompt_tokens = std::atoi(argv[5]);
    const int new_tokens = std::atoi(argv[6]);
    const Session session = open_session(argv[2], threads, prompt_tokens + new_tokens, batch);
    decode_seconds(session, batch, prompt_tokens, 8);
    report(static_cast<double>(batch) * new_tokens, decode_seconds(session, batch, prompt_tokens, new_tokens));
  } else if (mode == "prefill" && argc == 5) {
    const int prompt_tokens = std::atoi(argv[4]);
    const Session session = open_session(argv[2], threads, prompt_tokens, 1);
    prefill_seconds(session, std::min(prompt_tokens, 64));
    report(prompt_tokens, prefill_seconds(session, prompt_tokens));
  } else if (mode == "answer" && argc == 6) {
    const Session session = open_session(argv[2], threads, 256, 1);
    answer(session, argv[5], std::atoi(argv[4]));
  } else {
    stop("wrong command line, see the head of llama_peer.cpp");
  }
  return 0;
}
