// The bytes of a token file (docs/data.md): a header, the tokens, where the documents end, and what of them is scored.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace weft {

/// A stable 64-bit hash of bytes; not for adversaries.
uint64_t checksum_bytes(std::string_view bytes, uint64_t start = 0);

/// All values are little-endian. The sections follow the header without a gap: num_tokens tokens, zeros up to a
/// multiple of 8 bytes, num_documents + 1 token positions (u64), num_loss_spans pairs of token positions (u64).
struct TokenFileHeader {
  std::array<char, 8> magic;  // kTokenFileMagic
  uint32_t version;           // 1
  uint32_t token_bytes;       // 2 or 4
  uint32_t flags;             // 1: has loss spans; what lies outside of them is not scored
  uint32_t vocab_size;        // one more than the largest id of the tokenizer
  uint64_t tokenizer_fingerprint;
  uint64_t num_tokens;
  uint64_t num_documents;
  uint64_t num_loss_spans;
  uint64_t body_checksum;            // of all bytes after the header
  std::array<uint64_t, 7> reserved;  // 0
  uint64_t header_checksum;          // of the bytes before it
};
static_assert(sizeof(TokenFileHeader) == 128);

inline constexpr std::array<char, 8> kTokenFileMagic = {'W', 'E', 'F', 'T', 'T', 'O', 'K', '\n'};
inline constexpr uint32_t kTokenFileVersion = 1;
inline constexpr uint32_t kHasLossSpans = 1;

/// The checksum that belongs into a header's last field.
uint64_t header_checksum(const TokenFileHeader& header);

}  // namespace weft
