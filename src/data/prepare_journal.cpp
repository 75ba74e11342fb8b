#include "data/prepare_journal.h"

#include <fmt/format.h>
#include <sys/file.h>

#include <array>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "data/token_file_format.h"

namespace weft {
namespace {

constexpr size_t kNumFields = 11;

std::array<int64_t*, kNumFields> fields_of(PrepareState& state) {
  return {&state.input,
          &state.byte,
          &state.line,
          &state.document_begin,
          &state.extent.num_tokens,
          &state.extent.num_documents,
          &state.extent.num_loss_spans,
          &state.num_scored_tokens,
          &state.num_masked_documents,
          &state.num_skipped_lines,
          &state.longest_document};
}

std::string with_checksum(const std::string& text) {
  return fmt::format("{:016x} {}\n", checksum_bytes(text), text);
}

/// The text of a whole line; nothing if it is damaged.
std::optional<std::string> without_checksum(const std::string& line) {
  if (line.size() < 17) return std::nullopt;
  std::string text = line.substr(17);
  if (with_checksum(text) != line + '\n') return std::nullopt;
  return text;
}

std::optional<PrepareState> parse_state(const std::string& text) {
  PrepareState state;
  std::istringstream words(text);
  for (int64_t* field : fields_of(state)) words >> *field;
  if (!words) return std::nullopt;
  return state;
}

}  // namespace

PrepareJournal::PrepareJournal(const std::string& path, const std::string& job)
    : job_(job), path_(path), lock_file_(path + ".lock", 0) {
  lock();
  read();
  if (!last_state_) restart();
}

PrepareJournal::~PrepareJournal() = default;

void PrepareJournal::lock() const {
  if (::flock(lock_file_.descriptor(), LOCK_EX | LOCK_NB) == 0) return;
  fail_input("{}: another process is preparing the same file; wait for it", printable(path_, 400));
}

void PrepareJournal::read() {
  std::ifstream stream(path_, std::ios::binary);
  int64_t whole_bytes = 0;
  for (std::string line; std::getline(stream, line) && !stream.eof();) {
    const std::optional<std::string> text = without_checksum(line);
    if (!text || (whole_bytes == 0 && *text != job_)) break;
    if (whole_bytes > 0) last_state_ = parse_state(*text);
    whole_bytes += static_cast<int64_t>(line.size()) + 1;
  }
  if (last_state_) file_.emplace(path_, whole_bytes);
}

void PrepareJournal::restart() {
  last_state_.reset();
  file_.reset();
  file_.emplace(path_, 0);
  const std::string line = with_checksum(job_);
  file_->append(line.data(), line.size());
  file_->sync();
}

void PrepareJournal::append(const PrepareState& state) {
  PrepareState copy = state;
  std::string text;
  for (const int64_t* field : fields_of(copy)) text += fmt::format("{}{}", text.empty() ? "" : " ", *field);
  const std::string line = with_checksum(text);
  file_->append(line.data(), line.size());
  file_->sync();
}

}  // namespace weft
