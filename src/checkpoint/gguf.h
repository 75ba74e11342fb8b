// GGUF files (format document: ggml's docs/gguf.md): typed metadata and tensors, quantised types dequantised on
// reading.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "checkpoint/reader.h"

namespace weft {

/// A metadata value. Integers of every width are int64 (a uint64 above its range is rejected), floats are double.
using GgufValue = std::variant<int64_t,
                               double,
                               bool,
                               std::string,
                               std::vector<int64_t>,
                               std::vector<double>,
                               std::vector<bool>,
                               std::vector<std::string>>;

class GgufMetadata {
 public:
  const GgufValue* find(std::string_view key) const;
  /// Absent: nullopt. Present with another type: Error(bad_input) naming file and key.
  std::optional<int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;  // an integer value is accepted
  std::optional<bool> get_bool(std::string_view key) const;
  std::optional<std::string> get_string(std::string_view key) const;
  const std::vector<std::string>* get_strings(std::string_view key) const;

  std::string path;
  std::map<std::string, GgufValue, std::less<>> values;
};

/// Only the metadata: what the tokenizer and the model's config need.
std::shared_ptr<const GgufMetadata> read_gguf_metadata(const std::string& path);

/// The bytes of a GGUF file with the same metadata and no tensors: what carries a tokenizer on when the weights are
/// saved in another format.
std::string gguf_without_tensors(const std::string& path);

std::unique_ptr<CheckpointReader> open_gguf(const std::string& path);

}  // namespace weft
