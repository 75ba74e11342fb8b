#include "optimizer/optimizer.h"

#include <cstring>

#include "optimizer/lazy_rows.h"
#include "optimizer/update_rule.h"

namespace weft {
namespace {

constexpr const char* kMaster = "master";
constexpr const char* kEma = "ema";
constexpr const char* kLookahead = "lookahead_slow";

std::unique_ptr<UpdateRule> make_rule(PieceSet& pieces) {
  switch (pieces.options().kind) {
    case OptimizerKind::adamw:
    case OptimizerKind::adam:
      return make_adam_rule(pieces);
    case OptimizerKind::lamb:
      return make_lamb_rule(pieces);
    case OptimizerKind::lion:
      return make_lion_rule(pieces);
    case OptimizerKind::adafactor:
      return make_adafactor_rule(pieces);
    case OptimizerKind::muon:
      return make_muon_rule(pieces);
    case OptimizerKind::sgd:
      return make_sgd_rule(pieces);
  }
  fail(ExitCode::failure, "no such optimizer");
}

/// What all rules share: masters, averages, lookahead, lazy rows, states for checkpoints.
class PieceOptimizer : public Optimizer {
 public:
  PieceOptimizer(const Context& context,
                 const OptimizerOptions& options,
                 std::vector<OptimizerPiece> pieces,
                 TensorParallelPlace place,
                 const PieceSharing& sharing)
      : pieces_(context, options, std::move(pieces), place, sharing), rule_(make_rule(pieces_)) {
    if (options.lazy_rows) pieces_.make_directory();
    if (options.ema_momentum != 0) ema_ = add_copy_of_masters(kEma);
    if (options.lookahead_steps > 0) slow_ = add_copy_of_masters(kLookahead);
  }

  void step(const OptimizerStep& step) override {
    if (pieces_.options().lazy_rows) find_active_rows(pieces_);
    rule_->step(step);
    if (slow_ != nullptr && step.update % pieces_.options().lookahead_steps == 0) move_towards_slow_copy();
    if (ema_ != nullptr) update_average(step.update == 1 ? 0 : pieces_.options().ema_momentum);
  }

  std::vector<std::string> element_states() const override {
    std::vector<std::string> names;
    if (pieces_.has_separate_master()) names.emplace_back(kMaster);
    for (const auto& [name, state] : pieces_.states()) names.push_back(name);
    return names;
  }

  bool has_state(std::string_view state, size_t piece) const override {
    if (state == kMaster) return pieces_.has_separate_master();
    return find_state(state)[piece].defined();
  }

  void read_state(std::string_view state, size_t piece, int64_t begin, int64_t end, float* out) const override {
    if (begin == end) return;
    if (state == kMaster) {
      Tensor masters = pieces_.context().empty({end - begin}, DType::f32, MemoryTag::workspace);
      copy_master(pieces_.kernels().load_master, piece, begin, end, masters.pointer<float>());
      return masters.copy_to_host(out);
    }
    const Tensor& values = find_state(state)[piece];
    if (!values.defined()) {
      std::fill_n(out, end - begin, 0.0f);
    } else {
      values.slice(begin, end).copy_to_host(out);
    }
  }

  void write_state(std::string_view state, size_t piece, int64_t begin, int64_t end, const float* in) override {
    if (begin == end) return;
    if (state == kMaster) {
      Tensor masters = pieces_.context().empty({end - begin}, DType::f32, MemoryTag::workspace);
      masters.copy_from_host(in);
      return copy_master(pieces_.kernels().store_master, piece, begin, end, masters.pointer<float>());
    }
    Tensor values = find_state(state)[piece];
    if (!values.defined()) return;
    values.slice(begin, end).copy_from_host(in);
  }

  std::vector<OptimizerVector> vectors() override { return rule_->vectors(); }

  void swap_ema() override {
    if (ema_ == nullptr) fail(ExitCode::failure, "there is no average of the weights: ema_momentum is 0");
    set_aside_.resize(pieces_.size());
    for (size_t index = 0; index < pieces_.size(); ++index) {
      if (pieces_.count(index) != 0) swap_piece(index);
    }
  }

  const std::vector<OptimizerPiece>& pieces() const override { return pieces_.pieces(); }

