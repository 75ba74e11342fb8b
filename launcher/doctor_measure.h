// The measurements of weft doctor, on every rank.
#pragma once

#include <vector>

#include "launcher/doctor_facts.h"

namespace weft {

class MpiSession;
struct CommonOptions;

/// Collective: looks at hosts, MPI and GPUs, tries them, and gives all ranks' facts to all ranks. What a GPU or a
/// library of CUDA cannot do becomes part of the facts; errors of MPI are thrown.
std::vector<RankFacts> find_facts(const CommonOptions& options, MpiSession& session);

}  // namespace weft
