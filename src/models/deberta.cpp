// DeBERTa v3 (He et al., 2021): BERT whose attention adds, to the scores of contents, those between contents and a
// table of relative positions in logarithmic buckets, which goes through the blocks' own query and key projections.

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "models/encoder_block.h"
#include "models/encoder_config.h"
#include "ops/activation.h"
#include "ops/collective.h"
#include "ops/elementwise.h"

namespace weft {
namespace {

/// Bucket of the distance n = i − j: itself when near, else logarithmic up to max_positions, with its sign.
int64_t log_bucket(int64_t n, int64_t bucket_size, int64_t max_positions) {
  int64_t middle = bucket_size / 2;
  int64_t size = std::abs(n);
  if (size <= middle) return n;
  double scale = std::log(static_cast<double>(max_positions - 1) / static_cast<double>(middle));
  double steps =
      std::log(static_cast<double>(size) / static_cast<double>(middle)) / scale * static_cast<double>(middle - 1);
  auto bucket = static_cast<int64_t>(std::ceil(steps)) + middle;
  return n < 0 ? -bucket : bucket;
}

class DisentangledPositions final : public RelativePositions {
 public:
  DisentangledPositions(ParameterStore& store, const EncoderConfig& config, int64_t bucket_size) {
    int64_t max_positions = config.info.max_positions;
    table_ = &store.add(config.prefix + ".encoder.rel_embeddings.weight", {2 * bucket_size, config.info.hidden_size});
    EncoderConfig plain = config;  // of a table, which no sequence's condition changes
    plain.info.condition = {};
    norm_ = add_post_norm(store, plain, config.prefix + ".encoder.LayerNorm", config.info.hidden_size, config.eps);
    max_distance_ = 4 * max_positions;
    std::vector<int32_t> rows;
    for (int64_t distance = -max_distance_; distance <= max_distance_; ++distance) {
      // distance is j − i
      int64_t row = log_bucket(-distance, bucket_size, max_positions) + bucket_size;
      rows.push_back(static_cast<int32_t>(std::clamp<int64_t>(row, 0, 2 * bucket_size - 1)));
    }
    rows_ = std::make_shared<const std::vector<int32_t>>(std::move(rows));
  }

  Tensor shared(Context& context) const override { return norm_.forward(context, table_->value, {}); }

  bool has_shared() const override { return true; }

  void fill(Context& context,
            const Tensor& shared,
            const EncoderAttention& attention,
            DType /*dtype*/,
            Tables& tables) const override {
    // Under sequence parallelism gradients of replicated weights are summed over ranks in the end.
    Tensor inside = context.sequence_parallel ? shared : copy_to_tp(context, shared);
    // A block's gradients are summed before they join the other blocks', as when the block is run again in backward.
    inside = scale_gradient(context, inside, 1);
    // To dropout of an adapter the table's rows stand behind all tokens of a step, whatever those of this batch are.
    Context numbered = context;
    numbered.first_token = int64_t{1} << 40;
    tables.tensors = column_parallel(numbered, inside, std::array<const Linear*, 2>{&attention.query, &attention.key});
    tables.terms.rows = rows_;
    tables.terms.max_distance = max_distance_;
    tables.terms.key_table = &tables.tensors[0];
    tables.terms.query_table = &tables.tensors[1];
  }

