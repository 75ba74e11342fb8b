// Files of vectors of texts: NumPy's .npy, HDF5 and JSON lines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weft {

/// Vectors of texts, or of all of their tokens.
struct TextVectors {
  std::vector<float> values;  // [vectors, width]: one a text, or those of its tokens behind the text's before
  int64_t width = 0;
  bool is_of_tokens = false;
  /// Of vectors of tokens: each text's tokens.
  std::vector<std::vector<int32_t>> ids = {};
  std::vector<std::vector<std::string>> tokens = {};
};

/// Writes what the path's ending says; JSON lines for any other, to standard output for an empty one.
///
/// .npy: f32 [texts, width]; of tokens [texts, tokens of the longest, width] with zeros behind the shorter ones.
/// .h5, .hdf5: the dataset "vectors", f32 [texts, width]; of tokens [tokens, width] of all texts, with "ids" [tokens]
/// and "lengths" [texts].
/// JSON lines: a list of numbers a text; of tokens an object with "ids", "tokens" and "vectors".
///
/// Throws Error(bad_input) when it cannot be written; nothing stands under the path before it is whole.
void write_vectors(const std::string& path, const TextVectors& vectors);

}  // namespace weft
