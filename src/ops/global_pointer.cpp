#include "ops/global_pointer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

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

/// Queries and keys of one label of one sequence, rotated where the label is of spans.
class Pointer {
 public:
  Pointer(const double* rows, const PointerShape& shape, int64_t length, int64_t label, const Rotation& rotation)
      : length_(length), size_(shape.size), is_ordered_(shape.is_ordered(label)), rotation_(rotation) {
    int64_t width = shape.labels * 2 * size_;
    for (int64_t t = 0; t < length; ++t) {
      const double* row = rows + t * width + label * 2 * size_;
      queries_.insert(queries_.end(), row, row + size_);
      keys_.insert(keys_.end(), row + size_, row + 2 * size_);
      if (!is_ordered_) continue;
      rotation.apply(queries_.data() + t * size_, t, false);
      rotation.apply(keys_.data() + t * size_, t, false);
    }
  }

  /// [length, length], −infinity below the diagonal of ordered pairs.
  std::vector<double> scores() const {
    std::vector<double> result(static_cast<size_t>(length_ * length_), -std::numeric_limits<double>::infinity());
    double scale = 1 / std::sqrt(static_cast<double>(size_));
    // Element by element of all keys at once, which compilers make vector instructions of.
    std::vector<double> elements(keys_.size());
    for (int64_t t = 0; t < length_; ++t) {
      for (int64_t c = 0; c < size_; ++c) elements[static_cast<size_t>(c * length_ + t)] = keys_[at(t, c)];
    }
    for (int64_t first = 0; first < length_; ++first) {
      double* row = result.data() + first * length_;
      std::fill(row + first_last(first), row + length_, 0.0);
      for (int64_t c = 0; c < size_; ++c) {
        double query = queries_[at(first, c)] * scale;
        const double* of_keys = elements.data() + c * length_;
        for (int64_t last = first_last(first); last < length_; ++last) row[last] += query * of_keys[last];
      }
    }
    return result;
  }

  /// Adds what a gradient of the scores is for the layer's output.
  void add_gradient(const std::vector<double>& scores, double* rows, int64_t width, int64_t label) const {
    std::vector<double> queries(queries_.size()), keys(keys_.size());
    double scale = 1 / std::sqrt(static_cast<double>(size_));
    for (int64_t first = 0; first < length_; ++first) {
      for (int64_t last = first_last(first); last < length_; ++last) {
        double gradient = scores[static_cast<size_t>(first * length_ + last)] * scale;
        for (int64_t c = 0; c < size_; ++c) {
          queries[at(first, c)] += gradient * keys_[at(last, c)];
          keys[at(last, c)] += gradient * queries_[at(first, c)];
        }
      }
    }
    for (int64_t t = 0; t < length_; ++t) {
      if (is_ordered_) {
        rotation_.apply(queries.data() + t * size_, t, true);
        rotation_.apply(keys.data() + t * size_, t, true);
      }
      double* row = rows + t * width + label * 2 * size_;
      for (int64_t c = 0; c < size_; ++c) {
        row[c] += queries[at(t, c)];
        row[size_ + c] += keys[at(t, c)];
      }
    }
  }

 private:
  size_t at(int64_t token, int64_t element) const { return static_cast<size_t>(token * size_ + element); }
  int64_t first_last(int64_t first) const { return is_ordered_ ? first : 0; }

  int64_t length_, size_;
  bool is_ordered_;
  const Rotation& rotation_;
  std::vector<double> queries_, keys_;
};

/// Few of them are not worth threads.
template <typename Work>
void for_each_label(int num_threads, int64_t labels, const Work& work) {
  constexpr int64_t kFewLabels = 16;
  int64_t count = labels < kFewLabels ? 1 : num_threads;
  auto run = [&](int64_t thread) {
    for (int64_t label = thread; label < labels; label += count) work(label);
  };
  std::vector<std::thread> threads;
  for (int64_t thread = 1; thread < count; ++thread) threads.emplace_back(run, thread);
  run(0);
  for (std::thread& thread : threads) thread.join();
}

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
  WEFT_ASSERT(width == shape.labels * 2 * shape.size && shape.size % 2 == 0 && shape.pair_labels <= shape.labels);
  std::vector<double> values = to_doubles(outputs);
  std::vector<double> gradient(values.size());
  double loss = 0;
  for (const PointerSequence& sequence : sequences) {
    if (sequence.weight == 0) continue;
    Rotation rotation(sequence.length, shape.size);
    double weight = static_cast<double>(sequence.weight) / static_cast<double>(shape.labels);
    std::vector<double> losses(static_cast<size_t>(shape.labels));
    // Labels have columns of their own.
    for_each_label(context.num_threads, shape.labels, [&](int64_t label) {
      Pointer pointer(values.data() + sequence.begin * width, shape, sequence.length, label, rotation);
      std::vector<double> scores = pointer.scores();
      if (shape.pair_labels > 0) scores[0] = -std::numeric_limits<double>::infinity();
      std::vector<bool> is_marked(scores.size());
      for (const PointerMark& mark : sequence.marks) {
        if (mark.label == label) is_marked[static_cast<size_t>(mark.first * sequence.length + mark.last)] = true;
      }
      losses[static_cast<size_t>(label)] = multilabel_loss(scores, is_marked);
      for (double& score : scores) score *= weight;
      pointer.add_gradient(scores, gradient.data() + sequence.begin * width, width, label);
    });
    for (double one : losses) loss += weight * one;
  }
  return make_loss(context, loss, {{&outputs, std::move(gradient)}});
}

}  // namespace weft
