// RWKV's vocabulary file (rwkv_vocab_v20230424.txt of the World models): a token a line, as `ID LITERAL LENGTH` with a
// Python literal of str (whose UTF-8 the token is) or bytes, and the token's length in bytes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace weft {

struct RwkvVocabulary {
  std::string where;                // the file, for messages
  std::vector<std::string> tokens;  // by id, any bytes; empty: the id has no token
};

/// Literals are read, never evaluated: single or double quotes, and the escapes \\ \' \" \n \r \t \xHH, in str also
/// \uHHHH and \UHHHHHHHH. Lines end with LF or CRLF. Throws Error(bad_input) naming file and line for anything else,
/// for an id or a token that occurs twice, and for id 0, which ends texts.
RwkvVocabulary parse_rwkv_vocabulary(std::string_view text, const std::string& where);

/// Whether the first line is such a line rather than a token of a WordPiece vocabulary.
bool looks_like_rwkv_vocabulary(std::string_view text);

}  // namespace weft
