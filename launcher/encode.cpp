// weft encode and weft similarity: vectors of texts, and the cosines of pairs.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "data/record_lines.h"
#include "generate/sentence_encoder.h"
#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "launcher/prompts.h"
#include "launcher/tokenise_texts.h"
#include "launcher/vector_files.h"
#include "models/sentence_settings.h"
#include "parallel/communicator.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

constexpr const char* kEncodeFooter = R"(Examples:
  weft encode --model all-MiniLM-L6-v2 --text sentences.txt --out vectors.npy
  echo "A tensor is an array." | weft encode --model chinese_roformer-sim --pooling pooled --text -
  weft launch -n 4 -- encode --model bert-base --tensor-parallel 1 --text corpus.txt --out vectors.h5
  weft encode --model bert-base --pooling none --text sentences.txt --out tokens.jsonl

The text has one sentence a line, or two with a tab between, a pair. Without --out, or with a file that ends in .jsonl, a
line of JSON is written a sentence; .npy is a NumPy array [sentences, width], .h5 an HDF5 file with the dataset "vectors".
With --pooling none JSON has an object a sentence with "ids", "tokens" and "vectors", .npy is [sentences, tokens of the
longest, width] with zeros behind the shorter ones, and .h5 has the vectors of all tokens, their "ids" and the sentences'
"lengths". With --tensor-parallel less than the number of ranks the others share out the sentences.)";

constexpr const char* kSimilarityFooter = R"(Examples:
  weft similarity --model all-MiniLM-L6-v2 "How old are you?" "What is your age?"
  weft similarity --model simbert --pooling pooled --pairs pairs.tsv

Prints the cosine of each pair. A file of pairs has two texts a line with a tab between; a score in a third field is
passed over, as are blank lines.)";

struct EncodeCommand {
  CommonOptions common;
  SentenceEncoderOptions encoding;
  std::string pooling;  // empty: sentence-transformers' of the model, or mean
  std::string text_file, out, conditions;
  std::vector<std::string> texts;  // of similarity
  int64_t max_length = 0;
  bool normalises = false, keeps_length = false;  // neither: vectors of texts, but not of tokens, get the length 1
};

/// With what sentence-transformers' files beside the model say where the options say nothing.
EncodeCommand with_sentence_settings(const EncodeCommand& given, bool is_speaker) {
  EncodeCommand options = given;
  const std::string& path = options.common.model.path;
  if (options.pooling.empty()) options.pooling = read_sentence_pooling(path);
  if (options.pooling.empty()) {
    options.pooling = "mean";
  } else if (given.pooling.empty() && is_speaker) {
    log::info("--pooling {}, as 1_Pooling/config.json of the model says", options.pooling);
  }
  if (options.max_length == 0) options.max_length = read_sentence_length(path);
  if (options.max_length > 0 && given.max_length == 0 && is_speaker) {
    log::info("--max-length {}, as sentence_bert_config.json of the model says", options.max_length);
  }
  return options;
}

/// Cut to what the model holds, unless --max-length says otherwise.
std::vector<TokenisedText> tokenise(const EncodeCommand& options,
                                    const InferenceModel& loaded,
                                    const std::vector<std::string>& lines) {
  int64_t limit = options.max_length > 0 ? options.max_length : loaded.model->info().max_positions;
  return tokenise_lines(loaded, lines, limit);
}

/// Vectors of all texts, on rank 0: data-parallel ranks share them out.
std::vector<float> encode_on_ranks(const EncodeCommand& options,
                                   InferenceModel& loaded,
                                   const std::vector<TokenisedText>& texts) {
  Communicator& data = loaded.mesh->data_parallel();
  std::vector<TokenisedText> mine;
  std::vector<size_t> places;
  for (size_t i = static_cast<size_t>(data.rank()); i < texts.size(); i += static_cast<size_t>(data.size())) {
    mine.push_back(texts[i]);
    places.push_back(i);
  }
  bool is_speaker = loaded.mesh->world().rank() == 0;
  Progress progress("encoding", static_cast<int64_t>(mine.size()), is_speaker && !options.common.quiet);
  SentenceEncoderOptions encoding = options.encoding;
  encoding.pooling = parse_pooling(options.pooling);
  encoding.normalise = options.normalises || (!options.keeps_length && encoding.pooling != Pooling::none);
  encoding.on_progress = [&](int64_t count) { progress.add(count); };
  std::vector<float> part = encode_sentences(loaded.context, *loaded.model, mine, encoding);
  if (data.size() == 1) return part;
  int64_t width = loaded.model->info().hidden_size;
  std::vector<int64_t> rows = first_rows(texts, encoding.pooling);
  Tensor all = loaded.context.host_zeros({rows.back() * width}, DType::f32);
  const float* from = part.data();
  for (size_t place : places) {
    int64_t count = (rows[place + 1] - rows[place]) * width;
    std::copy_n(from, count, all.data<float>() + rows[place] * width);
    from += count;
  }
  data.all_reduce(all, ReduceOp::sum);
  return {all.data<float>(), all.data<float>() + all.num_elements()};
}

