#include "data/token_file_writer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "data/token_file_format.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHeaderBytes = sizeof(TokenFileHeader);
constexpr int32_t kMaxNarrowVocabulary = 1 << 16;

uint32_t token_bytes_for(int32_t vocab_size) {
  return vocab_size <= kMaxNarrowVocabulary ? 2 : 4;
}

std::string tokens_path(const std::string& folder) {
  return folder + "/tokens";
}
std::string offsets_path(const std::string& folder) {
  return folder + "/offsets";
}
std::string spans_path(const std::string& folder) {
  return folder + "/spans";
}

int64_t token_section_bytes(int32_t vocab_size, const TokenFileExtent& extent) {
  return extent.num_tokens > 0 ? kHeaderBytes + extent.num_tokens * token_bytes_for(vocab_size) : 0;
}
int64_t offset_section_bytes(const TokenFileExtent& extent) {
  return extent.num_documents * static_cast<int64_t>(sizeof(uint64_t));
}
int64_t span_section_bytes(const TokenFileExtent& extent) {
  return extent.num_loss_spans * static_cast<int64_t>(sizeof(LossSpan));
}

/// Copies a file that was flushed to the end of another.
void append_file(const ResumableFile& from, ResumableFile& to) {
  std::vector<char> block(size_t{1} << 20);
  for (int64_t offset = 0; offset < from.size();) {
    const ssize_t count = ::pread(from.descriptor(), block.data(), block.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      fail_input("{}: cannot read back: {}", printable(from.path(), 400), std::strerror(errno));
    }
    to.append(block.data(), static_cast<size_t>(count));
    offset += count;
  }
}

}  // namespace

TokenFileWriter::TokenFileWriter(const std::string& folder, int32_t vocab_size, const TokenFileExtent& extent)
    : extent_(extent),
      token_bytes_(token_bytes_for(vocab_size)),
      tokens_(tokens_path(folder), token_section_bytes(vocab_size, extent)),
      offsets_(offsets_path(folder), offset_section_bytes(extent)),
      spans_(spans_path(folder), span_section_bytes(extent)) {
  // The header's place is empty until the end, when the counts are known.
  constexpr std::array<char, kHeaderBytes> empty_header = {};
  if (tokens_.size() == 0) tokens_.append(empty_header.data(), empty_header.size());
}

bool TokenFileWriter::can_resume(const std::string& folder, int32_t vocab_size, const TokenFileExtent& extent) {
  const auto holds = [](const std::string& path, int64_t size) {
    std::error_code error;
    const uintmax_t found = fs::file_size(path, error);
    return !error && found >= static_cast<uintmax_t>(size);
  };
  return holds(tokens_path(folder), token_section_bytes(vocab_size, extent)) &&
         holds(offsets_path(folder), offset_section_bytes(extent)) &&
         holds(spans_path(folder), span_section_bytes(extent));
}

void TokenFileWriter::append_tokens(std::span<const int32_t> ids) {
  if (token_bytes_ == 2) {
    narrow_.assign(ids.begin(), ids.end());
    tokens_.append(narrow_.data(), narrow_.size() * sizeof(uint16_t));
  } else {
    tokens_.append(ids.data(), ids.size_bytes());
  }
  extent_.num_tokens += static_cast<int64_t>(ids.size());
}

void TokenFileWriter::append_loss_span(const LossSpan& span) {
  spans_.append(&span, sizeof(span));
  ++extent_.num_loss_spans;
}

void TokenFileWriter::end_document() {
  const auto end = static_cast<uint64_t>(extent_.num_tokens);
  offsets_.append(&end, sizeof(end));
  ++extent_.num_documents;
}

void TokenFileWriter::sync() {
  tokens_.sync();
  offsets_.sync();
  spans_.sync();
}

void TokenFileWriter::append_sections(bool has_loss_spans) {
  constexpr std::array<char, 8> zeros = {};
  tokens_.append(zeros.data(), static_cast<size_t>((8 - tokens_.size() % 8) % 8));
  tokens_.append(zeros.data(), zeros.size());  // where the first document begins
  offsets_.flush();
  append_file(offsets_, tokens_);
  spans_.flush();
  if (has_loss_spans) append_file(spans_, tokens_);
  tokens_.flush();
}

uint64_t TokenFileWriter::body_checksum() const {
  const auto size = static_cast<size_t>(tokens_.size());
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, tokens_.descriptor(), 0);
  if (mapped == MAP_FAILED) {
    fail_input("{}: cannot map: {}", printable(tokens_.path(), 400), std::strerror(errno));
  }
  const uint64_t checksum = checksum_bytes({static_cast<const char*>(mapped) + kHeaderBytes, size - kHeaderBytes});
  ::munmap(mapped, size);
  return checksum;
}

void TokenFileWriter::finish(const std::string& path, const TokenFileInfo& info) {
  append_sections(info.has_loss_spans);
  TokenFileHeader header = {};
  header.magic = kTokenFileMagic;
  header.version = kTokenFileVersion;
  header.token_bytes = token_bytes_;
  header.flags = info.has_loss_spans ? kHasLossSpans : 0;
  header.vocab_size = static_cast<uint32_t>(info.vocab_size);
  header.tokenizer_fingerprint = info.tokenizer_fingerprint;
  header.num_tokens = static_cast<uint64_t>(extent_.num_tokens);
  header.num_documents = static_cast<uint64_t>(extent_.num_documents);
  header.num_loss_spans = info.has_loss_spans ? static_cast<uint64_t>(extent_.num_loss_spans) : 0;
  header.body_checksum = body_checksum();
  header.header_checksum = header_checksum(header);
  tokens_.write_at(0, {reinterpret_cast<const char*>(&header), sizeof(header)});
  tokens_.sync();
  if (std::rename(tokens_.path().c_str(), path.c_str()) != 0) {
    fail_input("{}: cannot be named {}: {}", tokens_.path(), printable(path, 400), std::strerror(errno));
  }
  sync_folder(fs::path(path).parent_path().string());
}

void write_token_file(const std::string& path, const TokenFileInfo& info, std::span<const TokenDocument> documents) {
  const std::string folder = path + ".partial";
  fs::create_directories(folder);
  TokenFileWriter writer(folder, info.vocab_size, {});
  for (const TokenDocument& document : documents) {
    const auto begin = static_cast<uint64_t>(writer.extent().num_tokens);
    writer.append_tokens(document.ids);
    for (const LossSpan& span : document.loss_spans) writer.append_loss_span({begin + span.begin, begin + span.end});
    writer.end_document();
  }
  writer.finish(path, info);
  fs::remove_all(folder);
}

}  // namespace weft
