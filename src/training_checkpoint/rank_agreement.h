// What ranks tell each other about a checkpoint: short texts.
#pragma once

#include <string>
#include <vector>

#include "autograd/context.h"
#include "parallel/communicator.h"

namespace weft {

/// Every rank's text, by rank, on every rank.
std::vector<std::string> gather_texts(const Context& context, Communicator& ranks, const std::string& text);

/// The first rank's error, led by "rank N: " where there are several ranks; empty when no rank has one.
std::string first_error(const Context& context, Communicator& ranks, const std::string& error);

/// Whether all ranks say so.
bool all_ranks(const Context& context, Communicator& ranks, bool value);

}  // namespace weft
