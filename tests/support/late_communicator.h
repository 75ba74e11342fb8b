// Shows whether started collectives are waited for.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace weft::testing {

/// Started calls of this one and of its groups are made when somebody waits for them; till then their results are NaN
/// and their inputs unread. Whoever reads a result too early, or changes what a call works on, does not get what
/// `inner` gives.
std::shared_ptr<Communicator> make_late_communicator(std::shared_ptr<Communicator> inner);

}  // namespace weft::testing
