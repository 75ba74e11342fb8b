// A tokenizer as the metadata of a GGUF file (keys: ggml's docs/gguf.md, "tokenizer.ggml.*").
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/gguf_writer.h"

namespace weft {

/// Of what load_tokenizer finds at a path: a GGUF file's own, a byte-level BPE tokenizer.json, or a sentencepiece BPE
/// model. Ids up to `vocab_size` without a token become unused ones. Throws Error(bad_input) for other kinds, and where
/// what was written cuts some text otherwise.
GgufEntries gguf_tokenizer_entries(const std::string& path, int64_t vocab_size);

}  // namespace weft
