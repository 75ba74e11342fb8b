// Differences between a computed tensor and its reference, the tolerances they are held against, and the table of
// results.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace weft {

/// What of a difference is held against the tolerance.
enum class Measure : uint8_t {
  absolute,      // max |x − reference|
  of_maximum,    // max |x − reference| / max(max |reference|, 1e-3)
  relative_rms,  // rms(x − reference) / rms(reference)
  ids,           // number of token ids that differ other than by a near tie; the tolerance is 0
};

struct Tolerance {
  Measure measure = Measure::of_maximum;
  double value = 0;
};

/// Gathers the difference of a tensor that arrives in pieces.
class Difference {
 public:
  /// Spans of equal length. A NaN on either side makes every measure NaN.
  void add(std::span<const float> values, std::span<const float> reference);

  double max_abs() const;
  double max_rel() const;
  double relative_rms() const;
  int64_t count() const { return count_; }

 private:
  double guard(double value) const;

  double max_abs_ = 0;
  double max_reference_ = 0;
  double sum_squared_difference_ = 0;
  double sum_squared_reference_ = 0;
  int64_t count_ = 0;
  bool has_nan_ = false;
};

/// One line of the table.
struct Comparison {
  std::string name;      // the dataset in the golden file
  std::string category;  // "hidden states", "logits", "loss", "gradients", …
  Tolerance tolerance;
  double max_abs = 0;
  double max_rel = 0;
  double relative_rms = 0;
  double differing_ids = 0;
  int64_t count = 0;  // elements compared
  std::string note;

  /// The number that `tolerance` is held against.
  double measured() const;
  /// False for NaN and when nothing was compared.
  bool passed() const;
};

struct NotCompared {
  std::string name;
  std::string reason;
};

struct VerifyReport {
  std::vector<Comparison> compared;
  std::vector<NotCompared> not_compared;

  /// True only if something was compared and all of it passed.
  bool passed() const;
  /// "compared 5 hidden states, 3 logits, 1 loss, 29 gradients: all within tolerance"
  std::string summary() const;
};

/// The table as text, a line a tensor, then what was not compared and why, then the summary.
std::string to_text(const VerifyReport& report);
std::string to_json(const VerifyReport& report);

}  // namespace weft