/// With what the files say beside the vectors.
TextVectors describe(const EncodeCommand& options,
                     const InferenceModel& loaded,
                     std::vector<float> values,
                     const std::vector<TokenisedText>& texts) {
  TextVectors vectors{.values = std::move(values),
                      .width = loaded.model->info().hidden_size,
                      .is_of_tokens = parse_pooling(options.pooling) == Pooling::none};
  if (!vectors.is_of_tokens) return vectors;
  for (const TokenisedText& text : texts) {
    vectors.ids.push_back(text.ids);
    std::vector<std::string>& tokens = vectors.tokens.emplace_back();
    for (int32_t id : text.ids) tokens.push_back(loaded.tokenizer->id_to_token(id));
  }
  return vectors;
}

/// Throws Error(usage) for a name that tells no format.
void check_out(const std::string& path) {
  if (path.empty() || path.starts_with("/dev/")) return;
  for (const char* ending : {".npy", ".h5", ".hdf5", ".jsonl", ".json"}) {
    if (path.ends_with(ending)) return;
  }
  fail(ExitCode::usage, "--out {}: expected a name that ends in .npy, .h5 or .jsonl", printable(path));
}

/// A label or a list of numbers for each text, a line each.
void read_conditions(const std::string& path, const ModelInfo& model, std::vector<TokenisedText>& texts) {
  size_t number = 0;
  for_each_line(path, false, [&](const RecordLine& line) {
    Condition condition = parse_condition(model, line.text, line.place());
    if (number < texts.size()) texts[number].condition = std::move(condition);
    ++number;
  });
  if (number != texts.size()) fail_input("{}: holds {} conditions for {} texts", printable(path), number, texts.size());
}

ExitCode run_encode(const EncodeCommand& given, MpiSession& session) {
  configure_log(given.common, session);
  const EncodeCommand options = with_sentence_settings(given, session.rank() == 0);
  check_out(options.out);
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::rank_zero);
  std::vector<std::string> texts;
  if (session.rank() == 0) texts = split_lines(read_text(options.text_file, "text"));
  auto begin = std::chrono::steady_clock::now();
  std::vector<TokenisedText> tokenised = tokenise(options, *loaded, texts);
  if (tokenised.empty()) fail_input("{}: holds no text", printable(options.text_file));
  if (!options.conditions.empty()) read_conditions(options.conditions, loaded->model->info(), tokenised);
  std::vector<float> vectors = encode_on_ranks(options, *loaded, tokenised);
  if (session.rank() == 0) {
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    log::info("{} texts in {:.3f} s, {:.0f} a second",
              texts.size(),
              seconds,
              static_cast<double>(texts.size()) / std::max(seconds, 1e-9));
    write_vectors(options.out, describe(options, *loaded, std::move(vectors), tokenised));
  }
  report_memory(options.common, session, loaded->context);
  return ExitCode::ok;
}

/// First and second texts one after the other.
std::vector<std::string> read_pairs(const EncodeCommand& options) {
  if (options.text_file.empty()) return options.texts;
  std::vector<std::string> texts;
  int64_t number = 0;
  for (const std::string& line : split_lines(read_text(options.text_file, "file of pairs"))) {
    ++number;
    if (line.empty()) continue;
    std::vector<std::string> fields = split_fields(line);
    if (fields.size() != 2 && fields.size() != 3) {
      fail_input("{}:{}: has {} fields, expected two texts and perhaps a score with tabs between",
                 printable(options.text_file),
                 number,
                 fields.size());
    }
    texts.insert(texts.end(), fields.begin(), fields.begin() + 2);
  }
  return texts;
}

