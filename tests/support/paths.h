// Where tests find what they need. In functions, so that the objects of tests are the same wherever they are built.
#pragma once

#include <string>

namespace weft {

/// A file of the repository.
std::string source_path(const std::string& name);
/// A fixture: a file or folder below tests/data, or that folder.
std::string test_data(const std::string& name = "");
/// The built program, which tests declared by weft_command_test may start.
std::string weft_binary();
std::string mpiexec();

}  // namespace weft
