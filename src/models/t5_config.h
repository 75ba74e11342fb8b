// The settings of T5 and its kin from Hugging Face's configs and bert4keras3's.
#pragma once

#include <string>

#include "models/encoder_decoder.h"
#include "models/family.h"

namespace weft {

/// `has_bias_per_layer` is what tells UMT5 from mT5.
EncoderDecoderConfig read_t5(const ModelSource& source, bool has_bias_per_layer);

/// The settings as a JSON object in Hugging Face's keys, or in bert4keras3's for its two formats.
std::string t5_config_json(const EncoderDecoderConfig& config, ModelFormat format);

}  // namespace weft
