// Writes a token file document by document, so that a killed writer can go on where it last saved.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/resumable_file.h"
#include "data/token_file.h"

namespace weft {

/// What the header says of the tokenizer.
struct TokenFileInfo {
  int32_t vocab_size = 0;
  uint64_t tokenizer_fingerprint = 0;
  bool has_loss_spans = false;
};

/// How much of a token file there is.
struct TokenFileExtent {
  int64_t num_tokens = 0;
  int64_t num_documents = 0;
  int64_t num_loss_spans = 0;
};

/// Tokens, offsets and spans grow in three files of a folder; `finish` joins them and gives them their name. All throw
/// Error(bad_input) with the system's reason when the disk is full.
class TokenFileWriter {
 public:
  /// `folder` must exist; it holds at least what `extent` says, and what is beyond is cut off.
  TokenFileWriter(const std::string& folder, int32_t vocab_size, const TokenFileExtent& extent);
  /// Whether the folder holds that much.
  static bool can_resume(const std::string& folder, int32_t vocab_size, const TokenFileExtent& extent);

  /// Ids must lie within the vocabulary.
  void append_tokens(std::span<const int32_t> ids);
  /// In ascending order; positions are those in the file.
  void append_loss_span(const LossSpan& span);
  /// The document's tokens were all those since the last one's end.
  void end_document();

  const TokenFileExtent& extent() const { return extent_; }
  /// Waits until the disk has everything up to here.
  void sync();
  /// Completes the file and renames it to `path` on the same file system. Nothing may be called afterwards.
  void finish(const std::string& path, const TokenFileInfo& info);

 private:
  void append_sections(bool has_loss_spans);
  uint64_t body_checksum() const;

  TokenFileExtent extent_;
  uint32_t token_bytes_;
  ResumableFile tokens_;
  ResumableFile offsets_;  // where documents end
  ResumableFile spans_;
  std::vector<uint16_t> narrow_;
};

/// A document in memory: its tokens, and what of them is scored as positions in it.
struct TokenDocument {
  std::vector<int32_t> ids;
  std::vector<LossSpan> loss_spans;
};

/// Writes a whole file at once.
void write_token_file(const std::string& path, const TokenFileInfo& info, std::span<const TokenDocument> documents);

}  // namespace weft
