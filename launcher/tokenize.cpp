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
#include <thread>

#include "launcher/command_line.h"
#include "launcher/commands.h"
#include "launcher/common.h"
#include "launcher/mpi_session.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::json;

constexpr const char* kFooter = R"(Examples:
  weft tokenize --tokenizer SmolLM2-135M-Instruct --text "Hello world"            prints 19556 905
  weft tokenize --tokenizer gemma-2-2b-it.gguf --file book.txt > ids.txt
  weft tokenize --tokenizer tokenizer.json --jsonl < texts.jsonl > ids.jsonl      {"text": …} → {"ids": […]}, a line each
  weft tokenize --tokenizer tokenizer.json --jsonl --decode < ids.jsonl           and back

Without --jsonl the whole input is one text and its ids are printed on one line. Bytes that --decode --jsonl finds not to be
UTF-8 are printed as U+FFFD.)";

struct TokenizeOptions {
  CommonOptions common;
  std::string tokenizer;
  std::string text;
  std::string file = "-";
  bool has_text = false;
  bool adds_special_tokens = false;
  bool skips_special_tokens = false;
  bool is_jsonl = false;
  bool is_decoding = false;
};

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

/// Converts lines of JSON, as one piece of work or spread over threads.
class LineConverter {
 public:
  LineConverter(const TokenizeOptions& options, const Tokenizer& tokenizer)
      : options_(options), tokenizer_(tokenizer) {}

  /// Whole lines, the first of which has number `first_line`.
  std::string convert(std::string_view lines, int64_t first_line) const {
    std::string out;
    int64_t line_number = first_line;
    for (size_t begin = 0; begin < lines.size(); ++line_number) {
      size_t end = std::min(lines.find('\n', begin), lines.size());
      std::string_view line = lines.substr(begin, end - begin);
      begin = end + 1;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      convert_line(line, line_number, out);
    }
    return out;
  }

 private:
  void convert_line(std::string_view line, int64_t line_number, std::string& out) const {
    try {
      Json object = Json::parse(line);
      if (options_.is_decoding) {
        auto ids = object.at("ids").get<std::vector<int32_t>>();
        check_ids(tokenizer_, ids);
        std::string text = tokenizer_.decode(ids, options_.skips_special_tokens);
        out += Json{{"text", std::move(text)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
      } else {
        const auto& text = object.at("text").get_ref<const std::string&>();
        std::vector<int32_t> ids = tokenizer_.encode(text, options_.adds_special_tokens);
        fmt::format_to(std::back_inserter(out), "{{\"ids\":[{}]}}", fmt::join(ids, ","));
      }
      out += '\n';
    } catch (const Json::exception&) {
      fail_input("line {}: expected {}, found {}",
                 line_number,
                 options_.is_decoding ? "{\"ids\": [numbers]}" : "{\"text\": \"…\"}",
                 printable(line, 60));
    } catch (const Error& error) {
      fail_input("line {}: {}", line_number, error.what());
    }
  }

  const TokenizeOptions& options_;
  const Tokenizer& tokenizer_;
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
    fmt::print("{}\n", fmt::join(tokenizer.encode(input, options.adds_special_tokens), " "));
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
  if (options.is_jsonl && !options.has_text) {
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
  file.excludes(text);
  jsonl.excludes(text);
  command.add_flag(
      "--add-special-tokens", options->adds_special_tokens, "Adds what the model expects, such as a begin token");
  command.add_flag("--decode", options->is_decoding, "From ids to text");
  command.add_flag("--skip-special-tokens", options->skips_special_tokens, "Leaves them out, with --decode");
  add_threads_option(command, options->common);
  add_output_options(command, options->common);
  command.callback([options, text, &context] {
    options->has_text = text.count() > 0;
    context.run = [options](MpiSession& session) { return run_tokenize(*options, session); };
  });
}

}  // namespace weft
