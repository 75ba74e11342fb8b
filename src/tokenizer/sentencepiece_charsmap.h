// The normalization table inside a sentencepiece model: a double-array trie (Darts-clone's layout) of replaced strings, then
// the replacements, each ended by a zero byte.
#pragma once

#include <string>
#include <string_view>

namespace weft {

/// Proves that no walk through the trie can leave the table, whatever the text: the library follows its offsets unchecked.
/// Throws Error(bad_input) naming `where`.
void validate_charsmap(std::string_view charsmap, const std::string& where);

}  // namespace weft
