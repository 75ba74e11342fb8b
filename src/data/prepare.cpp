#include "data/prepare.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "core/paths.h"
#include "core/progress.h"
#include "data/prepare_journal.h"
#include "data/token_file_format.h"
#include "data/tokenizer_fingerprint.h"
#include "data/unit_encoder.h"
#include "data/worker_pool.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Input {
  std::string path;
  TextSplit split = TextSplit::file;
  int64_t size = 0;
  int64_t changed_ns = 0;  // a time of change stands for the content
};

/// What a file's name says it is; `text_split` of texts.
std::optional<TextSplit> split_by_name(const std::string& path, TextSplit text_split) {
  const std::string extension = fs::path(path).extension().string();
  if (extension == ".txt" || extension == ".text") return text_split;
  if (extension == ".jsonl" || extension == ".ndjson" || extension == ".json") return TextSplit::json_lines;
  return std::nullopt;
}

TextSplit split_of(const std::string& path, const PrepareOptions& options) {
  if (options.format == InputFormat::text) return options.text_split;
  if (options.format == InputFormat::json_lines) return TextSplit::json_lines;
  if (const std::optional<TextSplit> split = split_by_name(path, options.text_split)) return *split;
  fail_input("{}: is it text or JSON lines? Expected a name ending in .txt or .jsonl; else say --format", path);
}

std::vector<Input> open_inputs(const PrepareOptions& options) {
  if (options.inputs.empty()) fail_input("nothing to prepare: no input given");
  std::vector<Input> inputs;
  for (const std::string& path : options.inputs) {
    const File file(path);
    TextSplit split = split_of(path, options);
    if (split == TextSplit::json_lines && is_json_array(path)) split = TextSplit::json_array;
    struct stat status {};
    ::fstat(file.descriptor(), &status);
    inputs.push_back({.path = path,
                      .split = split,
                      .size = file.size(),
                      .changed_ns = status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec});
  }
  return inputs;
}

/// Everything that the output depends on. Not whether bad lines are skipped: what was done had none, or skipped them.
std::string describe_job(const std::vector<Input>& inputs,
                         const PrepareOptions& options,
                         const DocumentEncoder& encoder) {
  Json job = {{"version", kTokenFileVersion},
              {"tokenizer", fmt::format("{:016x}", tokenizer_fingerprint(encoder.tokenizer()))},
              {"prefix", encoder.prefix()},
              {"suffix", encoder.suffix()},
              {"chat_format", options.documents.chat_format},
              {"unit_bytes", options.unit_bytes}};
  if (!options.documents.field_names.empty()) job["field_names"] = options.documents.field_names;
  for (const Input& input : inputs) {
    job["inputs"].push_back(
        {fs::absolute(input.path).string(), static_cast<int>(input.split), input.size, input.changed_ns});
  }
  return job.dump(-1, ' ', true, Json::error_handler_t::replace);
}

std::string create_work_folder(const std::string& output) {
  std::error_code error;
  if (output.empty() || fs::is_directory(output, error)) {
    fail_input("{}: not a file's name; expected one such as corpus.tokens", printable(output, 400));
  }
  const fs::path parent = fs::path(output).parent_path();
  if (!parent.empty() && !is_folder(parent)) {
    fail_input("{}: there is no folder {}", printable(output, 400), printable(parent.string(), 400));
  }
  std::string folder = output + ".partial";
  fs::create_directory(folder, error);
  if (error) fail_input("{}: cannot be created: {}", printable(folder, 400), error.message());
  return folder;
}

class Preparation {
 public:
  Preparation(const PrepareOptions& options, std::shared_ptr<const Tokenizer> tokenizer)
      : options_(options),
        encoder_(std::move(tokenizer), options.documents),
        inputs_(open_inputs(options)),
        folder_(create_work_folder(options.output)),
        journal_(folder_ + "/journal", describe_job(inputs_, options, encoder_)) {
    for (const Input& input : inputs_) statistics_.input_bytes += input.size;
    resume();
    sync_folder(folder_);
  }

  PrepareStatistics run() {
    try {
      return prepare();
    } catch (const Error&) {
      // What was committed is worth going on from once the cause is mended.
      if (!is_worth_keeping_) remove_work_folder();
      throw;
    }
  }

