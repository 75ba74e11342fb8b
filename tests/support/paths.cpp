#include "support/paths.h"

namespace weft {

std::string source_path(const std::string& name) {
  return std::string(WEFT_SOURCE) + "/" + name;
}

std::string test_data(const std::string& name) {
  return source_path("tests/data") + (name.empty() ? "" : "/" + name);
}

std::string weft_binary() {
  return WEFT_BINARY;
}

std::string mpiexec() {
  return WEFT_MPIEXEC;
}

}  // namespace weft
