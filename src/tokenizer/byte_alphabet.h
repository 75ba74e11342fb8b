// GPT-2's spelling of bytes as printable characters, in which byte-level vocabularies are written.
#pragma once

#include <string>
#include <string_view>

namespace weft {

/// Bytes 21–7E, A1–AC and AE–FF stand for themselves; the other 68 are U+0100 and up in order of byte value.
char32_t byte_to_alphabet(unsigned char byte);
/// -1 for a character outside the alphabet.
int alphabet_to_byte(char32_t character);

/// Appends the bytes' spelling.
void append_alphabet(std::string_view bytes, std::string& out);
/// Appends the bytes that a token spells; a token that is not wholly in the alphabet stands for its own bytes.
void append_alphabet_bytes(std::string_view token, std::string& out);

}  // namespace weft
