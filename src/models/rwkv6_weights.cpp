#include "models/rwkv6_weights.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "models/registry.h"
#include "models/weight_rows.h"

namespace weft {
namespace {

/// In the order of the official tensors time_maa_w1 and time_maa_w2.
constexpr std::array kMixNames = {"w", "k", "v", "r", "g"};

WeightMap official_weights() {
  constexpr WeightTransform kFlat = WeightTransform::flat_vector;
  WeightMap map;
  std::string att = "blocks.{i}.att.", ffn = "blocks.{i}.ffn.";
  auto& rows = map.rows;
  rows = {{"emb.weight", "emb.weight"},
          {"head.weight", "head.weight"},
          {att + "mix_x", att + "time_maa_x", kFlat},
          {att + "bonus", att + "time_faaaa", WeightTransform::head_vectors},
          {att + "decay.down.weight", att + "time_decay_w1", WeightTransform::transpose},
          {att + "decay.up.weight", att + "time_decay_w2", WeightTransform::transpose},
          {att + "decay.up.bias", att + "time_decay", kFlat},
          {ffn + "mix_k", ffn + "time_maa_k", kFlat},
          {ffn + "mix_r", ffn + "time_maa_r", kFlat}};
  for (const char* norm : {"ln_out", "blocks.0.ln0", "blocks.{i}.ln1", "blocks.{i}.ln2", "blocks.{i}.att.ln_x"}) {
    add_pair(rows, norm, norm, kTorch);
  }
  for (const char* part : {"receptance", "key", "value", "gate", "output"}) {
    rows.push_back({att + part + ".weight", att + part + ".weight"});
  }
  for (const char* part : {"receptance", "key", "value"}) {
    rows.push_back({ffn + part + ".weight", ffn + part + ".weight"});
  }
  return map;
}

WeightMap huggingface_weights(int64_t mix_rank) {
  WeightMap map = official_weights();
  std::string att = "blocks.{i}.att.";
  auto count = static_cast<int64_t>(kMixNames.size());
  for (int64_t i = 0; i < count; ++i) {
    std::string name = kMixNames[static_cast<size_t>(i)];
    std::string mix = fmt::format("{}mix_{}", att, name);
    map.rows.push_back(
        {mix + ".down.weight", att + "time_maa_w1", WeightTransform::transpose, {i * mix_rank, count * mix_rank}});
    map.rows.push_back({mix + ".up.weight", att + "time_maa_w2", WeightTransform::stacked, {i, count}});
    map.rows.push_back({mix + ".up.bias", fmt::format("{}time_maa_{}", att, name), WeightTransform::flat_vector});
  }
  map.implied = {{att + "ln_x.inner.weight", 1}, {att + "ln_x.inner.bias", 0}};
  return map;
}

WeightMap keras_weights() {
  constexpr WeightTransform kTranspose = WeightTransform::transpose;
  constexpr WeightTransform kHeads = WeightTransform::head_vectors;
  WeightMap map;
  auto& rows = map.rows;
  std::string att = "blocks.{i}.att.", ffn = "blocks.{i}.ffn.";
  std::string time = "layers/time_mix{#i}/", channel = "layers/channel_mix{#i}/";
  rows = {{"emb.weight", "layers/embedding/vars/0"},
          {"head.weight", "layers/dense/vars/0", kTranspose},
          {att + "mix_x", time + "vars/0"},
          {att + "bonus", time + "vars/1", kHeads},
          {att + "ln_x.weight", time + "group_norm/vars/0", kHeads},
          {att + "ln_x.bias", time + "group_norm/vars/1", kHeads},
          {att + "ln_x.inner.weight", time + "group_norm/group_ln/vars/0"},
          {att + "ln_x.inner.bias", time + "group_norm/group_ln/vars/1"},
          {ffn + "mix_k", channel + "vars/0"},
          {ffn + "mix_r", channel + "vars/1"},
          {ffn + "key.weight", channel + "dense_key/vars/0", kTranspose},
          {ffn + "value.weight", channel + "dense_value/vars/0", kTranspose},
          {ffn + "receptance.weight", channel + "dense_receptance/vars/0", kTranspose}};
  add_pair(rows, "blocks.0.ln0", "layers/layer_normalization", kKerasOwnNorm);
  add_pair(rows, "blocks.{i}.ln1", "layers/layer_normalization{#2i+1}", kKerasOwnNorm);
  add_pair(rows, "blocks.{i}.ln2", "layers/layer_normalization{#2i+2}", kKerasOwnNorm);
  add_pair(rows, "ln_out", "layers/layer_normalization{#2L+1}", kKerasOwnNorm);
  struct Named {
    const char *ours, *theirs;
  };
  for (const Named& part : {Named{"receptance", "r"}, {"key", "k"}, {"value", "v"}, {"gate", "g"}, {"output", "o"}}) {
    rows.push_back({att + part.ours + ".weight", time + "dense_" + part.theirs + "/vars/0", kTranspose});
  }
  auto add_low_rank = [&](const std::string& ours, const std::string& theirs) {
    rows.push_back({ours + ".down.weight", theirs + "/dense_a/vars/0", kTranspose});
    rows.push_back({ours + ".up.weight", theirs + "/dense_b/vars/0", kTranspose});
    rows.push_back({ours + ".up.bias", theirs + "/dense_b/vars/1"});
  };
  for (const char* name : kMixNames) add_low_rank(att + "mix_" + name, time + "dense_x" + name);
  add_low_rank(att + "decay", time + "dense_w");
  map.ignored = {"*seed_generator*"};
  return map;
}

/// Of a model from elsewhere: the norm inside each head's norm, which does nothing.

/// No other program's checkpoint has them.
WeightMap with_initial_states(WeightMap map) {
  for (const char* name :
       {"blocks.{i}.att.initial_state", "blocks.{i}.att.initial_shift", "blocks.{i}.ffn.initial_shift"}) {
    map.rows.push_back({name, name});
  }
  return map;
}

}  // namespace

WeightMap rwkv6_weights(ModelFormat format, int64_t mix_rank) {
  if (format == ModelFormat::huggingface) return with_initial_states(huggingface_weights(mix_rank));
  if (format == ModelFormat::keras_hdf5) return with_initial_states(keras_weights());
  fail_input("rwkv6 models do not exist as {} checkpoints", model_format_name(format));
}

}  // namespace weft
