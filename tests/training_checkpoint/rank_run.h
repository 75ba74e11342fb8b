// One rank of a run whose every value is a formula of its name and its place in the whole tensor: what a checkpoint
// brings back can be told without the code that wrote it.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/adapter_file.h"
#include "models/small_decoders.h"
#include "parallel/thread_communicator.h"
#include "support/paths.h"
#include "training_checkpoint/training_checkpoint.h"

namespace weft::testing {

/// The value of element `index` of a tensor or state of this name.
inline float formula(uint64_t seed, const std::string& name, int64_t index) {
  RandomKey key{.seed = seed + std::hash<std::string>{}(name)};
  return key.uniform(static_cast<uint64_t>(index)) - 0.5f;
}

/// Where element `local` of a parameter's slice lies in the whole.
inline int64_t whole_index(const Parameter& parameter, int64_t local) {
  bool is_vector = parameter.full_shape.rank() == 1;
  int64_t width = is_vector ? 1 : parameter.local_shape[1];
  int64_t row = local / width + (parameter.range.dim == 0 ? parameter.range.begin : 0);
  int64_t column = local % width + (parameter.range.dim == 1 ? parameter.range.begin : 0);
  return row * (is_vector ? 1 : parameter.full_shape[1]) + column;
}

/// Keeps states as an optimizer does, and fills them by the formula.
class FormulaOptimizer final : public Optimizer {
 public:
  FormulaOptimizer(const Context& context, std::vector<OptimizerPiece> pieces, std::vector<std::string> states)
      : pieces_(std::move(pieces)), states_(std::move(states)) {
    for (const std::string& state : states_) {
      for (const OptimizerPiece& piece : pieces_) {
        values_[state].emplace_back(static_cast<size_t>(piece.end - piece.begin), 0.0f);
      }
    }
    for (const OptimizerPiece& piece : pieces_) {
      if (piece.parameter->full_shape.rank() != 2) continue;
      vectors_.push_back(
          {"row_mean", piece.parameter->name, context.zeros({piece.parameter->full_shape[0]}, DType::f32)});
    }
  }

  void step(const OptimizerStep&) override {}
  std::vector<std::string> element_states() const override { return states_; }
  /// As Adafactor and Muon, it keeps "exp_avg_sq" for matrices only.
  bool has_state(std::string_view state, size_t piece) const override {
    return state != "exp_avg_sq" || pieces_[piece].parameter->full_shape.rank() == 2;
  }
  void read_state(std::string_view state, size_t piece, int64_t begin, int64_t end, float* out) const override {
    const std::vector<float>& values = values_.at(std::string(state)).at(piece);
    std::copy(values.begin() + begin, values.begin() + end, out);
  }
  void write_state(std::string_view state, size_t piece, int64_t begin, int64_t end, const float* in) override {
    std::vector<float>& values = values_.at(std::string(state)).at(piece);
    ASSERT_LE(end, static_cast<int64_t>(values.size()));
    std::copy(in, in + (end - begin), values.begin() + begin);
  }
  std::vector<OptimizerVector> vectors() override { return vectors_; }
  void swap_ema() override {}
  const std::vector<OptimizerPiece>& pieces() const override { return pieces_; }

  void fill(uint64_t seed) {
    for_each_value([&](const std::string& name, int64_t index, float& value) { value = formula(seed, name, index); });
  }
  /// Elements that differ from the formula.
  int64_t num_wrong(uint64_t seed) {
    int64_t count = 0;
    for_each_value([&](const std::string& name, int64_t index, float& value) {
      count += value != formula(seed, name, index) ? 1 : 0;
    });
    return count;
  }

 private:
  template <typename Visit>
  void for_each_value(const Visit& visit) {
    for (auto& [state, of_pieces] : values_) {
      for (size_t i = 0; i < pieces_.size(); ++i) {
        const Parameter& parameter = *pieces_[i].parameter;
        for (int64_t j = 0; j < pieces_[i].end - pieces_[i].begin; ++j) {
          if (!has_state(state, i)) continue;
          visit(state + "/" + parameter.name,
                whole_index(parameter, pieces_[i].begin + j),
                of_pieces[i][static_cast<size_t>(j)]);
        }
      }
    }
    for (OptimizerVector& vector : vectors_) {
      for (int64_t j = 0; j < vector.values.num_elements(); ++j) {
        visit(vector.name + "/" + vector.parameter, j, vector.values.data<float>()[j]);
      }
    }
  }

