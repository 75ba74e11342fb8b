// Models with a part of their checkpoint's vocabulary: the config's keep_tokens and compound_tokens, which bert4keras3
// takes as arguments.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>

#include "models/family.h"

namespace weft {

/// Which rows of a vocabulary the config keeps, and which means of rows it adds; null: all. Throws Error(bad_input) for
/// ids that there are not.
std::shared_ptr<const RowSelection> read_kept_tokens(const ModelSource& source, int64_t vocab_size);

/// Makes the parameters of these names (of ours) read a part of their rows, if the format's files hold the whole
/// vocabulary: bert4keras3's own hold what is left.
void cut_vocabulary(WeightMap& map,
                    ModelFormat format,
                    std::initializer_list<std::string> names,
                    const std::shared_ptr<const RowSelection>& selection);

}  // namespace weft
