// MPNet (Song et al., 2020): RoBERTa without segments, with a bias of attention for each head and distance in
// logarithmic buckets that all blocks share.

#include "core/error.h"
#include "models/encoder_block.h"
#include "models/encoder_config.h"
#include "models/weight_rows.h"
#include "nn/encoder_decoder_layers.h"

namespace weft {
namespace {

class DistanceBiases final : public RelativePositions {
 public:
  DistanceBiases(ParameterStore& store, const EncoderConfig& config, const DistanceBuckets& buckets) {
    int64_t heads = config.info.num_heads;
    table_ = &store.add(config.prefix + ".encoder.relative_attention_bias.weight",
                        {buckets.num_buckets, heads},
                        {ShardKind::head_columns, heads, heads});
    max_distance_ = buckets.max_distance;
    rows_ = std::make_shared<const std::vector<int32_t>>(buckets.buckets(-max_distance_, max_distance_));
  }

  Tensor shared(Context& /*context*/) const override { return {}; }
  bool has_shared() const override { return false; }

  void fill(Context& /*context*/,
            const Tensor& /*shared*/,
            const EncoderAttention& /*attention*/,
            DType /*dtype*/,
            Tables& tables) const override {
    tables.terms.rows = rows_;
    tables.terms.max_distance = max_distance_;
    tables.terms.bias_table = &table_->value;
  }

 private:
  const Parameter* table_ = nullptr;
  int64_t max_distance_ = 0;
  std::shared_ptr<const std::vector<int32_t>> rows_;
};

constexpr const char* kBiasTable = "encoder.relative_attention_bias.weight";

struct Part {
  const char* ours;
  const char* theirs;
};

constexpr Part kParts[] = {
    {"attention.self.query", "attention.attn.q"},
    {"attention.self.key", "attention.attn.k"},
    {"attention.self.value", "attention.attn.v"},
    {"attention.output.dense", "attention.attn.o"},
    {"attention.output.LayerNorm", "attention.LayerNorm"},
    {"intermediate.dense", "intermediate.dense"},
    {"output.dense", "output.dense"},
    {"output.LayerNorm", "output.LayerNorm"},
};

std::vector<WeightRow> block_rows(const EncoderConfig& config, ModelFormat /*format*/, const std::string& prefix) {
  std::vector<WeightRow> rows = {{config.prefix + "." + kBiasTable, prefix + kBiasTable}};
  for (const Part& part : kParts) {
    add_pair(rows, block_name(config, -1) + ".{i}." + part.ours, prefix + "encoder.layer.{i}." + part.theirs, kTorch);
  }
  return rows;
}

ModelDefinition define_mpnet(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "mpnet";
  config.info.num_segments = 0;
  // Padding has the position 1, whatever its id.
  begin_positions_at(2, source.config, config);
  config.head_activation = Activation::gelu_erf;
  config.classifier = {.dense = "classifier.dense", .output = "classifier.out_proj", .activation = Activation::tanh};
  DistanceBuckets buckets;
  // transformers takes the default for the buckets, whatever the size of the table.
  int64_t num_buckets = source.config.size_or("relative_attention_num_buckets", buckets.num_buckets);
  if (num_buckets != buckets.num_buckets) {
    fail_input("{}: 'relative_attention_num_buckets' is {}, only {} is known",
               source.config.path(),
               num_buckets,
               buckets.num_buckets);
  }
  config.make_relative = [buckets](ParameterStore& store, const EncoderConfig& of) {
    return std::make_shared<DistanceBiases>(store, of, buckets);
  };
  EncoderNames names{.huggingface_prefix = "mpnet",
                     .huggingface_mapping = "mpnet.embeddings_project",
                     .huggingface_pooler = "mpnet.pooler.dense",
                     .huggingface_transform = "lm_head.dense",
                     .huggingface_transform_norm = "lm_head.layer_norm",
                     .huggingface_bias = "lm_head.bias",
                     .huggingface_decoder = "lm_head.decoder",
                     .block_rows = block_rows,
                     .has_tensorflow = false,
                     .has_keras = false};
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family mpnet_family() {
  return {.name = "mpnet",
          .huggingface_types = {"mpnet"},
          .seed_names = {},
          .gguf_architectures = {},
          .define = define_mpnet};
}

}  // namespace weft
