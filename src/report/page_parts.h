// The style and the script of report pages.
#pragma once

#include <string>
#include <string_view>

namespace weft {

/// A whole page; `title` is escaped here, `body` is markup already.
std::string render_page(std::string_view title, std::string_view body, bool reloads);

}  // namespace weft
