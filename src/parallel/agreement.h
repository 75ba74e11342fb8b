// What ranks tell each other: short texts, and whether they go on.
#pragma once

#include <string>
#include <vector>

#include "core/error.h"
#include "parallel/communicator.h"

namespace weft {

/// Every rank's text, by rank, on every rank. Collective, as all of these.
std::vector<std::string> gather_texts(Communicator& ranks, const std::string& text);

/// Whether all ranks say so.
bool all_ranks(Communicator& ranks, bool value);

/// The first rank's error, led by "rank N: " where there are several ranks; empty when no rank has one.
std::string first_error(Communicator& ranks, const std::string& error);

/// If some ranks have an error, all throw that of the lowest, so that nobody waits for a rank that has given up.
void agree(Communicator& ranks, const std::string& error, ExitCode code = ExitCode::communication);

}  // namespace weft