 private:
  void remove_work_folder() const {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  PrepareStatistics prepare() {
    encode_inputs();
    if (state_.extent.num_documents == 0) {
      is_worth_keeping_ = false;
      fail_input("{}: nothing to prepare: no text in {} input files", printable(inputs_[0].path, 400), inputs_.size());
    }
    commit();
    writer_->finish(options_.output,
                    {.vocab_size = encoder_.tokenizer().vocab_size(),
                     .tokenizer_fingerprint = tokenizer_fingerprint(encoder_.tokenizer()),
                     .has_loss_spans = state_.num_masked_documents > 0});
    remove_work_folder();
    statistics_.num_documents = state_.extent.num_documents;
    statistics_.num_tokens = state_.extent.num_tokens;
    statistics_.num_scored_tokens = state_.num_scored_tokens;
    statistics_.num_skipped_lines = state_.num_skipped_lines;
    statistics_.longest_document = state_.longest_document;
    return statistics_;
  }

  /// A unit under way, in the order of the inputs.
  struct Pending {
    int64_t input = 0;
    int64_t bytes = 0;
    int64_t end = 0;
    int64_t next_line = 0;
    bool is_file_end = false;
    std::future<EncodedUnit> encoded;
  };

  void resume() {
    const int32_t vocab_size = encoder_.tokenizer().vocab_size();
    const std::optional<PrepareState>& last = journal_.last_state();
    if (last && !options_.restart && TokenFileWriter::can_resume(folder_, vocab_size, last->extent)) {
      state_ = *last;
      is_worth_keeping_ = true;
      for (int64_t i = 0; i < state_.input; ++i) statistics_.resumed_bytes += inputs_[static_cast<size_t>(i)].size;
      statistics_.resumed_bytes += state_.byte;
      log::info("going on after {} of {} bytes of input", statistics_.resumed_bytes, statistics_.input_bytes);
    } else if (last) {
      journal_.restart();
    }
    writer_.emplace(folder_, vocab_size, state_.extent);
  }

  void encode_inputs() {
    Progress progress("preparing", statistics_.input_bytes, options_.show_progress);
    progress.add(statistics_.resumed_bytes);
    WorkerPool workers(options_.num_threads);
    const auto first = state_.input;
    for (int64_t i = first; i < static_cast<int64_t>(inputs_.size()); ++i) {
      const Input& input = inputs_[static_cast<size_t>(i)];
      TextUnitReader reader(
          input.path,
          {.split = input.split, .can_cut_lines = encoder_.can_cut_lines(), .unit_bytes = options_.unit_bytes},
          i == first ? state_.byte : 0,
          i == first ? state_.line : 1);
      while (std::optional<TextUnit> unit = reader.next()) {
        while (is_full()) take_first(progress);
        submit(workers, i, std::move(*unit));
      }
    }
    while (!pending_.empty()) take_first(progress);
  }

  /// Enough to keep the threads busy while the first is waited for.
  bool is_full() const {
    return pending_bytes_ > 0 && pending_bytes_ >= options_.unit_bytes * (2 * options_.num_threads + 2);
  }

  void submit(WorkerPool& workers, int64_t input, TextUnit unit) {
    Pending& pending = pending_.emplace_back();
    pending.input = input;
    pending.bytes = static_cast<int64_t>(unit.bytes.size());
    pending.end = unit.end;
    pending.next_line = unit.next_line;
    pending.is_file_end = unit.ends_file;
    pending_bytes_ += pending.bytes;
    pending.encoded = workers.submit([this, input, text = std::move(unit)] {
      const Input& source = inputs_[static_cast<size_t>(input)];
      return encode_unit(
          encoder_, text, source.path, {.split = source.split, .skip_bad_lines = options_.skip_bad_lines});
    });
  }

  void take_first(Progress& progress) {
    Pending pending = std::move(pending_.front());
    pending_.pop_front();
    pending_bytes_ -= pending.bytes;
    append(pending.encoded.get(), inputs_[static_cast<size_t>(pending.input)].split);
    state_.input = pending.is_file_end ? pending.input + 1 : pending.input;
    state_.byte = pending.is_file_end ? 0 : pending.end;
    state_.line = pending.is_file_end ? 1 : pending.next_line;
    progress.add(pending.bytes);
    uncommitted_bytes_ += pending.bytes;
    if (uncommitted_bytes_ >= options_.commit_bytes) commit();
  }

  void append(const EncodedUnit& unit, TextSplit split) {
    const int64_t base = state_.extent.num_tokens;
    size_t written = 0;
    for (const uint64_t end : unit.document_ends) {
      writer_->append_tokens(std::span(unit.ids).subspan(written, end - written));
      written = end;
      const int64_t document_end = base + static_cast<int64_t>(end);
      state_.longest_document = std::max(state_.longest_document, document_end - state_.document_begin);
      if (split == TextSplit::file) append_span(state_.document_begin, document_end);
      state_.document_begin = document_end;
      writer_->end_document();
    }
    writer_->append_tokens(std::span(unit.ids).subspan(written));
    for (const LossSpan& span : unit.loss_spans) {
      append_span(base + static_cast<int64_t>(span.begin), base + static_cast<int64_t>(span.end));
    }
    state_.num_masked_documents += unit.num_masked_documents;
    state_.num_skipped_lines += unit.num_skipped_lines;
    state_.extent = writer_->extent();
  }

  void append_span(int64_t begin, int64_t end) {
    writer_->append_loss_span({static_cast<uint64_t>(begin), static_cast<uint64_t>(end)});
    state_.num_scored_tokens += end - begin;
  }

  void commit() {
    writer_->sync();
    state_.extent = writer_->extent();
    journal_.append(state_);
    is_worth_keeping_ = true;
    uncommitted_bytes_ = 0;
  }

  const PrepareOptions& options_;
  DocumentEncoder encoder_;
  std::vector<Input> inputs_;
  std::string folder_;
  PrepareJournal journal_;
  PrepareState state_;
  PrepareStatistics statistics_;
  std::optional<TokenFileWriter> writer_;
  std::deque<Pending> pending_;
  int64_t pending_bytes_ = 0;
  int64_t uncommitted_bytes_ = 0;
  bool is_worth_keeping_ = false;
};

/// Hash of a whole file in blocks.
uint64_t hash_file(const std::string& path) {
  const File file(path);
  std::string block(size_t{4} << 20, '\0');
  uint64_t hash = 0;
  for (int64_t offset = 0; offset < file.size();) {
    const int64_t count = std::min(file.size() - offset, static_cast<int64_t>(block.size()));
    file.read(offset, block.data(), count);
    hash = checksum_bytes({block.data(), static_cast<size_t>(count)}, hash);
    offset += count;
  }
  return hash;
}

}  // namespace

