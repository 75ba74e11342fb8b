// The files of a tokenizer beside a model whose vocabulary got longer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weft {

/// Gives `tokens` the ids from `first_id` on in the vocab.txt and the tokenizer.json (as added tokens that are not
/// special) of a folder, those of them that there are. A sentencepiece model beside a tokenizer.json is removed, as it
/// would be read in its place and does not know them. Throws Error(bad_input) for a vocab.txt that has not `first_id`
/// lines, or when the folder has neither file.
void add_tokens_to_files(const std::string& folder, const std::vector<std::string>& tokens, int64_t first_id);

/// What the tokens of the config's compound_tokens are called: their pieces joined, without "##" where they go on. A
/// name that is taken already has [compoundN] in its place.
std::vector<std::string> compound_token_names(const std::vector<std::string>& vocabulary,
                                              const std::vector<std::vector<int64_t>>& compound_tokens);

}  // namespace weft
