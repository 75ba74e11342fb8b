// weft tokenize: text to token ids and back.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <vector>

#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "launcher/tokenise_texts.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(Examples:
  weft tokenize --tokenizer SmolLM2-135M-Instruct --text "Hello world"            prints 19556 905
  weft tokenize --tokenizer gemma-2-2b-it.gguf --file book.txt > ids.txt
  weft tokenize --tokenizer tokenizer.json --jsonl < texts.jsonl > ids.jsonl      {"text": …} → {"ids": […]}, a line each
  weft tokenize --tokenizer tokenizer.json --jsonl --decode < ids.jsonl           and back
  weft tokenize --tokenizer bert-base-uncased --lines --add-special-tokens --max-length 128 --json < pairs.tsv

Without --jsonl and --lines the whole input is one text and its ids are printed on one line. With --lines a tab parts the two
texts of a pair, with --jsonl they are {"first": …, "second": …}. --json prints an object a text: "ids", "tokens", "offsets"
(where each token comes from in its text, [begin, end) in characters; null for a special token that was added) and
"segment_ids", of a pair also "sequence_ids" (of which text a token is). Bytes that are not UTF-8 are printed as U+FFFD.)";

struct TokenizeOptions {
  CommonOptions common;
  std::string tokenizer;
  std::string text;
  std::string file = "-";
  bool has_text = false;
  bool adds_special_tokens = false;
  bool skips_special_tokens = false;
  bool is_jsonl = false;
  bool has_lines = false;
  bool is_decoding = false;
  bool prints_json = false;
  bool recognises_specials = false;
  int64_t max_length = 0;
  std::string truncate_from = "right";
};

/// "right", "left" or the index of the token that goes.
TruncateFrom parse_truncate_from(const std::string& text) {
  if (text == "right") return {};
  if (text == "left") return {.side = TruncateFrom::Side::left};
  TruncateFrom from{.side = TruncateFrom::Side::index};
  const char* end = text.data() + text.size();
  auto [after, error] = std::from_chars(text.data(), end, from.index);
  if (error == std::errc() && after == end) return from;
  fail(ExitCode::usage, "--truncate-from {}: expected right, left or a token's index", printable(text));
}

EncodePairOptions encode_options(const TokenizeOptions& options) {
  return {.max_length = static_cast<size_t>(options.max_length),
          .truncate_from = parse_truncate_from(options.truncate_from),
          .specials = options.recognises_specials ? SpecialsInText::recognised : SpecialsInText::as_in_file,
          .adds_special_tokens = options.adds_special_tokens,
          .finds_places = options.prints_json};
}

/// [begin, end) in characters of each token's own text, null for those of neither.
Json offsets_of(const PairEncoding& encoding, const TextOrPair& texts) {
  std::vector<TokenSpan> spans[2];
  for (const TokenPlace& place : encoding.places) {
    if (place.text >= 0) spans[place.text].push_back(place.span);
  }
  std::vector<TokenSpan> characters[2] = {to_characters(texts.first, spans[0]),
                                          to_characters(texts.second.value_or(""), spans[1])};
  size_t used[2] = {0, 0};
  Json offsets = Json::array();
  for (const TokenPlace& place : encoding.places) {
    if (place.text < 0) {
      offsets.push_back(nullptr);
      continue;
    }
    const TokenSpan& span = characters[place.text][used[place.text]++];
    offsets.push_back({span.begin, span.end});
  }
  return offsets;
}

