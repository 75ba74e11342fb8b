// Text and JSON lines to a token file: what `weft prepare` does, and `weft train` for sources that are not prepared.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/document_encoder.h"
#include "data/text_units.h"

namespace weft {

enum class InputFormat : uint8_t { by_name, text, json_lines };

struct PrepareOptions {
  std::vector<std::string> inputs;
  std::string output;  // beside it, in output + ".partial", is what a killed preparation goes on from
  InputFormat format = InputFormat::by_name;  // .txt and .text; .jsonl, .ndjson and .json
  TextSplit text_split = TextSplit::file;     // of text inputs
  DocumentEncoderOptions documents = {};
  bool skip_bad_lines = false;
  bool restart = false;  // forget what was done before
  int num_threads = 1;
  bool show_progress = false;
  int64_t unit_bytes = int64_t{1} << 20;     // worked on by a thread at a time
  int64_t commit_bytes = int64_t{64} << 20;  // of input that a kill can cost
};

struct PrepareStatistics {
  int64_t input_bytes = 0;
  int64_t resumed_bytes = 0;  // of these, what an earlier run had done
  int64_t num_documents = 0;
  int64_t num_tokens = 0;
  int64_t num_scored_tokens = 0;
  int64_t num_skipped_lines = 0;
  int64_t longest_document = 0;  // tokens
};

/// Writes options.output, the same bytes for any number of threads and kills. Memory is bounded by the longest line and
/// some megabytes a thread. Throws Error(bad_input) for inputs that can't be used, naming file and line, and
/// Error(bad_input) when the output can't be written.
PrepareStatistics prepare_tokens(const PrepareOptions& options, std::shared_ptr<const Tokenizer> tokenizer);

/// The token file of a training source: `path` itself if it is one; else prepared from text (a document a file) or JSON
/// lines into `folder`, under a name by its content, the tokenizer and the options, unless it is there already.
std::string prepare_source(const std::string& path,
                           const std::string& folder,
                           std::shared_ptr<const Tokenizer> tokenizer,
                           const DocumentEncoderOptions& documents,
                           int num_threads,
                           bool show_progress);

}  // namespace weft
