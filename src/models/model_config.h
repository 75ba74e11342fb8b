// A model's config as it came: config.json or the metadata of a GGUF, read with checks. Values are hostile until asked
// for with bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

struct GgufMetadata;
enum class Activation : uint8_t;

/// Keys may be dotted to reach into objects ("rope_parameters.rope_theta"). A null value counts as absent. All methods
/// throw Error(bad_input) with file, key, what was found and what is allowed.
class ModelConfig {
 public:
  virtual ~ModelConfig() = default;

  /// Reads a JSON object, at most 16 MB. The keys of `overrides`, a JSON object or empty, take the place of the file's.
  static std::shared_ptr<const ModelConfig> from_json_file(const std::string& path, const std::string& overrides = "");
  static std::shared_ptr<const ModelConfig> from_json_text(const std::string& text,
                                                           const std::string& path,
                                                           const std::string& overrides = "");
  static std::shared_ptr<const ModelConfig> from_gguf(std::shared_ptr<const GgufMetadata> metadata);

  virtual const std::string& path() const = 0;
  /// The outermost keys that were asked for so far, whether they were there or not; none for a GGUF.
  virtual std::vector<std::string> keys_read() const { return {}; }
  virtual bool has(std::string_view key) const = 0;
  virtual std::optional<int64_t> find_integer(std::string_view key) const = 0;
  virtual std::optional<double> find_number(std::string_view key) const = 0;  // false and true are 0 and 1
  virtual std::optional<bool> find_boolean(std::string_view key) const = 0;   // 0 and 1 count
  virtual std::optional<std::string> find_string(std::string_view key) const = 0;
  virtual bool is_string(std::string_view key) const = 0;
  /// A list, or a single value as a list of one; empty when absent.
  virtual std::vector<int64_t> integers(std::string_view key) const = 0;
  virtual std::vector<std::string> strings(std::string_view key) const = 0;
  /// A list whose items are lists of integers, or pairs of such a list and as many weights.
  struct WeightedIds {
    std::vector<int64_t> ids;
    std::vector<double> weights;  // empty: equal
  };
  virtual std::vector<WeightedIds> weighted_ids(std::string_view key) const = 0;

  /// A size: required, in [1, maximum].
  int64_t size(std::string_view key, int64_t maximum = kMaxSize) const;
  int64_t size_or(std::string_view key, int64_t fallback, int64_t maximum = kMaxSize) const;
  /// A finite number in [minimum, maximum].
  double number_or(std::string_view key, double fallback, double minimum, double maximum) const;
  bool boolean_or(std::string_view key, bool fallback) const { return find_boolean(key).value_or(fallback); }
  std::string string_or(std::string_view key, std::string_view fallback) const;

  static constexpr int64_t kMaxSize = int64_t{1} << 24;
};

/// A number as people write it: 0.1, where the nearest float is 0.10000000149….
double as_written(float value);

/// How bert4keras3's configs call an activation; they have one name for both forms of gelu.
std::string seed_activation_name(Activation activation);

}  // namespace weft
