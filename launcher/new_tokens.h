// weft convert --add-tokens: a vocabulary that gets longer.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "models/registry.h"

namespace weft {

/// Tokens added at the end of a vocabulary. Their rows, in every table of the model that has one for each token, are
/// the means of the rows of the pieces that they were split into before.
struct NewTokens {
  std::vector<std::string> tokens;
  std::vector<std::vector<int32_t>> pieces = {};       // of each
  int64_t first_id = 0;                                // the tokenizer's next
  int64_t vocab_size = 0;                              // of the model with them: as before if it had rows to spare
  std::set<std::string, std::less<>> parameters = {};  // by name: those whose rows are tokens

  bool empty() const { return tokens.empty(); }
  /// A copy of a parameter's rows with the new ones, `width` elements each.
  std::vector<float> grown(const std::vector<float>& values, int64_t width) const;
};

/// Reads a file with a token a line for the model that `options` open as `opened`. Throws Error(bad_input) naming the
/// line for a token that is empty, begins or ends with white space, occurs twice or is in the vocabulary already, and
/// for a model or tokenizer that tokens cannot be added to.
NewTokens read_new_tokens(const std::string& file, const ModelOptions& options, const OpenedModel& opened);

/// The options that open the model with a vocabulary of another size.
ModelOptions with_vocab_size(const ModelOptions& options, int64_t vocab_size);

/// Adds them to the tokenizer in `folder`, and warns of those that it does not find in a text.
void write_new_tokens(const NewTokens& tokens, const std::string& folder);

/// Names the tokens that the config's compound_tokens add, in the tokenizer in `folder`, unless it knows them or has no
/// vocab.txt.
void write_compound_tokens(const OpenedModel& opened, const std::string& folder);

}  // namespace weft
