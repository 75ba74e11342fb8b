#include "verify/low_rank.h"

#include <charconv>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "models/weight_map.h"

namespace weft {
namespace {

constexpr std::string_view kSuffixA = "_a";

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

/// The block that a parameter's name numbers; −1: none.
int64_t block_of(std::string_view name) {
  for (size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
    int64_t number = 0;
    if (std::from_chars(name.data() + dot + 1, name.data() + name.size(), number).ec == std::errc()) return number;
  }
  return -1;
}

/// Whether a layer "Transformer-3-FeedForward", "Transformer-FeedForward" (of blocks that share their weights) or
/// "Decoder-Transformer-3-MultiHeadCrossAttention" may hold a parameter of this name.
bool may_hold(std::string_view layer, std::string_view parameter) {
  constexpr std::string_view kBlock = "Transformer-";
  size_t at = layer.find(kBlock);
  std::string_view rest = layer.substr(at + kBlock.size());
  int64_t number = 0;
  bool has_number = std::from_chars(rest.data(), rest.data() + rest.size(), number).ec == std::errc();
  if (has_number && block_of(parameter) != number) return false;
  std::string_view stack = layer.substr(0, at);
  if (stack.empty()) return true;
  bool is_cross = layer.find("CrossAttention") != std::string_view::npos;
  return parameter.starts_with(stack == "Encoder-" ? "encoder." : "decoder.") &&
         is_cross == (parameter.find("EncDecAttention") != std::string_view::npos);
}

/// "Transformer-3-FeedForward/i0_dense" to the parameter of layer 3 that is stored under …/i0_dense/…; "" when there is
/// none.
std::string parameter_of(const std::string& path, const OpenedModel& opened, const LanguageModel& model) {
  // Layers of which a model has one are known by the number of their Keras group.
  static constexpr std::pair<const char*, const char*> kSingle[] = {
      {"Embedding-Token", "layers/embedding/vars/0"},
      {"Embedding-Segment", "layers/embedding_1/vars/0"},
      {"Embedding-Position", "layers/position_embedding/vars/0"}};
  WeightMap map = opened.definition.weights(ModelFormat::keras_hdf5);
  for (const auto& [layer, dataset] : kSingle) {
    if (path != layer) continue;
    for (const Parameter& parameter : model.parameters().all()) {
      if (find_source(map, parameter, model.info().num_layers).theirs == dataset) return parameter.name;
    }
  }
  static constexpr std::pair<const char*, const char*> kNamed[] = {
      {"Decoder-Output-LM", "lm_head.weight"},
      {"Embedding-Mapping", ".embeddings_project.weight"},
      {"Embedding-Mapping", ".embedding_hidden_mapping_in.weight"},
      {"Embedding-Mapping", ".embed_proj.weight"},
      {"MLM-Dense", "predictions.transform.dense.weight"},
      {"MLM-Dense", "predictions.dense.weight"},
      {"NSP-Proba", "cls.seq_relationship.weight"},
      {"NSP-Proba", "sop_classifier.classifier.weight"},
      {"Output-Mapping", "cls.predictions.mapping.weight"},
      {"Pooler-Dense", ".pooler.dense.weight"},
      {"Pooler-Dense", ".pooler.weight"}};
  for (const auto& [layer, name] : kNamed) {
    if (path != layer) continue;
    for (const Parameter& parameter : model.parameters().all()) {
      if (ends_with(parameter.name, name)) return parameter.name;
    }
  }
  size_t slash = path.find('/');
  if (path.find("Transformer-") == std::string::npos || slash == std::string::npos) return "";
  std::string part = path.substr(slash) + "/";
  std::string_view kind = path.find("FeedForward") != std::string::npos ? "feed_forward" : "attention";
  for (const Parameter& parameter : model.parameters().all()) {
    if (!may_hold(path.substr(0, slash), parameter.name)) continue;
    std::string theirs = find_source(map, parameter, model.info().num_layers).theirs;
    if (theirs.find(kind) != std::string::npos && theirs.find(part) != std::string::npos) {
      return parameter.name;
    }
  }
  return "";
}

void check_shapes(const GoldenFile& golden, const LowRankFactors& factors, const Parameter& parameter) {
  const Shape& shape = parameter.full_shape;
  bool fits = shape.rank() == 2 && factors.a.shape.rank() == 2 && factors.b.shape.rank() == 2 &&
              factors.a.shape[1] == factors.b.shape[0] && factors.a.shape[0] == shape[factors.is_table ? 0 : 1] &&
              factors.b.shape[1] == shape[factors.is_table ? 1 : 0];
  if (!fits) {
    fail_input("golden file {}: {} {} and its b {} do not fit {} {}",
               golden.path(),
               factors.a_dataset,
               to_string(factors.a.shape),
               to_string(factors.b.shape),
               parameter.name,
               to_string(shape));
  }
}

/// Element (row, column) of A·B.
float product_at(const LowRankFactors& factors, int64_t row, int64_t column) {
  int64_t rank = factors.b.shape[0];
  int64_t columns = factors.b.shape[1];
  float sum = 0;
  for (int64_t r = 0; r < rank; ++r) {
    sum += factors.a.values[static_cast<size_t>(row * rank + r)] *
           factors.b.values[static_cast<size_t>(r * columns + column)];
  }
  return sum;
}

void merge(Parameter& parameter, const LowRankFactors& factors) {
  WEFT_ASSERT(parameter.value.layout() == Layout::row_major, "{} is packed", parameter.name);
  std::vector<float> values = to_floats(parameter.value);
  int64_t width = parameter.local_shape[1];
  int64_t row_begin = parameter.range.dim == 0 ? parameter.range.begin : 0;
  int64_t column_begin = parameter.range.dim == 1 ? parameter.range.begin : 0;
  for (int64_t i = 0; i < parameter.local_shape[0]; ++i) {
    for (int64_t j = 0; j < width; ++j) {
      int64_t row = row_begin + i;
      int64_t column = column_begin + j;
      values[static_cast<size_t>(i * width + j)] +=
          factors.is_table ? product_at(factors, row, column) : product_at(factors, column, row);
    }
  }
  parameter.value.set_values(values.data(), DType::f32);
}

}  // namespace

std::vector<LowRankFactors> read_low_rank_factors(GoldenFile& golden,
                                                  const OpenedModel& opened,
                                                  const LanguageModel& model) {
  std::vector<LowRankFactors> result;
  for (const std::string& dataset : golden.datasets_under("lora")) {
    if (!ends_with(dataset, kSuffixA)) continue;
    size_t begin = std::string_view("lora/").size();
    std::string name = parameter_of(dataset.substr(begin, dataset.rfind('/') - begin), opened, model);
    if (name.empty()) fail_input("golden file {}: no weight of this model belongs to {}", golden.path(), dataset);
    LowRankFactors factors{.parameter = name,
                           .a_dataset = dataset,
                           .b_dataset = dataset.substr(0, dataset.size() - kSuffixA.size()) + "_b",
                           .a = golden.tensor(dataset),
                           .b = {},
                           .is_table = ends_with(dataset, "lora_embeddings_a")};
    factors.b = golden.tensor(factors.b_dataset);
    for (const Parameter& parameter : model.parameters().all()) {
      if (parameter.name == name) check_shapes(golden, factors, parameter);
    }
    result.push_back(std::move(factors));
  }
  return result;
}

void merge_low_rank_factors(LanguageModel& model, const std::vector<LowRankFactors>& factors) {
  for (const LowRankFactors& entry : factors) {
    Parameter* parameter = model.parameters().find(entry.parameter);
    WEFT_ASSERT(parameter != nullptr);
    merge(*parameter, entry);
  }
}

LowRankGradients low_rank_gradients(const LowRankFactors& factors, const std::vector<float>& gradient) {
  auto rows = static_cast<size_t>(factors.a.shape[0]);
  auto rank = static_cast<size_t>(factors.a.shape[1]);
  auto columns = static_cast<size_t>(factors.b.shape[1]);
  LowRankGradients result{std::vector<float>(rows * rank), std::vector<float>(rank * columns)};
  std::vector<double> b(rank * columns);
  for (size_t i = 0; i < rows; ++i) {
    const float* row = gradient.data() + i * columns;
    for (size_t r = 0; r < rank; ++r) {
      double sum = 0;
      for (size_t j = 0; j < columns; ++j) {
        sum += static_cast<double>(row[j]) * factors.b.values[r * columns + j];
        b[r * columns + j] += static_cast<double>(factors.a.values[i * rank + r]) * row[j];
      }
      result.a[i * rank + r] = static_cast<float>(sum);
    }
  }
  result.b.assign(b.begin(), b.end());
  return result;
}

}  // namespace weft
