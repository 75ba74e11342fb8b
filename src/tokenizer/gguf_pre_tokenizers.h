// The words by which GGUF files name how text is cut before BPE (tokenizer.ggml.pre), and the cuts; both are
// llama.cpp's.
#pragma once

#include <array>
#include <string_view>
#include <vector>

namespace weft {

/// Splits applied one after the other, each cutting what the one before left.
struct GgufPreTokenizer {
  std::string_view name;
  std::array<std::string_view, 5> patterns;
  bool has_single_digits = false;  // first of all
  bool ignore_merges = false;
  bool adds_bos = false;
  bool is_nfc = false;
};

/// Of several that cut alike the one that stands for the others comes first.
const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers();

}  // namespace weft
