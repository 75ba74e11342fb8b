// tokenizer_bench TOKENIZER TEXT…: seconds to load, then MB/s of encoding and decoding on one thread, in documents of
// 64 KiB.
#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

constexpr size_t kDocumentBytes = 64 * 1024;
constexpr int kRuns = 5;

/// Processor time, which other work on the machine does not lengthen.
template <typename Function>
double seconds(const Function& function) {
  const std::clock_t start = std::clock();
  function();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

double median_seconds(const auto& function) {
  std::vector<double> times;
  times.reserve(kRuns);
  for (int run = 0; run < kRuns; ++run) times.push_back(seconds(function));
  std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
  return times[kRuns / 2];
}

/// Cut between characters, so that no document begins or ends inside one.
std::vector<std::string> read_documents(const std::string& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  const std::string text = bytes.str();
  std::vector<std::string> documents;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(begin + kDocumentBytes, text.size());
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    documents.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return documents;
}

void measure(const Tokenizer& tokenizer, const std::string& path) {
  const std::vector<std::string> documents = read_documents(path);
  size_t num_bytes = 0;
  for (const std::string& document : documents) num_bytes += document.size();
  std::vector<std::vector<int32_t>> ids(documents.size());
  const double encode_s = median_seconds([&] {
    for (size_t i = 0; i < documents.size(); ++i) ids[i] = tokenizer.encode(documents[i], false);
  });
  const double decode_s = median_seconds([&] {
    for (const auto& document : ids) tokenizer.decode(document, false);
  });
  size_t num_ids = 0;
  for (const auto& document : ids) num_ids += document.size();
  const double megabytes = static_cast<double>(num_bytes) / 1e6;
  fmt::print("{}: {:.2f} MB, {} ids, encode {:.1f} MB/s, decode {:.1f} MB/s\n",
             path,
             megabytes,
             num_ids,
             megabytes / encode_s,
             megabytes / decode_s);
}

}  // namespace
}  // namespace weft

int main(int argc, char** argv) {
  try {
    std::shared_ptr<const weft::Tokenizer> tokenizer;
    const double load_s = weft::seconds([&] { tokenizer = weft::load_tokenizer(argc > 1 ? argv[1] : "."); });
    fmt::print("loaded in {:.3f} s\n", load_s);
    for (int i = 2; i < argc; ++i) weft::measure(*tokenizer, argv[i]);
  } catch (const weft::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.code());
  }
}
