// How far a preparation has come, on disk: so that it can be killed and go on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/token_file_writer.h"

namespace weft {

struct PrepareState {
  int64_t input = 0;  // the place in the inputs that comes next
  int64_t byte = 0;
  int64_t line = 1;
  int64_t document_begin = 0;  // position of the first token of a document that is not at its end
  TokenFileExtent extent;
  int64_t num_scored_tokens = 0;
  int64_t num_masked_documents = 0;
  int64_t num_skipped_lines = 0;
  int64_t longest_document = 0;  // tokens
};

/// Lines of text, each with its checksum: first what the job is, then states. A line that was cut off by a crash and
/// all after it don't count.
class PrepareJournal {
 public:
  /// Opens or creates the file and locks it. Throws Error(bad_input) when another process holds the lock.
  PrepareJournal(const std::string& path, const std::string& job);
  ~PrepareJournal();
  PrepareJournal(const PrepareJournal&) = delete;
  PrepareJournal& operator=(const PrepareJournal&) = delete;

  /// The last state of the same job, if there is one; otherwise the journal begins anew.
  const std::optional<PrepareState>& last_state() const { return last_state_; }
  void restart();
  /// Waits until the disk has it.
  void append(const PrepareState& state);

 private:
  void lock() const;
  void read();

  std::string job_;
  std::string path_;
  std::optional<PrepareState> last_state_;
  ResumableFile lock_file_;
  std::optional<ResumableFile> file_;
};

}  // namespace weft
