// NEZHA (Wei et al., 2019): BERT with sinusoids of the distance of two tokens, added to keys and values, instead of
// absolute positions. (NEZHA-Gen is no NEZHA but a causal BERT.)

#include <cmath>

#include "models/encoder_config.h"

namespace weft {
namespace {

constexpr int64_t kMaxDistance = 64;
constexpr const char* kKerasTable = "layers/relative_position_embedding/vars/0";

/// Row r holds, for the distance r − max, sin(r·w) and cos(r·w) side by side with w = 10000^(−2m/width): the rows are
/// numbered from 0.
std::vector<float> sinusoids(int64_t rows, int64_t width) {
  std::vector<float> table(static_cast<size_t>(rows * width));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < width; ++i) {
      double angle =
          static_cast<double>(row) * std::pow(10000.0, -static_cast<double>(i - i % 2) / static_cast<double>(width));
      table[static_cast<size_t>(row * width + i)] = static_cast<float>(i % 2 == 0 ? std::sin(angle) : std::cos(angle));
    }
  }
  return table;
}

class SinusoidDistances final : public RelativePositions {
 public:
  SinusoidDistances(int64_t max_distance, int64_t head_dim, int64_t value_dim)
      : max_distance_(max_distance),
        key_table_(sinusoids(2 * max_distance + 1, head_dim)),
        value_table_(sinusoids(2 * max_distance + 1, value_dim)) {
    std::vector<int32_t> rows;
    for (int64_t row = 0; row < 2 * max_distance + 1; ++row) rows.push_back(static_cast<int32_t>(row));
    rows_ = std::make_shared<const std::vector<int32_t>>(std::move(rows));
  }

  Tensor shared(Context& /*context*/) const override { return {}; }
  bool has_shared() const override { return false; }

  void fill(Context& context,
            const Tensor& /*shared*/,
            const EncoderAttention& /*attention*/,
            DType dtype,
            Tables& tables) const override {
    tables.tensors.reserve(2);
    tables.terms.rows = rows_;
    tables.terms.max_distance = max_distance_;
    tables.terms.query_table = &tables.tensors.emplace_back(to_tensor(context, key_table_, dtype));
    tables.terms.value_table = &tables.tensors.emplace_back(to_tensor(context, value_table_, dtype));
  }

 private:
  Tensor to_tensor(Context& context, const std::vector<float>& values, DType dtype) const {
    int64_t rows = 2 * max_distance_ + 1;
    Tensor tensor = context.empty({rows, static_cast<int64_t>(values.size()) / rows}, dtype);
    tensor.set_values(values.data(), DType::f32);
    return tensor;
  }

  int64_t max_distance_;
  std::vector<float> key_table_;
  std::vector<float> value_table_;
  std::shared_ptr<const std::vector<int32_t>> rows_;
};

ModelDefinition define_nezha(const ModelSource& source) {
  EncoderConfig config = read_encoder(source);
  config.prefix = "nezha";
  config.positions = AbsolutePositions::none;
  // bert4keras3 gives these norms no epsilon.
  if (source.compat) config.eps = config.embedding_eps = 1e-7;
  int64_t max_distance = source.config.size_or("max_relative_position", kMaxDistance, 1 << 16);
  config.make_relative = [max_distance](ParameterStore& /*store*/, const EncoderConfig& of) {
    return std::make_shared<SinusoidDistances>(max_distance, of.info.head_dim, of.value_dim);
  };
  EncoderNames names{.huggingface_prefix = "nezha",
                     .huggingface_mapping = "nezha.embeddings_project",
                     .huggingface_pooler = "nezha.pooler.dense",
                     .keras_ignored = {kKerasTable}};
  find_heads(source, names, config);
  ModelDefinition definition = encoder_definition(source, names, config);
  definition.constants = [max_distance, width = config.info.head_dim](ModelFormat format) {
    std::vector<ConstantTensor> constants;
    if (format == ModelFormat::keras_hdf5) {
      int64_t rows = 2 * max_distance + 1;
      constants.push_back({kKerasTable, {rows, width}, sinusoids(rows, width)});
    }
    return constants;
  };
  return definition;
}

}  // namespace

Family nezha_family() {
  return {.name = "nezha",
          .huggingface_types = {"nezha"},
          .seed_names = {"nezha"},
          .gguf_architectures = {},
          .define = define_nezha};
}

}  // namespace weft
