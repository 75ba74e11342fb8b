#include "data/token_file.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>

#include "checkpoint/file.h"
#include "core/error.h"
#include "data/token_file_format.h"

namespace weft {
namespace {

constexpr int64_t kHeaderBytes = sizeof(TokenFileHeader);
// What is read through in a moment. Bigger files would delay the start of a run.
constexpr int64_t kMaxCheckedBytes = int64_t{256} << 20;

/// Constants of SplitMix64 (Steele, Lea, Flood, 2014).
uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

}  // namespace

uint64_t checksum_bytes(std::string_view bytes, uint64_t start) {
  // Four lanes, so that the multiplications overlap.
  std::array<uint64_t, 4> lanes = {start, start + 1, start + 2, start + 3};
  const size_t length = bytes.size();
  while (bytes.size() >= 32) {
    std::array<uint64_t, 4> words;
    std::memcpy(words.data(), bytes.data(), 32);
    for (size_t lane = 0; lane < 4; ++lane) {
      lanes[lane] = (lanes[lane] ^ words[lane]) * 0x9E3779B97F4A7C15ULL;
      lanes[lane] ^= lanes[lane] >> 29;
    }
    bytes.remove_prefix(32);
  }
  std::array<char, 32> rest = {};
  if (!bytes.empty()) std::memcpy(rest.data(), bytes.data(), bytes.size());
  std::array<uint64_t, 4> words;
  std::memcpy(words.data(), rest.data(), 32);
  uint64_t hash = length;
  for (size_t lane = 0; lane < 4; ++lane) hash = mix(hash ^ mix(lanes[lane] ^ words[lane])) + 0x9E3779B97F4A7C15ULL;
  return hash;
}

uint64_t header_checksum(const TokenFileHeader& header) {
  return checksum_bytes({reinterpret_cast<const char*>(&header), sizeof(header) - sizeof(header.header_checksum)});
}

TokenFile::TokenFile(const std::string& path) : path_(printable(path, 400)) {
  const File file(path);
  size_ = file.size();
  if (size_ < kHeaderBytes) {
    fail_input("{}: {} bytes are no token file; make one with `weft prepare`", path_, size_);
  }
  void* mapped = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (mapped == MAP_FAILED) fail_input("{}: cannot map {} bytes: {}", path_, size_, std::strerror(errno));
  bytes_ = static_cast<const char*>(mapped);
  try {
    read_header();
    check_body();
  } catch (...) {
    ::munmap(mapped, static_cast<size_t>(size_));
    throw;
  }
}

TokenFile::~TokenFile() {
  ::munmap(const_cast<char*>(bytes_), static_cast<size_t>(size_));
}

void TokenFile::read_header() {
  TokenFileHeader header;
  std::memcpy(&header, bytes_, sizeof(header));
  if (header.magic != kTokenFileMagic) {
    fail_input("{}: not a token file; make one of text or JSON lines with `weft prepare`", path_);
  }
  if (header.version != kTokenFileVersion) {
    fail_input(
        "{}: token file of version {}, this Weft reads {}; prepare it anew", path_, header.version, kTokenFileVersion);
  }
  if (header.header_checksum != header_checksum(header)) fail_input("{}: damaged header; prepare it anew", path_);
  const auto size = static_cast<uint64_t>(size_);
  const bool is_plausible = (header.token_bytes == 2 || header.token_bytes == 4) && header.vocab_size > 0 &&
                            header.vocab_size <= INT32_MAX && header.num_tokens <= size / header.token_bytes &&
                            header.num_documents < size / sizeof(uint64_t) &&
                            header.num_loss_spans <= size / sizeof(LossSpan) && (header.flags & ~kHasLossSpans) == 0;
  if (!is_plausible) fail_input("{}: the header's counts don't fit a file of {} bytes; prepare it anew", path_, size_);
  // None of these can overflow: each part is at most the file's size.
  const uint64_t offsets_begin = (kHeaderBytes + header.num_tokens * header.token_bytes + 7) / 8 * 8;
  const uint64_t spans_begin = offsets_begin + (header.num_documents + 1) * sizeof(uint64_t);
  const uint64_t expected = spans_begin + header.num_loss_spans * sizeof(LossSpan);
  if (expected != size) {
    fail_input("{}: {} bytes, the header says {}; truncated or damaged, prepare it anew", path_, size, expected);
  }
  num_tokens_ = static_cast<int64_t>(header.num_tokens);
  num_documents_ = static_cast<int64_t>(header.num_documents);
  token_bytes_ = header.token_bytes;
  vocab_size_ = static_cast<int32_t>(header.vocab_size);
  has_loss_spans_ = (header.flags & kHasLossSpans) != 0;
  tokenizer_fingerprint_ = header.tokenizer_fingerprint;
  checksum_ = header.body_checksum;
  offsets_ = reinterpret_cast<const uint64_t*>(bytes_ + offsets_begin);
  spans_ = {reinterpret_cast<const LossSpan*>(bytes_ + spans_begin), header.num_loss_spans};
}

void TokenFile::check_body() const {
  if (size_ <= kMaxCheckedBytes) {
    const std::string_view body(bytes_ + kHeaderBytes, static_cast<size_t>(size_ - kHeaderBytes));
    if (checksum_bytes(body) != checksum_) {
      fail_input("{}: damaged: its checksum is not that of its header; prepare it anew", path_);
    }
  }
  check_offsets();
  check_loss_spans();
}

void TokenFile::check_offsets() const {
  const auto num_tokens = static_cast<uint64_t>(num_tokens_);
  bool is_good = offsets_[0] == 0 && offsets_[num_documents_] == num_tokens;
  for (int64_t i = 0; i < num_documents_; ++i) is_good &= offsets_[i] <= offsets_[i + 1];
  if (!is_good) fail_input("{}: damaged: document offsets out of order; prepare it anew", path_);
}

void TokenFile::check_loss_spans() const {
  uint64_t previous_end = 0;
  bool is_good = true;
  for (const LossSpan& span : spans_) {
    is_good &= span.begin >= previous_end && span.begin < span.end;
    previous_end = span.end;
  }
  is_good &= previous_end <= static_cast<uint64_t>(num_tokens_);
  if (!is_good) fail_input("{}: damaged: loss spans out of order; prepare it anew", path_);
}

namespace {

/// Widens tokens and returns the largest.
template <typename Token>
uint32_t widen(const char* from, int64_t count, int32_t* into) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    Token token;
    std::memcpy(&token, from + static_cast<size_t>(i) * sizeof(Token), sizeof(Token));
    largest = std::max<uint32_t>(largest, token);
    into[i] = static_cast<int32_t>(token);
  }
  return largest;
}

}  // namespace

