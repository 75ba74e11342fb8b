// The inputs of goldens made with bert4keras3.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "verify/verify_session.h"

namespace weft {

/// Rows of a group's inputs, and how to find their tokens in the outputs.
struct KerasRows {
  PackedRows packed;
  std::vector<float> states;              // that a recurrent model starts from, a row a sequence; empty: none given
  std::vector<int32_t> scored;            // the tokens that the output layer is run on; empty: all
  std::vector<int64_t> scored_positions;  // their places in its outputs
};

/// The dataset that holds what the model's sequences are made of: an encoder-decoder's are the decoder's.
std::string ids_dataset(const GoldenFile& golden, const std::string& group);
bool has_ids(const GoldenFile& golden, const std::string& group);

/// The tokens of a row without the zeros behind them; at least one.
int64_t without_padding(const GoldenIds& ids, int64_t row);

/// A group's inputs: token_ids, and, where they are, segment_ids, position_ids, condition, mask_positions. Of `row`
/// only (−1: all), and of it the first `length` tokens (0: all).
KerasRows read_keras_rows(VerifySession& session, const std::string& group, int64_t row = -1, int64_t length = 0);

}  // namespace weft