ExitCode run_similarity(const EncodeCommand& given, MpiSession& session) {
  configure_log(given.common, session);
  const EncodeCommand options = with_sentence_settings(given, session.rank() == 0);
  if (options.text_file.empty() && options.texts.size() != 2) {
    fail(ExitCode::usage, "give two texts, or --pairs with a file of them");
  }
  auto loaded = load_model_for_inference(options.common, session, TokenizerUse::rank_zero);
  std::vector<std::string> texts;
  if (session.rank() == 0) texts = read_pairs(options);
  std::vector<TokenisedText> tokenised = tokenise(options, *loaded, texts);
  std::vector<float> vectors = encode_on_ranks(options, *loaded, tokenised);
  if (session.rank() != 0) return ExitCode::ok;
  auto width = static_cast<size_t>(loaded->model->info().hidden_size);
  for (size_t pair = 0; pair + 1 < texts.size(); pair += 2) {
    double cosine = 0;
    for (size_t i = 0; i < width; ++i) {
      cosine += static_cast<double>(vectors[pair * width + i]) * static_cast<double>(vectors[(pair + 1) * width + i]);
    }
    fmt::print("{:.6f}\n", cosine);
  }
  return ExitCode::ok;
}

void add_encoding_options(Command command, EncodeCommand& options) {
  command
      .add_option("--layer",
                  options.encoding.layer,
                  "Whose output: 0 the embedding's, i the i-th block's (the last one's if not given)")
      .check_not_negative();
  command
      .add_option("--max-length",
                  options.max_length,
                  "Tokens that a text is cut to (0: as sentence-transformers' file beside the model says, else what "
                  "the model holds)")
      .check_not_negative()
      .show_default();
  command.add_option("--batch-tokens", options.encoding.batch_tokens, "Tokens computed at a time")
      .check_positive()
      .show_default();
}

}  // namespace

void add_encode_command(Command program, CommandContext& context) {
  auto options = std::make_shared<EncodeCommand>();
  options->common.shares_out_inputs = true;
  options->common.model.encoder_alone = true;
  Command command = program.add_subcommand("encode", "Writes vectors of texts");
  command.footer(kEncodeFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("--text", options->text_file, "File with a text a line; - is standard input").required();
  command.add_option("--out", options->out, "File to write: .npy, .h5 or .jsonl (standard output if not given)");
  command.add_option(
      "--conditions",
      options->conditions,
      "File with a label, or a JSON list of numbers, a line for each text, for models with conditional norms");
  command
      .add_option("--pooling",
                  options->pooling,
                  "mean or max of all tokens, the first token (cls) or the last one, the pooler's output (pooled), or "
                  "each token (none); if not given, as sentence-transformers' file beside the model says, else mean")
      .check_one_of({"mean", "max", "cls", "last", "pooled", "none"});
  Option normalise =
      command.add_flag("--normalise", options->normalises, "Gives vectors the length 1 (the default but of tokens)");
  command.add_flag("--no-normalise", options->keeps_length, "Leaves vectors as long as they are").excludes(normalise);
  add_encoding_options(command, *options);
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback(
      [options, &context] { context.run = [options](MpiSession& session) { return run_encode(*options, session); }; });
}

void add_similarity_command(Command program, CommandContext& context) {
  auto options = std::make_shared<EncodeCommand>();
  options->common.shares_out_inputs = true;
  options->common.model.encoder_alone = true;
  Command command = program.add_subcommand("similarity", "Prints the cosine of two texts' vectors");
  command.footer(kSimilarityFooter);
  add_model_options(command, options->common);
  add_adapter_options(command, options->common);
  command.add_option("texts", options->texts, "Two texts");
  command.add_option("--pairs", options->text_file, "File with two texts a line, a tab between; - is standard input");
  command
      .add_option(
          "--pooling",
          options->pooling,
          "mean or max of all tokens, the first token (cls) or the last one, or the pooler's output (pooled); if "
          "not given, as sentence-transformers' file beside the model says, else mean")
      .check_one_of({"mean", "max", "cls", "last", "pooled"});
  add_encoding_options(command, *options);
  add_compute_options(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, &context] {
    context.run = [options](MpiSession& session) { return run_similarity(*options, session); };
  });
}

}  // namespace weft
