#include "checkpoint/nearest_name.h"

#include <algorithm>
#include <vector>

namespace weft {
namespace {

constexpr size_t kMaxNameBytes = 256;
constexpr size_t kMaxNames = 4096;

// Levenshtein distance, one row of the table at a time.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view wanted, std::span<const std::string> names) {
  if (wanted.size() > kMaxNameBytes) return {};
  size_t smallest = wanted.size() / 3 + 1;
  std::string nearest;
  for (const std::string& name : names.first(std::min(names.size(), kMaxNames))) {
    if (name.size() > wanted.size() + smallest || wanted.size() > name.size() + smallest) continue;
    size_t distance = edit_distance(wanted, name);
    if (distance < smallest) {
      smallest = distance;
      nearest = name;
    }
  }
  return nearest;
}

}  // namespace weft
