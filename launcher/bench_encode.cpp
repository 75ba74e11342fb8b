// weft bench encode: sentence vectors of random ids, or of a file's texts with their tokenisation.
#include <fmt/format.h>

#include <chrono>
#include <memory>

#include "core/error.h"
#include "core/random.h"
#include "generate/sentence_encoder.h"
#include "launcher/bench_runs.h"
#include "launcher/mpi_session.h"
#include "launcher/tokenise_texts.h"

namespace weft {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kSeed = 20240;
constexpr int kWarmUps = 2;

void check_length(const ModelInfo& info, int64_t length, const std::string& of) {
  if (info.max_positions == 0 || length <= info.max_positions) return;
  fail_input("{} is {} tokens long, the model was made for {} positions; use fewer", of, length, info.max_positions);
}

/// Other ids in every repetition.
std::vector<TokenisedText> random_texts(const ModelInfo& info, const BenchOptions& options, int repetition) {
  RandomKey key{.seed = kSeed, .step = static_cast<uint32_t>(repetition)};
  std::vector<TokenisedText> texts(static_cast<size_t>(options.workload.batch));
  uint64_t index = 0;
  for (TokenisedText& text : texts) {
    for (int64_t i = 0; i < options.training.sequence_length; ++i) {
      text.ids.push_back(static_cast<int32_t>(key.bits(index++) % static_cast<uint32_t>(info.vocab_size)));
    }
  }
  return texts;
}

/// Of this rank: 2 a weight of the blocks and token, 4 × head_dim a query head and key.
double encode_flops(LanguageModel& model, const std::vector<TokenisedText>& texts, int num_ranks) {
  const ModelInfo& info = model.info();
  double weights = 0;
  for (const NamedLinear& layer : model.linears()) {
    const Parameter& weight = *layer.linear->weight;
    int64_t uses = weight.block == kOuterBlock ? info.num_layers : 1;  // ALBERT's only block is used in every layer
    weights += static_cast<double>(weight.local_shape.num_elements() * uses);
  }
  auto heads = static_cast<double>(info.num_layers * info.num_heads * info.head_dim) / num_ranks;
  double flops = 0;
  for (const TokenisedText& text : texts) {
    auto length = static_cast<double>(text.ids.size());
    flops += length * (2 * weights + 4 * heads * length);
  }
  return flops;
}

double count_tokens(const std::vector<TokenisedText>& texts) {
  double tokens = 0;
  for (const TokenisedText& text : texts) tokens += static_cast<double>(text.ids.size());
  return tokens;
}

}  // namespace

BenchResult bench_encode(const BenchOptions& options, MpiSession& session) {
  bool is_from_file = !options.text_file.empty();
  CommonOptions common = options.common;
  common.model.encoder_alone = true;
  auto loaded =
      load_model_for_inference(common, session, is_from_file ? TokenizerUse::rank_zero : TokenizerUse::nowhere);
  const ModelInfo& info = loaded->model->info();
  std::vector<std::string> lines;
  if (is_from_file && session.rank() == 0) lines = split_lines(read_text(options.text_file, "text"));
  auto make_texts = [&](int repetition) {
    return is_from_file ? tokenise_lines(*loaded, lines, 0) : random_texts(info, options, repetition);
  };
  std::vector<TokenisedText> texts = make_texts(0);
  if (texts.empty()) fail_input("{}: holds no text", printable(options.text_file));
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string name =
        is_from_file ? fmt::format("{}:{}", printable(options.text_file), i + 1) : "a text of --sequence";
    check_length(info, static_cast<int64_t>(texts[i].ids.size()), name);
  }
  BenchResult result{.unit = "tokens/s",
                     .formula =
                         "ranks' tokens x matrix peak / operations (2 a weight of the blocks and token, 4 x head_dim a "
                         "query head and key)"};
  double tokens = count_tokens(texts) * static_cast<double>(loaded->mesh->data_parallel().size());
  for (int i = 0; i < kWarmUps + options.repetitions; ++i) {
    session.world()->barrier();
    auto start = Clock::now();
    texts = make_texts(i);
    encode_sentences(loaded->context, *loaded->model, texts, {});
    session.world()->barrier();
    double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (i >= kWarmUps) result.values.push_back(tokens / seconds);
  }
  MachinePeaks peaks = measure_machine_peaks(loaded->dtype, loaded->context.stream());
  double flops = encode_flops(*loaded->model, texts, loaded->mesh->tensor_parallel().size());
  result.bound = tokens * peaks.matmul_flops_per_second / flops;
  result.details = {{"texts", static_cast<double>(texts.size())},
                    {"tokens", count_tokens(texts)},
                    {"texts_per_second", result.median() * static_cast<double>(texts.size()) / count_tokens(texts)},
                    {"operations", flops},
                    {"matrix_peak_flops_per_second", peaks.matmul_flops_per_second}};
  report_memory(options.common, session, loaded->context);
  return result;
}

}  // namespace weft
