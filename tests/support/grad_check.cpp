#include "support/grad_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ops/elementwise.h"

namespace weft::testing {
namespace {

double weight(int64_t index) {
  return RandomKey{.seed = 99, .site = 7}.uniform(static_cast<uint64_t>(index)) * 2.0 - 1.0;
}

/// A loss is taken as it is: some ops demand a gradient of 1.
double weighted_sum(const Tensor& value) {
  if (value.num_elements() == 1) return *value.data<double>();
  double sum = 0;
  for (int64_t i = 0; i < value.num_elements(); ++i) sum += weight(i) * value.data<double>()[i];
  return sum;
}

Tensor weights_like(Context& context, const Tensor& value) {
  Tensor weights = context.empty(value.shape(), DType::f64);
  if (value.num_elements() == 1) {
    *weights.data<double>() = 1;
    return weights;
  }
  for (int64_t i = 0; i < value.num_elements(); ++i) weights.data<double>()[i] = weight(i);
  return weights;
}

/// Ops may work in place on what they are handed: every evaluation gets copies.
std::vector<Tensor> copies(Context& context, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> result;
  for (const Tensor& input : inputs) {
    Tensor copy = context.empty(input.shape(), DType::f64);
    std::copy_n(input.data<double>(), input.num_elements(), copy.data<double>());
    result.push_back(std::move(copy));
  }
  return result;
}

std::vector<Tensor> analytic_gradients(Context& context,
                                       const std::vector<Tensor>& inputs,
                                       const TensorFunction& function) {
  Tape tape;
  context.tape = &tape;
  std::vector<Tensor> tracked = copies(context, inputs);
  for (Tensor& input : tracked) input.set_grad_slot(std::make_shared<GradSlot>());
  // In-place ops must not write into the leaves.
  std::vector<Tensor> passed;
  passed.reserve(tracked.size());
  for (Tensor& input : tracked) passed.push_back(scale(context, input, 1.0));
  Tensor value = function(context, passed);
  EXPECT_TRUE(value.wants_grad());
  add_grad(context, value.grad_slot(), weights_like(context, value));
  tape.backward(context);
  context.tape = nullptr;
  std::vector<Tensor> gradients;
  gradients.reserve(tracked.size());
  for (Tensor& input : tracked) gradients.push_back(take_grad(input.grad_slot()));
  return gradients;
}

double difference_quotient(
    Context& context, const std::vector<Tensor>& inputs, const TensorFunction& function, size_t which, int64_t index) {
  constexpr double kStep = 1e-5;
  double values[2];
  for (int side = 0; side < 2; ++side) {
    std::vector<Tensor> moved = copies(context, inputs);
    moved[which].data<double>()[index] += side == 0 ? kStep : -kStep;
    values[side] = weighted_sum(function(context, moved));
  }
  return (values[0] - values[1]) / (2 * kStep);
}

}  // namespace

Tensor random_tensor(Context& context, const Shape& shape, uint64_t seed, double scale) {
  Tensor tensor = context.empty(shape, DType::f64);
  RandomKey key{.seed = seed};
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    tensor.data<double>()[i] = (2.0 * key.uniform(static_cast<uint64_t>(i)) - 1.0) * scale;
  }
  return tensor;
}

void check_gradients(Context& context,
                     const std::vector<Tensor>& inputs,
                     const TensorFunction& function,
                     double tolerance) {
  std::vector<Tensor> gradients = analytic_gradients(context, inputs, function);
  for (size_t which = 0; which < inputs.size(); ++which) {
    ASSERT_TRUE(gradients[which].defined()) << "no gradient for input " << which;
    double largest = 1e-3;
    for (int64_t i = 0; i < inputs[which].num_elements(); ++i)
      largest = std::max(largest, std::abs(gradients[which].data<double>()[i]));
    for (int64_t i = 0; i < inputs[which].num_elements(); ++i) {
      double expected = difference_quotient(context, inputs, function, which, i);
      ASSERT_NEAR(gradients[which].data<double>()[i], expected, tolerance * largest)
          << "input " << which << " element " << i;
    }
  }
}

}  // namespace weft::testing