/// All that is known of a text's tokens.
std::string describe(const PairEncoding& encoding, const TextOrPair& texts, const Tokenizer& tokenizer) {
  Json object = {{"ids", encoding.ids}, {"tokens", Json::array()}};
  for (int32_t id : encoding.ids) object["tokens"].push_back(tokenizer.id_to_token(id));
  object["offsets"] = offsets_of(encoding, texts);
  object["segment_ids"] = encoding.segment_ids;
  if (texts.second) {
    object["sequence_ids"] = Json::array();
    for (const TokenPlace& place : encoding.places) {
      object["sequence_ids"].push_back(place.text < 0 ? Json(nullptr) : Json(place.text));
    }
  }
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<int32_t> parse_ids(std::string_view text) {
  std::vector<int32_t> ids;
  const char* end = text.data() + text.size();
  for (const char* place = text.data(); place != end;) {
    if (std::strchr(" \t\r\n,[]", *place) && *place != '\0') {
      ++place;
      continue;
    }
    int32_t id = 0;
    auto [after, error] = std::from_chars(place, end, id);
    if (error != std::errc()) {
      fail_input("\"{}\" is no token id; --decode takes ids separated by spaces",
                 printable({place, static_cast<size_t>(std::min<std::ptrdiff_t>(end - place, 20))}));
    }
    ids.push_back(id);
    place = after;
  }
  return ids;
}

void check_ids(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  for (int32_t id : ids) {
    if (id < 0 || id >= tokenizer.vocab_size()) {
      fail_input("token id {} does not exist; this tokenizer has ids 0 to {}", id, tokenizer.vocab_size() - 1);
    }
  }
}

/// Converts lines of JSON or of text, as one piece of work or spread over threads.
class LineConverter {
 public:
  LineConverter(const TokenizeOptions& options, const Tokenizer& tokenizer)
      : options_(options), tokenizer_(tokenizer), encoding_(encode_options(options)) {}

  /// Whole lines, the first of which has number `first_line`.
  std::string convert(std::string_view lines, int64_t first_line) const {
    std::string out;
    int64_t line_number = first_line;
    for (size_t begin = 0; begin < lines.size(); ++line_number) {
      size_t end = std::min(lines.find('\n', begin), lines.size());
      std::string_view line = lines.substr(begin, end - begin);
      begin = end + 1;
      if (options_.has_lines) {
        convert_text(line.substr(0, line.ends_with('\r') ? line.size() - 1 : line.size()), line_number, out);
      } else if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
        convert_object(line, line_number, out);
      }
    }
    return out;
  }

 private:
  void convert_text(std::string_view line, int64_t line_number, std::string& out) const {
    try {
      TextOrPair texts = split_at_tab(line);
      PairEncoding encoding = tokenizer_.encode_pair(texts.first, texts.second, encoding_);
      if (options_.prints_json) {
        out += describe(encoding, texts, tokenizer_);
      } else {
        fmt::format_to(std::back_inserter(out), "{}", fmt::join(encoding.ids, " "));
      }
      out += '\n';
    } catch (const Error& error) {
      fail_input("line {}: {}", line_number, error.what());
    }
  }

  void convert_object(std::string_view line, int64_t line_number, std::string& out) const {
    try {
      Json object = Json::parse(line);
      if (options_.is_decoding) {
        auto ids = object.at("ids").get<std::vector<int32_t>>();
        check_ids(tokenizer_, ids);
        std::string text = tokenizer_.decode(ids, options_.skips_special_tokens);
        out += Json{{"text", std::move(text)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
      } else {
        append_encoding(object, out);
      }
      out += '\n';
    } catch (const Json::exception&) {
      fail_input("line {}: expected {}, found {}",
                 line_number,
                 options_.is_decoding ? R"({"ids": [numbers]})" : R"({"text": "…"} or {"first": "…", "second": "…"})",
                 printable(line, 60));
    } catch (const Error& error) {
      fail_input("line {}: {}", line_number, error.what());
    }
  }

  void append_encoding(const Json& object, std::string& out) const {
    bool is_pair = object.contains("first");
    TextOrPair texts{.first = object.at(is_pair ? "first" : "text").get_ref<const std::string&>(),
                     .second = std::nullopt};
    if (is_pair) texts.second = object.at("second").get_ref<const std::string&>();
    PairEncoding encoding = tokenizer_.encode_pair(texts.first, texts.second, encoding_);
    if (options_.prints_json) {
      out += describe(encoding, texts, tokenizer_);
      return;
    }
    fmt::format_to(std::back_inserter(out), "{{\"ids\":[{}]", fmt::join(encoding.ids, ","));
    if (is_pair) {
      fmt::format_to(std::back_inserter(out), ",\"segment_ids\":[{}]", fmt::join(encoding.segment_ids, ","));
    }
    out += '}';
  }

  const TokenizeOptions& options_;
  const Tokenizer& tokenizer_;
  EncodePairOptions encoding_;
};

/// Cuts lines into about equal parts and converts them side by side; prints in order.
void convert_in_parallel(const LineConverter& converter, std::string_view lines, int64_t first_line, int num_threads) {
  struct Part {
    std::string_view lines;
    int64_t first_line;
    std::string out;
    std::exception_ptr error;
  };
  std::vector<Part> parts;
  for (size_t begin = 0; begin < lines.size();) {
    size_t target = std::min(begin + lines.size() / static_cast<size_t>(num_threads) + 1, lines.size());
    size_t newline = lines.find('\n', target - 1);
    size_t end = newline == std::string_view::npos ? lines.size() : newline + 1;
    parts.push_back({lines.substr(begin, end - begin), first_line, {}, nullptr});
    first_line += std::count(
        lines.begin() + static_cast<std::ptrdiff_t>(begin), lines.begin() + static_cast<std::ptrdiff_t>(end), '\n');
    begin = end;
  }
  auto convert = [&](Part& part) {
    try {
      part.out = converter.convert(part.lines, part.first_line);
    } catch (...) {
      part.error = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < parts.size(); ++i) threads.emplace_back(convert, std::ref(parts[i]));
  if (!parts.empty()) convert(parts[0]);
  for (std::thread& thread : threads) thread.join();
  for (const Part& part : parts) {
    if (part.error) std::rethrow_exception(part.error);
    std::fwrite(part.out.data(), 1, part.out.size(), stdout);
  }
}

/// Streams lines through the converter, some megabytes at a time.
void convert_lines(const TokenizeOptions& options, const Tokenizer& tokenizer, int num_threads) {
  bool is_stdin = options.file == "-";
  int file = is_stdin ? STDIN_FILENO : open(options.file.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail_input("{}: {}", printable(options.file), std::strerror(errno));
  LineConverter converter(options, tokenizer);
  constexpr size_t kBlockBytes = size_t{4} << 20;
  std::string pending;
  size_t whole = 0;  // bytes of pending that are whole lines
  int64_t line_number = 1;
  std::string buffer(1 << 16, '\0');
  for (bool is_at_end = false; !is_at_end;) {
    ssize_t count = read(file, buffer.data(), buffer.size());
    if (count < 0) fail_input("{}: {}", printable(options.file), std::strerror(errno));
    is_at_end = count == 0;
    std::string_view block(buffer.data(), static_cast<size_t>(count));
    size_t newline = block.rfind('\n');
    if (newline != std::string_view::npos) whole = pending.size() + newline + 1;
    pending += block;
    if (is_at_end) whole = pending.size();
    if (whole < kBlockBytes && !is_at_end) continue;
    std::string_view lines = std::string_view(pending).substr(0, whole);
    convert_in_parallel(converter, lines, line_number, num_threads);
    line_number += std::count(lines.begin(), lines.end(), '\n');
    pending.erase(0, whole);
    whole = 0;
  }
  if (!is_stdin) close(file);
}

void convert_whole(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  std::string input = options.has_text ? options.text : read_text(options.file, "text");
  if (!options.is_decoding) {
    PairEncoding encoding = tokenizer.encode_pair(input, std::nullopt, encode_options(options));
    if (options.prints_json) {
      fmt::print("{}\n", describe(encoding, {.first = input, .second = std::nullopt}, tokenizer));
    } else {
      fmt::print("{}\n", fmt::join(encoding.ids, " "));
    }
    return;
  }
  std::vector<int32_t> ids = parse_ids(input);
  check_ids(tokenizer, ids);
  std::string text = tokenizer.decode(ids, options.skips_special_tokens);
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (isatty(STDOUT_FILENO) == 1) std::fputc('\n', stdout);
}

ExitCode run_tokenize(const TokenizeOptions& options, MpiSession& session) {
  configure_log(options.common, session);
  if (session.rank() != 0) return ExitCode::ok;
  auto tokenizer = load_tokenizer(options.tokenizer);
  if (options.is_jsonl || options.has_lines) {
    convert_lines(options, *tokenizer, resolve_threads(options.common, session));
  } else {
    convert_whole(options, *tokenizer);
  }
  return ExitCode::ok;
}

}  // namespace

void add_tokenize_command(Command program, CommandContext& context) {
  auto options = std::make_shared<TokenizeOptions>();
  Command command = program.add_subcommand("tokenize", "Turns text into token ids, or back with --decode");
  command.footer(kFooter);
  command
      .add_option("--tokenizer", options->tokenizer, "Model folder, tokenizer.json, sentencepiece .model or .gguf file")
      .required();
  Option text = command.add_option("--text", options->text, "The text (or ids with --decode)");
  Option file = command.add_option("--file", options->file, "File with the text; - is standard input").show_default();
  Option jsonl = command.add_flag("--jsonl", options->is_jsonl, "A JSON object a line in, one a line out");
  Option lines = command.add_flag(
      "--lines", options->has_lines, "A text a line, or two with a tab between; ids are printed a line each");
  file.excludes(text);
  jsonl.excludes(text);
  lines.excludes(text);
  lines.excludes(jsonl);
  command.add_flag(
      "--add-special-tokens", options->adds_special_tokens, "Adds what the model expects, such as a begin token");
  command.add_flag("--recognise-specials",
                   options->recognises_specials,
                   "Special tokens that are written in the text become their ids, whatever the tokenizer's file says");
  command.add_option("--max-length", options->max_length, "Tokens of a text or a pair, special ones included (0: all)")
      .check_not_negative()
      .show_default();
  command
      .add_option(
          "--truncate-from",
          options->truncate_from,
          "Which go when they are more: the last ones (right), the first ones (left), or the one at this index, "
          "again and again")
      .show_default();
  Option json = command.add_flag("--json", options->prints_json, "Prints a JSON object a text");
  command.add_flag("--decode", options->is_decoding, "From ids to text").excludes(json).excludes(lines);
  command.add_flag("--skip-special-tokens", options->skips_special_tokens, "Leaves them out, with --decode");
  add_threads_option(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, text, &context] {
    options->has_text = text.count() > 0;
    context.run = [options](MpiSession& session) { return run_tokenize(*options, session); };
  });
}

}  // namespace weft
