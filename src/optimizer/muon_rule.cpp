// Muon (Jordan et al., 2024): matrices of blocks move by their orthogonalised momentum, all else by AdamW.
#include <algorithm>
#include <cmath>
#include <map>

#include "optimizer/adam_rule.h"
#include "optimizer/matrix_exchange.h"
#include "optimizer/orthogonalize.h"
#include "optimizer/update_rule.h"

namespace weft {

bool is_muon_matrix(const Shape& full_shape, int64_t block) {
  return full_shape.rank() == 2 && block != kOuterBlock;
}

namespace {

double orthogonalize_cost(const Shape& shape) {
  auto rows = static_cast<double>(shape[0]), columns = static_cast<double>(shape[1]);
  return rows * columns * std::min(rows, columns);
}

/// The data rank that holds most of a matrix already, and of its tensor ranks the one with the least to do so far.
MatrixOwner choose_owner(const DirectoryParameter& parameter,
                         int num_tensor_ranks,
                         std::map<std::pair<int, int>, double>& work) {
  std::map<int, int64_t> held;
  for (const HeldRun& run : parameter.runs) held[run.data_rank] += run.end - run.begin;
  auto most =
      std::max_element(held.begin(), held.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  MatrixOwner owner{.tensor_rank = 0, .data_rank = most->first};
  for (int rank = 1; rank < num_tensor_ranks; ++rank) {
    if (work[{owner.data_rank, rank}] < work[{owner.data_rank, owner.tensor_rank}]) owner.tensor_rank = rank;
  }
  work[{owner.data_rank, owner.tensor_rank}] += orthogonalize_cost(parameter.full_shape);
  return owner;
}

struct MuonMatrix {
  size_t parameter = 0;  // in the directory
  MatrixOwner owner;
  std::vector<size_t> pieces;  // of this rank
};

class MuonRule : public UpdateRule {
 public:
  explicit MuonRule(PieceSet& pieces)
      : pieces_(pieces),
        exchange_(pieces.context(), pieces.place(), pieces.sharing()),
        moments_(pieces, [&](size_t index) { return !is_matrix(index); }),
        buffers_(pieces.add_state("momentum_buffer", [&](size_t index) { return is_matrix(index); })) {
    plan_rounds(pieces.make_directory());
  }

  void step(const OptimizerStep& step) override {
    for (size_t index = 0; index < pieces_.size(); ++index) {
      if (!is_matrix(index)) moments_.update(index, step);
    }
    for (const std::vector<MuonMatrix>& round : rounds_) run_round(round, step);
  }

 private:
  bool is_matrix(size_t index) const {
    const Parameter& parameter = *pieces_.piece(index).parameter;
    return is_muon_matrix(parameter.full_shape, parameter.block);
  }

  /// In a round every rank owns one matrix at most, so that all compute at the same time and none holds more than one.
  void plan_rounds(const ParameterDirectory& directory) {
    std::map<std::pair<int, int>, double> work;
    std::map<std::pair<int, int>, size_t> num_owned;
    for (size_t parameter = 0; parameter < directory.size(); ++parameter) {
      if (!is_muon_matrix(directory[parameter].full_shape, directory[parameter].block)) continue;
      MuonMatrix matrix{.parameter = parameter,
                        .owner = choose_owner(directory[parameter], pieces_.place().size, work),
                        .pieces = {}};
      for (size_t index = 0; index < pieces_.size(); ++index) {
        bool is_its_piece = pieces_.settings(index).parameter_index == parameter && pieces_.count(index) != 0;
        if (is_its_piece) matrix.pieces.push_back(index);
      }
      size_t round = num_owned[{matrix.owner.data_rank, matrix.owner.tensor_rank}]++;
      if (rounds_.size() <= round) rounds_.resize(round + 1);
      rounds_[round].push_back(std::move(matrix));
    }
  }

  void run_round(const std::vector<MuonMatrix>& round, const OptimizerStep& step) {
    std::vector<std::vector<SlicePart>> parts;
    Tensor own;
    for (const MuonMatrix& matrix : round) {
      parts.push_back(update_momentum(matrix, step));
      Tensor gathered = exchange_.gather(pieces_.directory()[matrix.parameter], matrix.owner, parts.back());
      if (gathered.defined()) own = gathered;
    }
    if (own.defined()) own = orthogonalize(pieces_.context(), own);
    for (size_t i = 0; i < round.size(); ++i) {
      exchange_.scatter(pieces_.directory()[round[i].parameter], round[i].owner, own, parts[i]);
      apply(round[i], parts[i], step);
      parts[i].clear();
    }
  }

  /// buffer = momentum·buffer + g; the update is g + momentum·buffer (Nesterov).
  std::vector<SlicePart> update_momentum(const MuonMatrix& matrix, const OptimizerStep& step) {
    double momentum = pieces_.options().momentum;
    std::vector<SlicePart> parts;
    for (size_t index : matrix.pieces) {
      int64_t count = pieces_.count(index);
      Tensor update = pieces_.context().empty({count}, DType::f32, MemoryTag::workspace);
      void* buffer = buffers_[index].raw();
      add_scaled(pieces_.grad(index), step.gradient_scale, buffer, momentum, buffer, count);
      add_scaled(pieces_.grad(index), step.gradient_scale, buffer, momentum, update.raw(), count);
      parts.push_back({pieces_.piece(index).begin, pieces_.piece(index).end, update});
    }
    return parts;
  }

  /// result = a·x + b·y.
  void add_scaled(const float* x, double a, const void* y, double b, void* result, int64_t count) const {
    pieces_.context().kernels().elementwise.axpby({.x = x, .y_in = y, .y = result, .count = count, .a = a, .b = b},
                                                  pieces_.stream());
  }

  void apply(const MuonMatrix& matrix, std::vector<SlicePart>& parts, const OptimizerStep& step) {
    const Shape& shape = pieces_.directory()[matrix.parameter].full_shape;
    double scale = std::sqrt(std::max(1.0, static_cast<double>(shape[0]) / static_cast<double>(shape[1])));
    for (size_t i = 0; i < parts.size(); ++i) {
      size_t index = matrix.pieces[i];
      const PieceSettings& settings = pieces_.settings(index);
      double learning_rate = step.learning_rate * settings.learning_rate_factor;
      pieces_.kernels().apply_update({.weight = pieces_.weight(index, step.update),
                                      .update = parts[i].values.pointer<float>(),
                                      .count = pieces_.count(index),
                                      .rate = learning_rate * scale,
                                      .decay = learning_rate * settings.weight_decay},
                                     pieces_.stream());
    }
  }

  PieceSet& pieces_;
  MatrixExchange exchange_;
  AdamMoments moments_;
  std::vector<Tensor>& buffers_;
  std::vector<std::vector<MuonMatrix>> rounds_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_muon_rule(PieceSet& pieces) {
  return std::make_unique<MuonRule>(pieces);
}

}  // namespace weft
