// Which rank works on which GPU.
#pragma once

#include <string>

#include "parallel/communicator.h"

namespace weft {

/// Whether no two ranks work on the same GPU, as NCCL asks for: by host and PCI address. Collective.
bool ranks_have_own_gpus(Communicator& ranks, const std::string& pci_bus_id);

}  // namespace weft
