// A piece of an input as tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/document_encoder.h"
#include "data/text_units.h"

namespace weft {

struct EncodedUnit {
  std::vector<int32_t> ids;
  std::vector<uint64_t> document_ends;  // in ids; a text that goes on in the next unit has none yet
  std::vector<LossSpan> loss_spans;     // in ids; none for the parts of a text, all of which is scored
  int64_t num_masked_documents = 0;     // of which parts are scored only
  int64_t num_skipped_lines = 0;
};

struct UnitEncoderOptions {
  TextSplit split = TextSplit::file;
  bool skip_bad_lines = false;
};

/// Throws Error(bad_input) naming `path` and the line, if it isn't to be skipped.
EncodedUnit encode_unit(const DocumentEncoder& encoder,
                        const TextUnit& unit,
                        const std::string& path,
                        const UnitEncoderOptions& options);

}  // namespace weft
