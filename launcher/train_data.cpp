#include "launcher/train_data.h"

#include "config/run.pb.h"
#include "core/error.h"
#include "data/prepare.h"
#include "data/tokenizer_fingerprint.h"
#include "launcher/common.h"
#include "launcher/train_options.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

constexpr std::string_view kTokenFileEnding = ".tokens";

class SourcePreparation {
 public:
  SourcePreparation(const RunConfig& config,
                    Communicator& world,
                    const Context& context,
                    std::shared_ptr<const Tokenizer> tokenizer)
      : config_(config), world_(world), context_(context), tokenizer_(std::move(tokenizer)) {}

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
                                  context_.num_threads * world_.size(),
                                  true);
      } catch (const Error& error) {
        failure = error.what();
      }
    }
    broadcast_string(context_, world_, failure);
    if (!failure.empty()) fail_input("{}: {}", place, failure);
    broadcast_string(context_, world_, prepared);
    return prepared;
  }

  const RunConfig& config_;
  Communicator& world_;
  const Context& context_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

void check_vocabulary(const TrainingData& data, const ModelInfo& model, const std::string& place) {
  if (data.vocab_size() <= model.vocab_size) return;
  fail_input("{}: holds token ids up to {}, the model knows {}; prepare it with the model's own tokenizer",
             place,
             data.vocab_size() - 1,
             model.vocab_size);
}

}  // namespace

TrainingDataSets open_data(const RunConfig& config,
                           Communicator& world,
                           const Context& context,
                           const std::shared_ptr<const Tokenizer>& tokenizer,
                           const ModelInfo& model) {
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
  check_vocabulary(*sets.training, model, config.location("data.sources"));
  if (!held_out.sources.empty()) {
    sets.held_out = open_training_data(held_out);
    check_vocabulary(*sets.held_out, model, config.location("evaluation"));
  }
  return sets;
}

}  // namespace weft
