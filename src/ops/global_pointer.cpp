#include "ops/global_pointer.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "ops/loss_node.h"
#include "ops/multilabel.h"

namespace weft {
namespace {

constexpr double kRotaryBase = 10000;

/// Sines and cosines of places and pairs of elements.
class Rotation {
 public:
  Rotation(int64_t length, int64_t size) : pairs_(size / 2) {
    for (int64_t place = 0; place < length; ++place) {
      for (int64_t pair = 0; pair < pairs_; ++pair) {
        double frequency = std::pow(kRotaryBase, -2.0 * static_cast<double>(pair) / static_cast<double>(size));
        sines_.push_back(std::sin(static_cast<double>(place) * frequency));
        cosines_.push_back(std::cos(static_cast<double>(place) * frequency));
      }
    }
  }

  /// By the place's angle, or back by it.
  void apply(double* vector, int64_t place, bool back) const {
    for (int64_t pair = 0; pair < pairs_; ++pair) {
      auto at = static_cast<size_t>(place * pairs_ + pair);
      double sine = back ? -sines_[at] : sines_[at];
      double even = vector[2 * pair], odd = vector[2 * pair + 1];
      vector[2 * pair] = even * cosines_[at] - odd * sine;
      vector[2 * pair + 1] = odd * cosines_[at] + even * sine;
    }
  }

 private:
  int64_t pairs_;
  std::vector<double> sines_, cosines_;
};

/// Queries and keys of one label of one sequence, rotated.
class Pointer {
 public:
  Pointer(const double* rows, const PointerShape& shape, int64_t length, int64_t label, const Rotation& rotation)
      : length_(length), size_(shape.size), rotation_(rotation) {
    int64_t width = shape.labels * 2 * size_;
    for (int64_t t = 0; t < length; ++t) {
      const double* row = rows + t * width + label * 2 * size_;
      queries_.insert(queries_.end(), row, row + size_);
      keys_.insert(keys_.end(), row + size_, row + 2 * size_);
      rotation.apply(queries_.data() + t * size_, t, false);
      rotation.apply(keys_.data() + t * size_, t, false);
    }
  }

  /// [length, length], −infinity below the diagonal.
  std::vector<double> scores() const {
    std::vector<double> result(static_cast<size_t>(length_ * length_), -std::numeric_limits<double>::infinity());
    double scale = 1 / std::sqrt(static_cast<double>(size_));
    for (int64_t first = 0; first < length_; ++first) {
      for (int64_t last = first; last < length_; ++last) {
        double sum = 0;
        for (int64_t c = 0; c < size_; ++c) sum += queries_[at(first, c)] * keys_[at(last, c)];
        result[static_cast<size_t>(first * length_ + last)] = sum * scale;
      }
    }
    return result;
  }

  /// Adds what a gradient of the scores is for the layer's output.
  void add_gradient(const std::vector<double>& scores, double* rows, int64_t width, int64_t label) const {
    std::vector<double> queries(queries_.size()), keys(keys_.size());
    double scale = 1 / std::sqrt(static_cast<double>(size_));
    for (int64_t first = 0; first < length_; ++first) {
      for (int64_t last = first; last < length_; ++last) {
        double gradient = scores[static_cast<size_t>(first * length_ + last)] * scale;
        for (int64_t c = 0; c < size_; ++c) {
          queries[at(first, c)] += gradient * keys_[at(last, c)];
          keys[at(last, c)] += gradient * queries_[at(first, c)];
        }
      }
    }
    for (int64_t t = 0; t < length_; ++t) {
      rotation_.apply(queries.data() + t * size_, t, true);
      rotation_.apply(keys.data() + t * size_, t, true);
      double* row = rows + t * width + label * 2 * size_;
      for (int64_t c = 0; c < size_; ++c) {
        row[c] += queries[at(t, c)];
        row[size_ + c] += keys[at(t, c)];
      }
    }
  }

 private:
  size_t at(int64_t token, int64_t element) const { return static_cast<size_t>(token * size_ + element); }

  int64_t length_, size_;
  const Rotation& rotation_;
  std::vector<double> queries_, keys_;
};

}  // namespace

std::vector<float> pointer_scores(const Tensor& outputs, const PointerShape& shape, int64_t begin, int64_t length) {
  std::vector<double> rows = to_doubles(outputs.slice(begin, begin + length));
  Rotation rotation(length, shape.size);
  std::vector<float> result;
  result.reserve(static_cast<size_t>(shape.labels * length * length));
  for (int64_t label = 0; label < shape.labels; ++label) {
    for (double score : Pointer(rows.data(), shape, length, label, rotation).scores()) {
      result.push_back(static_cast<float>(score));
    }
  }
  return result;
}

Tensor pointer_loss(Context& context,
                    const Tensor& outputs,
                    const PointerShape& shape,
                    std::span<const PointerSequence> sequences) {
  int64_t width = outputs.size(1);
  WEFT_ASSERT(width == shape.labels * 2 * shape.size && shape.size % 2 == 0);
  std::vector<double> values = to_doubles(outputs);
  std::vector<double> gradient(values.size());
  double loss = 0;
  for (const PointerSequence& sequence : sequences) {
    if (sequence.weight == 0) continue;
    Rotation rotation(sequence.length, shape.size);
    double weight = static_cast<double>(sequence.weight) / static_cast<double>(shape.labels);
    for (int64_t label = 0; label < shape.labels; ++label) {
      Pointer pointer(values.data() + sequence.begin * width, shape, sequence.length, label, rotation);
      std::vector<double> scores = pointer.scores();
      std::vector<bool> is_marked(scores.size());
      for (const PointerMark& mark : sequence.marks) {
        if (mark.label == label) is_marked[static_cast<size_t>(mark.first * sequence.length + mark.last)] = true;
      }
      loss += weight * multilabel_loss(scores, is_marked);
      for (double& score : scores) score *= weight;
      pointer.add_gradient(scores, gradient.data() + sequence.begin * width, width, label);
    }
  }
  return make_loss(context, loss, {{&outputs, std::move(gradient)}});
}

}  // namespace weft
