// Text from anywhere inside an HTML document.
#pragma once

#include <string>
#include <string_view>

namespace weft {

/// Safe as an element's text and as a quoted attribute's value: markup is escaped, what isn't UTF-8 and control
/// characters other than line ends and tabs become U+FFFD. At most `limit` bytes of `text` are taken, "…" says so.
std::string escape_html(std::string_view text, size_t limit = 1 << 20);

}  // namespace weft
