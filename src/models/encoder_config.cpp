#include "models/encoder_config.h"

#include <fmt/format.h>

#include <iterator>

#include "checkpoint/reader.h"
#include "core/error.h"
#include "models/kept_tokens.h"
#include "ops/activation.h"

namespace weft {
namespace {

constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
/// Of a checkpoint's own task, in any format.
constexpr const char* kTaskTensors[] = {"classifier*",
                                        "pre_classifier*",
                                        "qa_outputs*",
                                        "crf*",
                                        "global_pointer*",
                                        "relations*",
                                        "pooler.dense*",
                                        "layers/classifier*",
                                        "layers/qa_outputs*",
                                        "layers/crf*",
                                        "layers/global_pointer*",
                                        "layers/relations*",
                                        "layers/pooler.dense*"};

/// The first of several spellings that is there; the first of all where none is.
std::string_view spelling(const ModelConfig& config, std::initializer_list<std::string_view> spellings) {
  for (std::string_view one : spellings) {
    if (config.has(one)) return one;
  }
  return *spellings.begin();
}

int64_t read_segments(const ModelConfig& config) {
  std::string_view key = spelling(config, {"type_vocab_size", "segment_vocab_size"});
  int64_t segments = config.find_integer(key).value_or(2);
  if (segments < 0 || segments > 65536) fail_input("{}: '{}' is {}, expected 0 to 65536", config.path(), key, segments);
  return segments;
}

void read_heads(const ModelConfig& source, EncoderConfig& config) {
  ModelInfo& info = config.info;
  info.num_heads = info.num_kv_heads = source.size(spelling(source, {"num_attention_heads", "n_heads"}), kMaxHeads);
  bool is_given = source.has("attention_head_size");
  if (!is_given && info.hidden_size % info.num_heads != 0) {
    fail_input("{}: hidden size {} is no multiple of {} heads and 'attention_head_size' is absent",
               source.path(),
               info.hidden_size,
               info.num_heads);
  }
  config.value_dim = source.size_or("attention_head_size", info.hidden_size / info.num_heads, 4096);
  info.head_dim = source.size_or("attention_key_size", config.value_dim, 4096);
}

/// Whether a head is asked for, by true or by the name of an activation; null where the config says nothing.
std::optional<bool> asks_for(const ModelConfig& config, std::string_view key) {
  if (!config.has(key)) return std::nullopt;
  return config.is_string(key) ? true : *config.find_boolean(key);
}

bool has_layer(const CheckpointReader& reader, const std::string& layer) {
  for (const std::string& name : {layer + ".weight", layer + "/kernel", "layers/" + layer + "/vars/0"}) {
    if (reader.find(name) != nullptr) return true;
  }
  return false;
}

/// What stands before a classifier of texts: the family's layers, or, in checkpoints that have the classifier alone,
/// nothing. A new classifier gets the pooler that transformers' class has.
void find_classifier(const CheckpointReader* reader, bool is_new, const EncoderNames& names, EncoderConfig& config) {
  const ClassifierConfig& own = config.classifier;
  if (!is_new) {
    bool is_whole = has_layer(*reader, own.output) && (own.dense.empty() || has_layer(*reader, own.dense));
    if (!is_whole) config.classifier = {};
  } else if (own.dense.empty() && !config.has_pooler && names.has_huggingface) {
    config.has_pooler = config.has_new_pooler = true;
  }
}

bool has_task_layer(const CheckpointReader& reader, const TaskHead& head, const ClassifierConfig& classifier) {
  switch (head.kind) {
    case TaskHead::Kind::question_answering:
      return has_layer(reader, "qa_outputs");
    case TaskHead::Kind::global_pointer:
      return has_layer(reader, "global_pointer.dense");
    case TaskHead::Kind::relations:
      return has_layer(reader, "relations.dense");
    case TaskHead::Kind::sequence_classification:
      return has_layer(reader, classifier.output) || has_layer(reader, "classifier");
    default:
      return has_layer(reader, "classifier");
  }
}

/// What a condition has of a model, as only bert4keras3's files and Weft's have it.
std::vector<std::string> condition_parameters(const EncoderConfig& config) {
  std::vector<std::string> names;
  if (!config.info.condition.is_there()) return names;
  std::unique_ptr<LanguageModel> model = make_encoder(config, {});
  for (const Parameter& parameter : model->parameters().all()) {
    bool is_conditional = parameter.name.find("condition.") != std::string::npos;
    if (is_conditional) names.push_back(parameter.name);
  }
  return names;
}

}  // namespace

EncoderConfig read_encoder(const ModelSource& source) {
  const ModelConfig& from = source.config;
  EncoderConfig config;
  ModelInfo& info = config.info;
  info.family = source.family;
  info.vocab_size = from.size("vocab_size");
  info.hidden_size = from.size(spelling(from, {"hidden_size", "dim"}), 1 << 20);
  info.num_layers = from.size(spelling(from, {"num_hidden_layers", "n_layers"}), kMaxLayers);
  info.intermediate_size = from.size(spelling(from, {"intermediate_size", "hidden_dim"}));
  info.max_positions = from.size_or(spelling(from, {"max_position_embeddings", "max_position"}), 512);
  info.num_segments = read_segments(from);
  info.tied_embedding = true;
  info.is_encoder = true;
  info.attention = source.attention.value_or(AttentionPattern::bidirectional);
  read_heads(from, config);
  config.embedding_size = from.size_or("embedding_size", info.hidden_size, 1 << 20);
  config.eps = from.number_or("layer_norm_eps", 1e-12, 0, 1);
  config.embedding_eps = config.head_eps = config.eps;
  config.activation = parse_activation(from.string_or(spelling(from, {"hidden_act", "activation"}), "linear"));
  config.head_activation = config.activation;
  config.dropout = static_cast<float>(
      from.number_or(spelling(from, {"hidden_dropout_prob", "dropout_rate", "dropout"}), 0, 0, 0.999));
  config.attention_dropout = static_cast<float>(from.number_or(
      spelling(from, {"attention_probs_dropout_prob", "attention_dropout_rate", "attention_dropout"}), 0, 0, 0.999));
  config.segments_in_token_table = from.boolean_or("shared_segment_embeddings", false);
  config.segment_attention = from.boolean_or("segment_attention", false);
  config.residual_scores = from.boolean_or("residual_attention_scores", false);
  // bert4keras3 passes on each block's own scores only.
  config.sums_residual_scores = !source.compat;
  if (from.is_string("with_pool")) config.pool_activation = parse_activation(from.string_or("with_pool", "tanh"));
  return config;
}

void begin_positions_at(int64_t row, const ModelConfig& from, EncoderConfig& config) {
  if (row < 0 || config.info.max_positions <= row) {
    fail_input("{}: {} positions, but texts begin at number {}", from.path(), config.info.max_positions, row);
  }
  config.first_position_row = row;
  config.info.max_positions -= row;
}

void find_heads(const ModelSource& source, const EncoderNames& names, EncoderConfig& config) {
  const ModelConfig& from = source.config;
  bool generates = config.info.attention != AttentionPattern::bidirectional;
  std::optional<bool> mlm = asks_for(from, "with_mlm");
  HeadsPresent heads{.pooler = asks_for(from, "with_pool").value_or(false),
                     .pair = asks_for(from, "with_nsp").value_or(false),
                     .language_model = mlm.value_or(generates),
                     .replaced = asks_for(from, "with_discriminator").value_or(false)};
  heads.pooler = heads.pooler || heads.pair;
  HeadsPresent wanted = heads;
  if (source.reader != nullptr) heads = heads_in(config, names, source.format, *source.reader);
  if (!config.has_head_transform && !config.has_head_bias) {
    // Only a mapping back to the embedding's size, if any, tells of the head: it is the tied table.
    int64_t mappings =
        source.reader == nullptr || source.format != ModelFormat::keras_hdf5 ? 2 : count_keras_dense(*source.reader);
    heads = {.language_model = config.embedding_size == config.info.hidden_size || mappings == 2};
  }
  auto require = [&](bool is_there, bool is_wanted, const char* what) {
    if (is_wanted && !is_there) fail_input("{}: asks for {}, which the checkpoint does not have", from.path(), what);
  };
  if (generates && !mlm && !heads.language_model) {
    fail_input(
        "{}: the applications lm and unilm predict tokens by a masked language model's output layer, which the "
        "checkpoint "
        "does not have",
        source.reader == nullptr ? from.path() : source.reader->path());
  }
  require(heads.language_model, wanted.language_model, "a masked language model's output layer");
  require(heads.pooler, wanted.pooler, "a pooler");
  require(heads.pair, wanted.pair, "a next-sentence head");
  require(heads.replaced, wanted.replaced, "a discriminator's head");
  config.has_pooler = heads.pooler;
  config.has_pair_head = heads.pair;
  config.has_replaced_head = heads.replaced;
  config.info.has_language_model_head = heads.language_model;
  config.info.condition = read_condition(from, source.reader);
  if (config.info.condition.is_there() && !config.has_layer_norm) {
    fail_input("{}: the norms of {} have no weights and take no condition", from.path(), config.info.family);
  }
  // transformers writes id2label for models without a classifier too.
  TaskHead head = read_task_head(from);
  bool is_there =
      source.reader != nullptr && !head.begins_anew && has_task_layer(*source.reader, head, config.classifier);
  if (!head.is_new && !is_there) return;
  config.info.task_head = head;
  if (head.kind == TaskHead::Kind::sequence_classification) find_classifier(source.reader, !is_there, names, config);
}

ModelDefinition encoder_definition(const ModelSource& source, const EncoderNames& names, const EncoderConfig& from) {
  EncoderConfig config = from;
  if (names.has_huggingface && names.names_parameters) {
    config.names = encoder_weights(config, names, ModelFormat::huggingface, nullptr);
  }
  auto weights = [config, names, own = source.format, reader = source.reader](ModelFormat format) {
    return encoder_weights(config, names, format, format == own ? reader : nullptr);
  };
  return encoder_definition(source, config, weights, names.has_huggingface);
}

ModelDefinition encoder_definition(const ModelSource& source,
                                   const EncoderConfig& from,
                                   const std::function<WeightMap(ModelFormat format)>& names,
                                   bool has_huggingface) {
  EncoderConfig config = from;
  std::shared_ptr<const RowSelection> selection = read_kept_tokens(source, config.info.vocab_size);
  if (selection != nullptr) config.info.vocab_size = static_cast<int64_t>(selection->rows.size());
  auto make = [config](TensorParallelPlace place) { return make_encoder(config, place); };
  std::vector<std::string> conditional = condition_parameters(config);
  auto weights = [config, names, selection, conditional, own = source.format](ModelFormat format) {
    WeightMap map = names(format);
    if (format == own) {
      cut_vocabulary(
          map, own, {config.prefix + ".embeddings.word_embeddings.weight", "cls.predictions.bias"}, selection);
    }
    rename_parameters(map, config.names);
    // Behind the rows of formats that name them otherwise, which come first.
    for (const std::string& name : conditional) map.rows.push_back({name, name});
    if (config.info.task_head.begins_anew) {
      map.ignored.insert(map.ignored.end(), std::begin(kTaskTensors), std::end(kTaskTensors));
    }
    return map;
  };
  std::optional<WeightMap> theirs;
  if (source.format == ModelFormat::huggingface && has_huggingface) theirs = weights(source.format);
  return {.info = config.info,
          .make = make,
          .weights = weights,
          .stored = own_names(source, make, theirs),
          .decoder = std::nullopt};
}

}  // namespace weft