void TokenFile::read_tokens(int64_t begin, int64_t end, int32_t* into) const {
  WEFT_ASSERT(0 <= begin && begin <= end && end <= num_tokens_);
  const char* from = bytes_ + kHeaderBytes + begin * token_bytes_;
  const uint32_t largest =
      token_bytes_ == 2 ? widen<uint16_t>(from, end - begin, into) : widen<uint32_t>(from, end - begin, into);
  if (begin < end && largest >= static_cast<uint32_t>(vocab_size_)) {
    fail_input("{}: damaged: token {} between {} and {}, the vocabulary has {}; prepare it anew",
               path_,
               largest,
               begin,
               end,
               vocab_size_);
  }
}

std::span<const LossSpan> TokenFile::loss_spans(int64_t begin, int64_t end) const {
  const auto ends_before = [](const LossSpan& span, uint64_t position) { return span.end <= position; };
  const auto begins_before = [](const LossSpan& span, uint64_t position) { return span.begin < position; };
  const auto first = std::lower_bound(spans_.begin(), spans_.end(), static_cast<uint64_t>(begin), ends_before);
  const auto last = std::lower_bound(first, spans_.end(), static_cast<uint64_t>(end), begins_before);
  return {first, last};
}

bool is_token_file(const std::string& path) {
  try {
    const File file(path);
    std::array<char, 8> magic = {};
    if (file.size() < static_cast<int64_t>(magic.size())) return false;
    file.read(0, magic.data(), static_cast<int64_t>(magic.size()));
    return magic == kTokenFileMagic;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace weft
