// "Did you mean …": the name closest to a misspelt one.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace weft {

/// The name with the smallest edit distance to `wanted`, or an empty string when none is near (more than a third of the
/// letters differ). Long lists are searched in bounded time.
std::string nearest_name(std::string_view wanted, std::span<const std::string> names);

}  // namespace weft
