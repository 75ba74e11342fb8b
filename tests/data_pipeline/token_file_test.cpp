#include "data/token_file.h"

#include <gmock/gmock.h>

#include <cstring>
#include <functional>

#include "core/error.h"
#include "data/token_file_format.h"
#include "data_pipeline/token_files.h"

namespace weft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

class TokenFileTest : public test::FolderTest {
 protected:
  /// A file of three documents with loss spans.
  std::string valid_bytes(int32_t vocab_size = 100) {
    const std::vector<TokenDocument> documents = {{{1, 2, 3}, {{1, 3}}}, {{4}, {}}, {{5, 6, 7, 8}, {{0, 1}, {2, 4}}}};
    write_token_file(path("valid.tokens"),
                     {.vocab_size = vocab_size, .tokenizer_fingerprint = 77, .has_loss_spans = true},
                     documents);
    return test::file_bytes(path("valid.tokens"));
  }

  /// Opens a file of these bytes after the change, with the checksums put right.
  void open_changed(const std::function<void(TokenFileHeader&, std::string&)>& change) {
    std::string bytes = valid_bytes();
    TokenFileHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    std::string body = bytes.substr(sizeof(header));
    change(header, body);
    header.body_checksum = checksum_bytes(body);
    header.header_checksum = header_checksum(header);
    bytes.replace(0, sizeof(header), reinterpret_cast<const char*>(&header), sizeof(header));
    test::write_bytes(path("changed.tokens"), bytes.substr(0, sizeof(header)) + body);
    const TokenFile file(path("changed.tokens"));
    std::vector<int32_t> ids(static_cast<size_t>(file.num_tokens()));
    file.read_tokens(0, file.num_tokens(), ids.data());
  }
};

TEST_F(TokenFileTest, GivesBackWhatWasWritten) {
  for (const int32_t vocab_size : {100, 1 << 16, (1 << 16) + 1}) {
    const std::string bytes = valid_bytes(vocab_size);
    const TokenFile file(path("valid.tokens"));
    EXPECT_EQ(file.num_documents(), 3);
    EXPECT_EQ(file.vocab_size(), vocab_size);
    EXPECT_EQ(file.tokenizer_fingerprint(), 77);
    EXPECT_EQ(file.document_begin(1), 3);
    EXPECT_EQ(file.document_begin(3), 8);
    std::vector<int32_t> ids(8);
    file.read_tokens(0, 8, ids.data());
    EXPECT_THAT(ids, ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
    const auto spans = file.loss_spans(2, 5);
    ASSERT_EQ(spans.size(), 2);
    EXPECT_EQ(spans[0].begin, 1);
    EXPECT_EQ(spans[1].begin, 4);
    EXPECT_TRUE(file.loss_spans(5, 6).empty());
    EXPECT_TRUE(is_token_file(path("valid.tokens")));
    EXPECT_FALSE(std::filesystem::exists(path("valid.tokens.partial")));
    EXPECT_EQ(bytes.size(), sizeof(TokenFileHeader) + (vocab_size > 65536 ? 32 : 16) + 4 * 8 + 3 * 16);
  }
}

TEST_F(TokenFileTest, EveryTruncationAndEveryFlippedBitIsNoticed) {
  const std::string bytes = valid_bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    test::write_bytes(path("broken.tokens"), bytes.substr(0, size));
    EXPECT_THROW(TokenFile{path("broken.tokens")}, Error) << size;
  }
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string broken = bytes;
    broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << bit % 8));
    test::write_bytes(path("broken.tokens"), broken);
    EXPECT_THROW(TokenFile{path("broken.tokens")}, Error) << bit;
  }
}

TEST_F(TokenFileTest, HostileFilesWithRightChecksumsAreRefused) {
  const auto set_u64 = [](std::string& body, size_t offset, uint64_t value) { std::memcpy(&body[offset], &value, 8); };
  using Change = std::function<void(TokenFileHeader&, std::string&)>;
  // 8 tokens of 2 bytes, offsets from 16, spans from 48.
  const std::vector<std::pair<Change, std::string>> table = {
      {[](auto& header, auto&) { header.magic[0] = 'X'; }, "not a token file"},
      {[](auto& header, auto&) { header.version = 2; }, "of version 2, this Weft reads 1"},
      {[](auto& header, auto&) { header.token_bytes = 0; }, "counts don't fit"},
      {[](auto& header, auto&) { header.token_bytes = 3; }, "counts don't fit"},
      {[](auto& header, auto&) { header.vocab_size = 0; }, "counts don't fit"},
      {[](auto& header, auto&) { header.vocab_size = UINT32_MAX; }, "counts don't fit"},
      {[](auto& header, auto&) { header.flags = 6; }, "counts don't fit"},
      {[](auto& header, auto&) { header.num_tokens = UINT64_MAX; }, "counts don't fit"},
      {[](auto& header, auto&) { header.num_documents = UINT64_MAX; }, "counts don't fit"},
      {[](auto& header, auto&) { header.num_loss_spans = UINT64_MAX / 16; }, "counts don't fit"},
      {[](auto& header, auto&) { header.num_tokens = 9; }, "truncated or damaged"},
      {[](auto& header, auto&) { header.num_documents = 2; }, "truncated or damaged"},
      {[](auto&, auto& body) { body += '\0'; }, "truncated or damaged"},
      {[](auto& header, auto&) { header.vocab_size = 8; }, "token 8 between 0 and 8, the vocabulary has 8"},
      {[&](auto&, auto& body) { set_u64(body, 16, 1); }, "document offsets out of order"},
      {[&](auto&, auto& body) { set_u64(body, 24, 5); }, "document offsets out of order"},
      {[&](auto&, auto& body) { set_u64(body, 24, UINT64_MAX); }, "document offsets out of order"},
      {[&](auto&, auto& body) { set_u64(body, 40, 7); }, "document offsets out of order"},
      {[&](auto&, auto& body) { set_u64(body, 48, 3); }, "loss spans out of order"},
      {[&](auto&, auto& body) { set_u64(body, 56, 6); }, "loss spans out of order"},
      {[&](auto&, auto& body) { set_u64(body, 88, 9); }, "loss spans out of order"},
  };
  open_changed([](auto&, auto&) {});
  for (const auto& row : table) {
    EXPECT_THAT([&] { open_changed(row.first); }, ThrowsMessage<Error>(HasSubstr(row.second)));
  }
}

TEST_F(TokenFileTest, WhatIsNoFileIsNoTokenFile) {
  EXPECT_THAT([&] { TokenFile{path("")}; }, ThrowsMessage<Error>(HasSubstr("not a regular file")));
  EXPECT_FALSE(is_token_file(path("")));
  EXPECT_FALSE(is_token_file(path("missing")));
}

}  // namespace
}  // namespace weft
