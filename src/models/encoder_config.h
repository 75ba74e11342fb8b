// The settings that configs of the BERT line spell alike: Google's bert_config.json, Hugging Face's config.json and
// bert4keras3's options are one set of keys; DistilBERT's are spelled otherwise.
#pragma once

#include "models/encoder.h"
#include "models/encoder_weights.h"
#include "models/family.h"
#include "models/model_config.h"

namespace weft {

/// Sizes, activation, dropout, segments, attention pattern, options.
EncoderConfig read_encoder(const ModelSource& source);

/// Texts begin at a row of the table of positions that is not the first (fairseq keeps those up to padding's for
/// itself): the model holds as many tokens less. Throws Error(bad_input) when none are left.
void begin_positions_at(int64_t row, const ModelConfig& from, EncoderConfig& config);

/// Finds the heads that the checkpoint has (or, without one, that the config asks for: with_pool, with_nsp, with_mlm,
/// with_discriminator), and what its conditional norms are like. Throws Error(bad_input) when the config asks for a
/// head that the checkpoint lacks.
void find_heads(const ModelSource& source, const EncoderNames& names, EncoderConfig& config);

/// The definition of an encoder whose settings are complete.
ModelDefinition encoder_definition(const ModelSource& source, const EncoderNames& names, const EncoderConfig& config);
/// The same with weights that are called otherwise than BERT's.
ModelDefinition encoder_definition(const ModelSource& source,
                                   const EncoderConfig& config,
                                   const std::function<WeightMap(ModelFormat format)>& names,
                                   bool has_huggingface);

}  // namespace weft
