// Memory for a model's parameters, without values.
#pragma once

#include "models/registry.h"

namespace weft {

/// As loading takes it: where shape, dtype and layout are as wanted what there is already stays. Returns the bytes of
/// all that the options want.
int64_t allocate_parameters(const Context& context, LanguageModel& model, const LoadOptions& options);

}  // namespace weft
