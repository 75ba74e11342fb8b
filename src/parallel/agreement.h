// Ranks that fail together.
#pragma once

#include <string>

#include "parallel/communicator.h"

namespace weft {

/// Collective: if some ranks have an error, all throw that of the lowest, as Error(communication), so that nobody waits
/// for a rank that has given up.
void agree(Communicator& ranks, const std::string& error);

}  // namespace weft