PrepareStatistics prepare_tokens(const PrepareOptions& options, std::shared_ptr<const Tokenizer> tokenizer) {
  return Preparation(options, std::move(tokenizer)).run();
}

std::string prepare_source(const std::string& path,
                           const std::string& folder,
                           std::shared_ptr<const Tokenizer> tokenizer,
                           const DocumentEncoderOptions& documents,
                           int num_threads,
                           bool show_progress) {
  if (is_token_file(path)) return path;
  if (is_folder(path)) fail_input("{}: a folder; name the files in it", printable(path, 400));
  if (!split_by_name(path, TextSplit::file)) {
    fail_input("{}: expected a name ending in .txt, .jsonl or .tokens; others are prepared by weft prepare --format",
               printable(path, 400));
  }
  uint64_t hash = hash_file(path) ^ tokenizer_fingerprint(*tokenizer);
  for (const auto& [theirs, ours] : documents.field_names) hash = checksum_bytes(theirs + "=" + ours, hash);
  std::string name = fs::path(path).stem().string() + (documents.separate_texts ? "-pairs" : "");
  std::string output = fmt::format("{}/{}-{:016x}.tokens", folder, name, hash);
  if (is_token_file(output)) return output;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail_input("{}: cannot be created: {}", printable(folder, 400), error.message());
  prepare_tokens({.inputs = {path},
                  .output = output,
                  .documents = documents,
                  .num_threads = num_threads,
                  .show_progress = show_progress},
                 std::move(tokenizer));
  return output;
}

}  // namespace weft