  std::vector<OptimizerPiece> pieces_;
  std::vector<std::string> states_;
  std::map<std::string, std::vector<std::vector<float>>> values_;
  std::vector<OptimizerVector> vectors_;
};

struct RunOptions {
  int tensor_parallel = 1;
  int zero_stage = 0;
  DType dtype = DType::f32;
  DecoderConfig config = small_decoder(4, 4);
  std::vector<std::string> states = {"exp_avg", "exp_avg_sq"};
  bool with_adapter = false;        // it and the norms are trained, nothing else
  std::string adapter_folder = {};  // it is read from here, and the norms are frozen
};

/// A model whose weights are the formula's and what trains it.
class RankRun {
 public:
  RankRun(const std::shared_ptr<Communicator>& world, const RunOptions& options)
      : context(make_cpu_context(1)), mesh(world, options.tensor_parallel) {
    base = open_model({test_data() + "/hf/llama_gqa", "", ""});
    base.definition = decoder_definition(ModelFormat::huggingface, options.config, {});
    model = base.make({mesh.tensor_parallel().rank(), mesh.tensor_parallel().size()});
    if (options.with_adapter) adapter = std::make_unique<Adapter>(*model, LoraOptions{.rank = 3});
    trains_norms = options.adapter_folder.empty();
    if (!trains_norms) {
      adapter = read_adapter(context, *model, open_adapter(options.adapter_folder), options.dtype);
    }
    for (Parameter* parameter : all_parameters()) {
      if (parameter->value) continue;
      parameter->value = context.zeros(parameter->local_shape, options.dtype, MemoryTag::weights);
    }
    optimizer = std::make_unique<FormulaOptimizer>(context, make_pieces(options.zero_stage), options.states);
  }

  std::unique_ptr<CheckpointStore> open_store(CheckpointOptions options) {
    return std::make_unique<CheckpointStore>(
        mesh,
        CheckpointSubject{
            .base = base, .tokenizer = "", .model = *model, .adapter = adapter.get(), .optimizer = *optimizer},
        std::move(options));
  }

  void fill(uint64_t seed) {
    optimizer->fill(seed);
    for (Parameter* each : trained_parameters()) {
      Parameter& parameter = *each;
      for (int64_t i = 0; i < parameter.local_shape.num_elements(); ++i)
        set(parameter, i, expected(seed, parameter, i));
    }
  }

  int64_t num_wrong(uint64_t seed) {
    int64_t count = optimizer->num_wrong(seed);
    for (Parameter* each : trained_parameters()) {
      Parameter& parameter = *each;
      for (int64_t i = 0; i < parameter.local_shape.num_elements(); ++i) {
        count += get(parameter, i) != rounded(parameter, expected(seed, parameter, i)) ? 1 : 0;
      }
    }
    return count;
  }

  Context context;
  Mesh mesh;
  OpenedModel base;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<Adapter> adapter;
  std::unique_ptr<FormulaOptimizer> optimizer;
  bool trains_norms = true;

 private:
  std::vector<Parameter*> all_parameters() {
    std::vector<Parameter*> all;
    for (Parameter& parameter : model->parameters().all()) all.push_back(&parameter);
    if (adapter == nullptr) return all;
    for (Parameter& parameter : adapter->parameters().all()) all.push_back(&parameter);
    return all;
  }

  std::vector<Parameter*> trained_parameters() {
    std::vector<Parameter*> trained = all_parameters();
    if (adapter == nullptr) return trained;
    std::erase_if(trained, [&](const Parameter* parameter) {
      bool may_train = trains_norms && parameter->full_shape.rank() == 1;
      return parameter->name.find("lora_") == std::string::npos && !may_train;
    });
    return trained;
  }

  /// Whole slices, or this data-parallel rank's part of them: cut anywhere, some empty, as ZeRO does.
  std::vector<OptimizerPiece> make_pieces(int zero_stage) {
    std::vector<OptimizerPiece> pieces;
    int64_t size = zero_stage > 0 ? mesh.data_parallel().size() : 1;
    int64_t rank = zero_stage > 0 ? mesh.data_parallel().rank() : 0;
    for (Parameter* parameter : trained_parameters()) {
      int64_t count = parameter->local_shape.num_elements();
      auto cut = [&](int64_t part) {
        return part == 0 ? 0 : part == size ? count : std::min(count, count * part / size + 5);
      };
      if (cut(rank) == cut(rank + 1)) continue;
      pieces.push_back({.parameter = parameter,
                        .begin = cut(rank),
                        .end = cut(rank + 1),
                        .weight = parameter->value.reshape({count}).slice(cut(rank), cut(rank + 1)),
                        .grad = {}});
    }
    return pieces;
  }

  static float expected(uint64_t seed, const Parameter& parameter, int64_t local) {
    return formula(seed, parameter.name, whole_index(parameter, local));
  }
  static float rounded(const Parameter& parameter, float value) {
    return parameter.value.dtype() == DType::bf16 ? static_cast<float>(bfloat16(value)) : value;
  }
  static void set(Parameter& parameter, int64_t i, float value) {
    if (parameter.value.dtype() == DType::bf16) {
      parameter.value.data<bfloat16>()[i] = bfloat16(value);
    } else {
      parameter.value.data<float>()[i] = value;
    }
  }
  static float get(const Parameter& parameter, int64_t i) {
    return parameter.value.dtype() == DType::bf16 ? static_cast<float>(parameter.value.data<bfloat16>()[i])
                                                  : parameter.value.data<float>()[i];
  }
};

/// Runs a rank of a run in each of `size` threads.
inline void run_ranks(int size, const RunOptions& options, const std::function<void(RankRun&)>& body) {
  run_thread_ranks(size, [&](const std::shared_ptr<Communicator>& world) {
    RankRun run(world, options);
    body(run);
  });
}

}  // namespace weft::testing
