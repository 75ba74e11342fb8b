#include "launcher/train_data.h"

#include <algorithm>

#include "config/run.pb.h"
#include "core/error.h"
#include "core/log.h"
#include "data/prepare.h"
#include "data/task_rows.h"
#include "data/tokenizer_fingerprint.h"
#include "launcher/common.h"
#include "launcher/train_options.h"
#include "parallel/agreement.h"

namespace weft {
namespace {

constexpr std::string_view kTokenFileEnding = ".tokens";

bool reads_prompts_whole(const RunConfig& config) {
  return config.message().task().kind() == config::TaskConfig::SEQUENCE_TO_SEQUENCE;
}

class SourcePreparation {
 public:
  SourcePreparation(const RunConfig& config,
                    Communicator& world,
                    const Context& context,
                    std::shared_ptr<const Tokenizer> tokenizer)
      : config_(config), world_(world), context_(context), tokenizer_(std::move(tokenizer)) {
    const config::DataConfig& data = config.message().data();
    for (int i = 0; i < data.fields_size(); ++i) {
      std::string field = fmt::format("data.fields[{}]", i);
      try {
        field_names_.merge(parse_field_names({data.fields(i)}));
      } catch (const Error& error) {
        throw Error(error.code(), fmt::format("{}: {}: {}", config.location(field), field, error.what()));
      }
    }
  }

  /// Replaces the paths of texts by those of the token files that rank 0 made of them.
  void prepare(std::vector<DataSourceOptions>& sources, const std::string& field) {
    for (size_t i = 0; i < sources.size(); ++i) {
      std::string& path = sources[i].path;
      if (path.ends_with(kTokenFileEnding)) continue;
      std::string place = config_.location(fmt::format("{}[{}].path", field, i));
      if (tokenizer_ == nullptr) {
        fail_input("{}: {} is text, and {} has no tokenizer; set model.tokenizer",
                   place,
                   path,
                   config_.message().model().path());
      }
      path = prepare_on_rank_zero(path, place);
    }
  }

 private:
  /// An error there is thrown on all ranks, which would wait for the path else.
  std::string prepare_on_rank_zero(const std::string& path, const std::string& place) {
    std::string prepared, failure;
    if (world_.rank() == 0) {
      try {
        prepared = prepare_source(path,
                                  config_.message().output().directory() + "/data",
                                  tokenizer_,
                                  {.separate_texts = reads_prompts_whole(config_), .field_names = field_names_},
                                  context_.num_threads * world_.size(),
                                  true);
      } catch (const Error& error) {
        failure = fmt::format("{}: {}", place, error.what());
      }
    }
    agree(world_, failure, ExitCode::bad_input);
    broadcast_string(context_, world_, prepared);
    return prepared;
  }

  const RunConfig& config_;
  Communicator& world_;
  const Context& context_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  FieldNames field_names_;
};

std::string names_of(const std::vector<DataSourceOptions>& sources) {
  std::string names;
  for (const DataSourceOptions& source : sources) names += (names.empty() ? "" : ", ") + source.path;
  return printable(names, 400);
}

void check_vocabulary(const TrainingData& data,
                      const TrainingDataOptions& options,
                      const ModelInfo& model,
                      const std::string& place) {
  if (data.vocab_size() <= model.vocab_size) return;
  fail_input("{}: {}: made for {} token ids, the model knows {}; prepare it with the model's own tokenizer",
             place,
             names_of(options.sources),
             data.vocab_size(),
             model.vocab_size);
}

/// What is cut off is never learned.
void warn_about_cuts(const TrainingData& data, const TrainingDataOptions& options, const Communicator& world) {
  if (data.num_cut_documents() == 0 || world.rank() != 0) return;
  log::warning(
      "{}: {} of {} documents are longer than data.sequence_length {} and end there; use a longer one, or "
      "data.packing SPLIT",
      names_of(options.sources),
      data.num_cut_documents(),
      data.num_documents(),
      options.sequence_length);
}

MaskingVocabulary masking_vocabulary(const RunConfig& config, const Tokenizer& tokenizer, const ModelInfo& model) {
  std::optional<int32_t> mask_id = tokenizer.mask_id();
  if (!mask_id) fail_input("{}: the tokenizer has no mask token", config.location("task.kind"));
  MaskingVocabulary vocabulary{
      .mask_id = *mask_id, .vocab_size = static_cast<int32_t>(model.vocab_size), .is_special = {}, .is_continued = {}};
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    vocabulary.is_special.push_back(tokenizer.is_special(id));
    vocabulary.is_continued.push_back(tokenizer.id_to_token(id).starts_with("##"));
  }
  return vocabulary;
}

/// T5's sentinels <extra_id_0>, <extra_id_1>, …: the ids behind the tokenizer's own from the last one downwards, where
/// it does not name them, or the vocabulary's last ones.
CorruptionVocabulary corruption_vocabulary(const Tokenizer& tokenizer, const ModelInfo& model) {
  constexpr int32_t kSentinels = 100;
  auto vocab_size = static_cast<int32_t>(model.vocab_size);
  CorruptionVocabulary vocabulary{.start_id = model.start_id, .end_id = -1, .sentinels = {}};
  if (!tokenizer.end_ids().empty()) vocabulary.end_id = tokenizer.end_ids().front();
  int32_t first = std::min(tokenizer.vocab_size() + kSentinels, vocab_size) - 1;
  for (int32_t i = 0; i < kSentinels; ++i) {
    int32_t id = tokenizer.token_to_id(fmt::format("<extra_id_{}>", i)).value_or(first - i);
    if (id >= 0 && id < vocab_size) vocabulary.sentinels.push_back(id);
  }
  return vocabulary;
}

/// The rows as the task takes them.
std::unique_ptr<TrainingData> for_task(const RunConfig& config,
                                       std::unique_ptr<TrainingData> data,
                                       const Tokenizer* tokenizer,
                                       const ModelInfo& model) {
  const config::TaskConfig& task = config.message().task();
  if (data == nullptr || task.kind() == config::TaskConfig::LANGUAGE_MODEL) return data;
  if (task.kind() == config::TaskConfig::SEQUENCE_TO_SEQUENCE) {
    return model.has_source ? make_source_data(std::move(data), model.start_id) : make_prefix_data(std::move(data));
  }
  if (tokenizer == nullptr) fail_input("{}: needs a tokenizer; set model.tokenizer", config.location("task.kind"));
  if (task.kind() == config::TaskConfig::SPAN_CORRUPTION) {
    return make_corrupted_data(std::move(data),
                               corruption_vocabulary(*tokenizer, model),
                               {.density = task.mask_probability(),
                                .mean_length = task.mean_span_length(),
                                .seed = config.message().train().seed()});
  }
  return make_masked_data(std::move(data),
                          masking_vocabulary(config, *tokenizer, model),
                          {.probability = task.mask_probability(),
                           .whole_words = task.whole_words(),
                           .max_ngram = task.max_ngram(),
                           .seed = config.message().train().seed()});
}

}  // namespace