 private:
  using CopyKernel = void (*)(const CopyMasterArgs&, const Stream&);

  void copy_master(CopyKernel kernel, size_t piece, int64_t begin, int64_t end, float* values) const {
    kernel({.weight = pieces_.weight(piece, 0).from(begin), .values = values, .count = end - begin}, pieces_.stream());
  }

  std::vector<Tensor>* add_copy_of_masters(const char* name) {
    std::vector<Tensor>& state = pieces_.add_state(name);
    for (size_t index = 0; index < pieces_.size(); ++index) {
      if (!state[index].defined()) continue;
      copy_master(pieces_.kernels().load_master, index, 0, pieces_.count(index), state[index].pointer<float>());
    }
    return &state;
  }

  const std::vector<Tensor>& find_state(std::string_view name) const {
    auto found = pieces_.states().find(std::string(name));
    if (found == pieces_.states().end()) {
      fail(ExitCode::failure, "this optimizer has no state \"{}\"", printable(name));
    }
    return found->second;
  }

  void average(std::vector<Tensor>& state, size_t index, double momentum) {
    pieces_.kernels().average({.weight = pieces_.weight(index, 0),
                               .average = state[index].pointer<float>(),
                               .count = pieces_.count(index),
                               .momentum = momentum},
                              pieces_.stream());
  }

  void update_average(double momentum) {
    for (size_t index = 0; index < pieces_.size(); ++index) {
      if (pieces_.count(index) == 0) continue;
      if (momentum == 0) {
        copy_master(pieces_.kernels().load_master, index, 0, pieces_.count(index), (*ema_)[index].pointer<float>());
      } else {
        average(*ema_, index, momentum);
      }
    }
  }

  /// "Lookahead optimizer: k steps forward, 1 step back" (Zhang et al., 2019).
  void move_towards_slow_copy() {
    for (size_t index = 0; index < pieces_.size(); ++index) {
      if (pieces_.count(index) == 0) continue;
      average(*slow_, index, 1 - pieces_.options().lookahead_alpha);
      copy_master(pieces_.kernels().store_master, index, 0, pieces_.count(index), (*slow_)[index].pointer<float>());
    }
  }

  /// Weights that cannot hold all of the average are set aside, lest the average lose its lower bits.
  void swap_piece(size_t index) {
    int64_t count = pieces_.count(index);
    Tensor& average = (*ema_)[index];
    Tensor& weights = set_aside_[index];
    if (weights.defined()) {
      copy_master(pieces_.kernels().store_master, index, 0, count, weights.pointer<float>());
      weights = Tensor();
      return;
    }
    Tensor masters = pieces_.context().empty({count}, DType::f32, MemoryTag::optimizer);
    copy_master(pieces_.kernels().load_master, index, 0, count, masters.pointer<float>());
    copy_master(pieces_.kernels().store_master, index, 0, count, average.pointer<float>());
    OptimizerWeight kept = pieces_.weight(index, 0);
    if (kept.dtype == DType::bf16 && kept.storage != WeightStorage::low_bits) {
      weights = masters;
    } else {
      average = masters;
    }
  }

  PieceSet pieces_;
  std::unique_ptr<UpdateRule> rule_;
  std::vector<Tensor>* ema_ = nullptr;
  std::vector<Tensor>* slow_ = nullptr;
  std::vector<Tensor> set_aside_;
};

}  // namespace

std::string_view optimizer_name(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::adamw:
      return "adamw";
    case OptimizerKind::adam:
      return "adam";
    case OptimizerKind::lamb:
      return "lamb";
    case OptimizerKind::lion:
      return "lion";
    case OptimizerKind::adafactor:
      return "adafactor";
    case OptimizerKind::muon:
      return "muon";
    case OptimizerKind::sgd:
      return "sgd";
  }
  fail(ExitCode::failure, "no such optimizer");
}

std::unique_ptr<Optimizer> make_optimizer(const Context& context,
                                          const OptimizerOptions& options,
                                          std::vector<OptimizerPiece> pieces,
                                          TensorParallelPlace place,
                                          const PieceSharing& sharing) {
  require_kernel(context.kernels().optimizer.adam, "adam", context.device.type);
  return std::make_unique<PieceOptimizer>(context, options, std::move(pieces), place, sharing);
}

}  // namespace weft
