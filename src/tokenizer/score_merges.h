// Sentencepiece's BPE as merges.
#pragma once

#include <vector>

#include "tokenizer/bpe.h"
#include "tokenizer/vocabulary.h"

namespace weft {

/// Sentencepiece merges any two neighbours whose union is a piece, best score first: as merges by id, every cut of
/// every mergeable piece into two such pieces. `scores` (finite) and `is_mergeable` hold one entry an id; pieces are
/// short, since the cost is their length squared.
std::vector<BpeMerge> merges_from_scores(const Vocabulary& vocabulary,
                                         const std::vector<double>& scores,
                                         const std::vector<bool>& is_mergeable);

}  // namespace weft
