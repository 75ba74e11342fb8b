// The ids that fairseq gives the pieces of a sentencepiece model (XLM-RoBERTa's sentencepiece.bpe.model).
#pragma once

#include <string>

namespace weft {

namespace sentencepiece {
class Model;
}

/// Puts the pieces in fairseq's order: <s>, <pad>, </s>, <unk>, those of the model from the fourth on, <mask>. Throws
/// Error(bad_input) for a model that does not begin with <unk>, <s>, </s>.
void put_in_fairseq_order(sentencepiece::Model& model, const std::string& where);

}  // namespace weft
