#include "nn/rwkv_layers.h"

#include "core/error.h"
#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/head_norm.h"

namespace weft {
namespace {

constexpr int64_t kStatesPerLayer = 3;

/// Row t becomes row t − 1 of its sequence, or what the cache keeps of the tokens before.
Tensor shifted(Context& context, const Tensor& x, const RecurrentPass& pass, int64_t state, const Parameter* initial) {
  if (pass.cache == nullptr) {
    Tensor last = initial == nullptr ? Tensor() : initial->value.reshape({1, x.size(1)});
    return token_shift(context, x, pass.spans, initial == nullptr ? nullptr : &last);
  }
  return cached_token_shift(context, x, pass.spans, pass.cache->state(state));
}

/// x + factors · difference, a factor a column.
Tensor mixed(Context& context, const Tensor& x, const Tensor& difference, const Parameter& factors) {
  return add(context, x, scale_columns(context, difference, factors.value));
}

Tensor product(Context& context, const Tensor& x, const Tensor& y) {
  return gated_activation(context, x, y, Activation::identity);
}

/// A row of each token's number.
Tensor rows_of(Context& context, const std::vector<float>& values, int64_t width, DType dtype) {
  std::vector<float> all;
  all.reserve(values.size() * static_cast<size_t>(width));
  for (float value : values) all.insert(all.end(), static_cast<size_t>(width), value);
  Tensor rows = context.empty({static_cast<int64_t>(values.size()), width}, dtype);
  rows.set_values(all.data(), DType::f32);
  return rows;
}

/// Decays of tokens that do not change the state become 1.
Tensor without_decay(Context& context, const Tensor& w, const std::vector<float>& changes_state) {
  constexpr float kNoDecay = -1e9f;
  std::vector<float> offsets;
  offsets.reserve(changes_state.size());
  for (float changes : changes_state) offsets.push_back((1 - changes) * kNoDecay);
  return add(context, w, rows_of(context, offsets, w.size(1), w.dtype()));
}

}  // namespace

LayerNorm add_layer_norm_layer(ParameterStore& store, const std::string& name, int64_t width, double eps) {
  LayerNorm norm{.eps = eps};
  for (const Parameter** vector : {&norm.weight, &norm.bias}) {
    Parameter& parameter = store.add(name + (vector == &norm.weight ? ".weight" : ".bias"), {width});
    parameter.is_norm = true;
    *vector = &parameter;
  }
  return norm;
}

Tensor LayerNorm::forward(Context& context, const Tensor& x) const {
  return layer_norm(context, x, {.weight = &weight->value, .bias = &bias->value}, eps);
}

std::vector<CacheState> recurrent_states(
    int64_t heads, int64_t width, DType dtype, const TimeMix& time_mix, const ChannelMix& channel_mix) {
  DType matrix_dtype = dtype == DType::f64 ? DType::f64 : DType::f32;
  return {{{heads, time_mix.head_size, time_mix.head_size}, matrix_dtype, time_mix.initial_state},
          {{width}, dtype, time_mix.initial_shift},
          {{width}, dtype, channel_mix.initial_shift}};
}

Tensor TimeMix::forward(Context& context, const Tensor& x, const RecurrentPass& pass) const {
  Tensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
  Tensor difference = add(
      context, shifted(context, whole, pass, kStatesPerLayer * layer + 1, initial_shift), scale(context, whole, -1));
  Tensor base = mixed(context, whole, difference, *base_mix);
  std::vector<Tensor> inner = column_parallel(
      context, base, std::array{&mixes[0].down, &mixes[1].down, &mixes[2].down, &mixes[3].down, &mixes[4].down});
  std::array<Tensor, 5> inputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor factor = linear(context, activation(context, inner[i], Activation::tanh), mixes[i].up.parameters());
    inputs[i] = add(context, whole, product(context, factor, difference));
  }
  Tensor r = column_parallel(context, inputs[0], std::array{&receptance})[0];
  Tensor k = column_parallel(context, inputs[1], std::array{&key})[0];
  Tensor v = column_parallel(context, inputs[2], std::array{&value})[0];
  Tensor narrow = activation(context, linear(context, inputs[3], decay.down.parameters()), Activation::tanh);
  LinearParameters decay_up = decay.up.parameters();
  // A decay is an exponential of an exponential: it stays in f32.
  DType decay_dtype = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor w = linear_group(context, narrow, {&decay_up, 1}, decay_dtype)[0];
  Tensor g = column_parallel(context, inputs[4], std::array{&gate})[0];
  if (!pass.changes_state.empty()) {
    Tensor changes = rows_of(context, pass.changes_state, k.size(1), k.dtype());
    k = product(context, changes, k);
    v = product(context, changes, v);
    w = without_decay(
        context, product(context, rows_of(context, pass.changes_state, w.size(1), w.dtype()), w), pass.changes_state);
  }
  WkvInputs given{.r = &r, .k = &k, .v = &v, .w = &w, .u = &bonus->value};
  Tensor state;
  if (initial_state != nullptr && pass.cache == nullptr) {
    state = widen(context, initial_state->value, w.dtype()).reshape({1, k.size(1) / head_size, head_size, head_size});
    given.state = &state;
  }
  Tensor y = pass.cache == nullptr
                 ? wkv(context, given, pass.spans, head_size)
                 : cached_wkv(context, given, pass.cache->state(kStatesPerLayer * layer), pass.spans, head_size);
  Tensor weight = norm_weight->value, bias = norm_bias->value;
  if (inner_norm_weight != nullptr) {
    // weight · (normed · inner weight + inner bias) + bias, as one weight and bias.
    Shape by_head = {weight.num_elements() / head_size, head_size};
    Tensor outer = weight.reshape(by_head);
    weight = scale_columns(context, outer, inner_norm_weight->value);
    bias = add(context, scale_columns(context, outer, inner_norm_bias->value), bias.reshape(by_head));
  }
  y = head_norm(context, y, weight, bias, head_size, norm_eps);
  return row_parallel(context, gated_activation(context, g, y, Activation::silu), output);
}

Tensor ChannelMix::forward(Context& context, const Tensor& x, const RecurrentPass& pass) const {
  Tensor whole = enter_tensor_parallel(context, x, pass.num_tokens);
  Tensor difference = add(
      context, shifted(context, whole, pass, kStatesPerLayer * layer + 2, initial_shift), scale(context, whole, -1));
  Tensor key_input = mixed(context, whole, difference, *key_mix);
  Tensor receptance_input = mixed(context, whole, difference, *receptance_mix);
  Tensor k = activation(context, column_parallel(context, key_input, std::array{&key})[0], Activation::squared_relu);
  Tensor part = column_parallel(context, k, std::array{&value})[0];
  // Each rank has a part of the sum; the factor is the same for all.
  Tensor r = column_parallel(context, receptance_input, std::array{&receptance})[0];
  return leave_tensor_parallel(context, gated_activation(context, r, part, Activation::sigmoid));
}

}  // namespace weft
