// Prepared training data, mapped into memory: the tokens of all documents one after the other.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace weft {

/// Token positions [begin, end) that are learned.
struct LossSpan {
  uint64_t begin = 0, end = 0;
};

/// A file in the format of token_file_format.h. Everything but the values of the tokens is checked on opening: sizes
/// against the file's, the order of offsets and spans, and the checksum of files up to 256 MiB. Tokens are checked as
/// they are read. Thread-safe.
class TokenFile {
 public:
  /// Throws Error(bad_input) for a file that is no token file, of another version, truncated or damaged.
  explicit TokenFile(const std::string& path);
  ~TokenFile();
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return num_documents_; }
  /// Whether only parts of the documents are scored.
  bool has_loss_spans() const { return has_loss_spans_; }
  int32_t vocab_size() const { return vocab_size_; }
  /// See tokenizer_fingerprint() in tokenizer_fingerprint.h.
  uint64_t tokenizer_fingerprint() const { return tokenizer_fingerprint_; }
  /// The same for equal contents.
  uint64_t checksum() const { return checksum_; }

  /// Position of a document's first token; of `num_documents()`: the number of tokens.
  int64_t document_begin(int64_t document) const { return static_cast<int64_t>(offsets_[document]); }
  /// Tokens [begin, end). Throws Error(bad_input) for an id outside of the vocabulary.
  void read_tokens(int64_t begin, int64_t end, int32_t* into) const;
  /// The spans that reach into [begin, end).
  std::span<const LossSpan> loss_spans(int64_t begin, int64_t end) const;

 private:
  void read_header();
  void check_body() const;
  void check_offsets() const;
  void check_loss_spans() const;

  std::string path_;
  const char* bytes_ = nullptr;
  int64_t size_ = 0;
  int64_t num_tokens_ = 0;
  int64_t num_documents_ = 0;
  uint32_t token_bytes_ = 0;
  int32_t vocab_size_ = 0;
  bool has_loss_spans_ = false;
  uint64_t tokenizer_fingerprint_ = 0;
  uint64_t checksum_ = 0;
  const uint64_t* offsets_ = nullptr;
  std::span<const LossSpan> spans_;
};

/// Whether the file begins like a token file; false for one that can't be read.
bool is_token_file(const std::string& path);

}  // namespace weft