 private:
  const Parameter* table_ = nullptr;
  PostNorm norm_;
  int64_t max_distance_ = 0;
  std::shared_ptr<const std::vector<int32_t>> rows_;
};

std::vector<WeightRow> deberta_block_rows(const EncoderConfig& config, ModelFormat format, const std::string& prefix) {
  std::vector<WeightRow> rows;
  std::string ours = block_name(config, -1) + ".{i}.";
  std::string theirs = prefix + "encoder.layer.{i}.";
  bool is_keras = format == ModelFormat::keras_hdf5;
  std::string keras_attention = "layers/disentangled_self_attention{#i}/";
  for (const char* part : {"query", "key", "value"}) {
    std::string own = ours + "attention.self." + part;
    std::string keras = keras_attention + "_" + part + "_dense/vars/";
    std::string torch = theirs + "attention.self." + part + "_proj.";
    rows.push_back({own + ".weight",
                    is_keras ? keras + "0" : torch + "weight",
                    is_keras ? WeightTransform::heads_middle : WeightTransform::none});
    rows.push_back({own + ".bias",
                    is_keras ? keras + "1" : torch + "bias",
                    is_keras ? WeightTransform::head_vectors : WeightTransform::none});
  }
  struct Dense {
    const char* ours;
    std::string keras;
  };
  for (const Dense& dense : {Dense{"attention.output.dense", keras_attention + "_output_dense"},
                             Dense{"intermediate.dense", "layers/feed_forward{#i}/i0_dense"},
                             Dense{"output.dense", "layers/feed_forward{#i}/o_dense"}}) {
    rows.push_back({ours + dense.ours + ".weight",
                    is_keras ? dense.keras + "/vars/0" : theirs + dense.ours + ".weight",
                    is_keras ? WeightTransform::transpose : WeightTransform::none});
    rows.push_back({ours + dense.ours + ".bias", is_keras ? dense.keras + "/vars/1" : theirs + dense.ours + ".bias"});
  }
  // Keras' own layer norms hold the weight first.
  for (const Dense& norm : {Dense{"attention.output.LayerNorm", "layers/layer_normalization{#2i+1}"},
                            Dense{"output.LayerNorm", "layers/layer_normalization{#2i+2}"}}) {
    rows.push_back({ours + norm.ours + ".weight", is_keras ? norm.keras + "/vars/0" : theirs + norm.ours + ".weight"});
    rows.push_back({ours + norm.ours + ".bias", is_keras ? norm.keras + "/vars/1" : theirs + norm.ours + ".bias"});
  }
  if (!is_keras) {
    for (const char* name : {"encoder.rel_embeddings.weight", "encoder.LayerNorm.weight", "encoder.LayerNorm.bias"}) {
      rows.push_back({config.prefix + "." + name, prefix + name});
    }
  }
  return rows;
}

std::vector<WeightRow> deberta_keras_rows(const EncoderConfig& config) {
  const std::string ours = config.prefix + ".";
  const std::string relative = "layers/deberta_relative_embedding/";
  const std::string head = "layers/masked_lm_head/";
  return {{ours + "embeddings.word_embeddings.weight", "layers/embedding/vars/0"},
          {ours + "embeddings.LayerNorm.weight", "layers/layer_normalization/vars/0"},
          {ours + "embeddings.LayerNorm.bias", "layers/layer_normalization/vars/1"},
          {ours + "encoder.rel_embeddings.weight", relative + "vars/0"},
          {ours + "encoder.LayerNorm.weight", relative + "layer_norm/vars/0"},
          {ours + "encoder.LayerNorm.bias", relative + "layer_norm/vars/1"},
          {"cls.predictions.bias", head + "vars/0"},
          {"cls.predictions.transform.dense.weight", head + "_intermediate_dense/vars/0", WeightTransform::transpose},
          {"cls.predictions.transform.dense.bias", head + "_intermediate_dense/vars/1"},
          {"cls.predictions.transform.LayerNorm.weight", head + "_intermediate_layer_norm/vars/0"},
          {"cls.predictions.transform.LayerNorm.bias", head + "_intermediate_layer_norm/vars/1"}};
}

ModelDefinition define_deberta(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  const ModelConfig& from = source.config;
  config.prefix = "deberta";
  config.positions = AbsolutePositions::none;
  config.info.num_segments = 0;
  config.classifier.dense = "pooler.dense";
  config.classifier.activation = parse_activation(from.string_or("pooler_hidden_act", "gelu"));
  config.info.seed_masks_padding = true;
  config.eps = config.embedding_eps = config.head_eps = from.number_or("layer_norm_eps", 1e-7, 0, 1);
  // bert4keras3's head has an epsilon of its own.
  if (source.compat) config.head_eps = 1e-5;
  // bert4keras3 drops before the norm.
  config.dropout_before_embedding_norm = source.compat;
  config.attention_scale_divisor = 3;
  int64_t bucket_size = from.size(from.has("position_buckets") ? "position_buckets" : "bucket_size", 1 << 16);
  if (bucket_size < 2 || config.info.max_positions <= bucket_size / 2 + 1) {
    fail_input("{}: {} position buckets do not fit {} positions", from.path(), bucket_size, config.info.max_positions);
  }
  config.make_relative = [bucket_size](ParameterStore& store, const EncoderConfig& of) {
    return std::make_shared<DisentangledPositions>(store, of, bucket_size);
  };
  EncoderNames names{.huggingface_prefix = "deberta",
                     .huggingface_mapping = "deberta.embeddings.embed_proj",
                     .huggingface_pooler = "deberta.pooler.dense",
                     .block_rows = deberta_block_rows,
                     .keras_outer_rows = deberta_keras_rows,
                     .has_tensorflow = false,
                     .keras_head = "layers/masked_lm_head/vars/0"};
  find_heads(source, names, config);
  return encoder_definition(source, names, config);
}

}  // namespace

Family deberta_family() {
  return {.name = "deberta",
          .huggingface_types = {"deberta-v2"},
          .seed_names = {"deberta"},
          .gguf_architectures = {},
          .define = define_deberta};
}

}  // namespace weft