void check_task(const RunConfig& config, const ModelInfo& model) {
  const config::TaskConfig& task = config.message().task();
  auto require = [&](bool is_met, std::string_view what) {
    if (!is_met) fail_input("{}: {}", config.location("task.kind"), what);
  };
  switch (task.kind()) {
    case config::TaskConfig::LANGUAGE_MODEL:
      require(!model.has_source, "LANGUAGE_MODEL needs a decoder; of an encoder-decoder say SEQUENCE_TO_SEQUENCE");
      return require(model.attention == AttentionPattern::causal,
                     "LANGUAGE_MODEL needs a model whose tokens see only those before; set model.application \"lm\"");
    case config::TaskConfig::PREFERENCE:
      require(model.has_language_model_head, "the checkpoint has no language model's output layer");
      return require(!model.has_source && model.attention == AttentionPattern::causal,
                     "PREFERENCE needs a decoder, whose tokens see only those before");
    case config::TaskConfig::MASKED_LANGUAGE_MODEL:
      require(model.has_language_model_head, "the checkpoint has no masked language model's output layer");
      return require(model.attention == AttentionPattern::bidirectional,
                     "MASKED_LANGUAGE_MODEL needs an encoder, whose tokens see all others");
    case config::TaskConfig::SEQUENCE_TO_SEQUENCE:
      return require(model.attention == AttentionPattern::prefix || model.has_source,
                     "SEQUENCE_TO_SEQUENCE needs an encoder-decoder such as t5, or an encoder with model.application "
                     "\"unilm\"");
    case config::TaskConfig::SPAN_CORRUPTION:
      return require(model.has_source, "SPAN_CORRUPTION needs an encoder-decoder such as t5");
    case config::TaskConfig::SIMILARITY:
      return require(model.is_encoder, "SIMILARITY needs an encoder, such as bert");
    case config::TaskConfig::CLASSIFICATION:
    case config::TaskConfig::TAGGING:
    case config::TaskConfig::ENTITIES:
    case config::TaskConfig::RELATIONS:
    case config::TaskConfig::QUESTION_ANSWERING:
      return require(model.task_head.kind != TaskHead::Kind::none, "this task needs an encoder, such as bert");
  }
}

TrainingDataSets open_data(const RunConfig& config,
                           Communicator& world,
                           const Context& context,
                           const std::shared_ptr<const Tokenizer>& tokenizer,
                           const ModelInfo& model,
                           const LabelledTask* labelled) {
  check_task(config, model);
  if (labelled != nullptr) {
    if (tokenizer == nullptr) fail_input("{}: has no tokenizer; set model.tokenizer", config.location("model.path"));
    return labelled->rows(*tokenizer, model);
  }
  SourcePreparation preparation(config, world, context, tokenizer);
  const config::RunConfig& message = config.message();
  TrainingDataOptions training = training_data_options(message);
  TrainingDataOptions held_out = evaluation_data_options(message);
  preparation.prepare(training.sources, "data.sources");
  preparation.prepare(held_out.sources, "evaluation.sources");
  double fraction = message.evaluation().held_out_fraction();
  if (tokenizer != nullptr) {
    training.tokenizer_fingerprint = tokenizer_fingerprint(*tokenizer);
    held_out.tokenizer_fingerprint = training.tokenizer_fingerprint;
  }
  TrainingDataSets sets;
  if (held_out.sources.empty() && fraction > 0) {
    held_out.sources = training.sources;
    held_out.part = DataPart::held_out;
    held_out.held_out_fraction = fraction;
    training.part = DataPart::training;
    training.held_out_fraction = fraction;
  }
  sets.training = open_training_data(training);
  check_vocabulary(*sets.training, training, model, config.location("data.sources"));
  warn_about_cuts(*sets.training, training, world);
  if (!held_out.sources.empty()) {
    sets.held_out = open_training_data(held_out);
    check_vocabulary(*sets.held_out, held_out, model, config.location("evaluation"));
  }
  sets.training = for_task(config, std::move(sets.training), tokenizer.get(), model);
  sets.held_out = for_task(config, std::move(sets.held_out), tokenizer.get(), model);
  return sets;
}

}  // namespace weft
