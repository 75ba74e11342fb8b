// What turns one pre-token into ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/token_span.h"

namespace weft {

/// What a model works with while it encodes; kept and reused, never shared by two threads at a time.
struct ModelScratch {
  virtual ~ModelScratch() = default;
};

/// Immutable.
class WordModel {
 public:
  virtual ~WordModel() = default;
  /// Appends the ids of a pre-token. Memory up to `readable_end` may be read. `scratch` comes from this model's
  /// make_scratch.
  virtual void encode(std::string_view word,
                      const char* readable_end,
                      ModelScratch& scratch,
                      std::vector<int32_t>& ids) const = 0;
  virtual std::unique_ptr<ModelScratch> make_scratch() const = 0;
  /// As encode; appends the bytes of the word that each id stands for. False, and nothing is done, where the model
  /// cannot say.
  virtual bool encode_with_spans(std::string_view /*word*/,
                                 std::vector<int32_t>& /*ids*/,
                                 std::vector<TokenSpan>& /*spans*/) const {
    return false;
  }
};

}  // namespace weft
