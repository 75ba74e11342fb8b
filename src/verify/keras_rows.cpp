#include "verify/keras_rows.h"

#include "core/error.h"

namespace weft {
namespace {

/// Of `row` only (−1: all), and then without its padding.
void read_sources(VerifySession& session, const std::string& group, int64_t row, PackedRows& packed) {
  GoldenFile& golden = session.golden();
  std::string dataset = group + "/encoder_token_ids";
  if (ids_dataset(golden, group) == dataset) return;
  if (golden.has(dataset)) {
    GoldenIds ids = golden.ids(dataset);
    check_ids(session, dataset, ids);
    for (int64_t r = 0; r < ids.rows; ++r) {
      if (row >= 0 && r != row) continue;
      int64_t count = row >= 0 ? without_padding(ids, r) : ids.length;
      packed.batch.add_source(ids.prefix(r, count), r);
      for (int64_t t = 0; t < count; ++t) packed.source_positions.push_back((row >= 0 ? 0 : r * ids.length) + t);
    }
  } else if (golden.has(group + "/context")) {
    GoldenTensor context = golden.tensor(group + "/context");
    if (context.shape.rank() != 3) fail_input("golden file {}: {}/context is no stack of rows", golden.path(), group);
    int64_t length = context.shape[1];
    int64_t first = row >= 0 ? row : 0;
    int64_t rows = row >= 0 ? 1 : context.shape[0];
    Batch& batch = packed.batch;
    batch.source_states = session.context().empty({rows * length, context.width()}, session.dtype());
    batch.source_states.set_values(context.values.data() + first * length * context.width(), DType::f32);
    for (int64_t r = 0; r < rows; ++r) batch.sources.push_back({.begin = r * length, .length = length, .slot = r});
  }
}

}  // namespace

std::string ids_dataset(const GoldenFile& golden, const std::string& group) {
  for (const char* name : {"/token_ids", "/decoder_token_ids", "/encoder_token_ids"}) {
    if (golden.has(group + name)) return group + name;
  }
  return group + "/token_ids";
}

bool has_ids(const GoldenFile& golden, const std::string& group) {
  return golden.has(ids_dataset(golden, group));
}

int64_t without_padding(const GoldenIds& ids, int64_t row) {
  int64_t length = ids.length;
  while (length > 1 && ids.at(row, length - 1) == 0) --length;
  return length;
}

KerasRows read_keras_rows(VerifySession& session, const std::string& group, int64_t row, int64_t length) {
  GoldenFile& golden = session.golden();
  GoldenIds ids = golden.ids(ids_dataset(golden, group));
  check_ids(session, ids_dataset(golden, group), ids);
  auto optional = [&](const char* name) {
    std::string dataset = group + "/" + name;
    GoldenIds read = golden.has(dataset) ? golden.ids(dataset) : GoldenIds{};
    if (!read.values.empty() && read.rows != ids.rows) {
      fail_input("golden file {}: {} has {} rows for {} of ids", golden.path(), dataset, read.rows, ids.rows);
    }
    return read;
  };
  GoldenIds segments = optional("segment_ids");
  GoldenIds positions = optional("position_ids");
  GoldenIds scored = optional("mask_positions");
  GoldenTensor states = golden.has(group + "/state") ? golden.tensor(group + "/state") : GoldenTensor{};
  bool masks_padding = session.model().info().seed_masks_padding;
  KerasRows rows;
  read_sources(session, group, row, rows.packed);
  Batch& batch = rows.packed.batch;
  for (int64_t r = 0; r < ids.rows; ++r) {
    if (row >= 0 && r != row) continue;
    if (!states.values.empty()) {
      size_t width = states.values.size() / static_cast<size_t>(ids.rows);
      auto first = states.values.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(r) * width);
      rows.states.insert(rows.states.end(), first, first + static_cast<std::ptrdiff_t>(width));
    }
    int64_t count = length > 0 ? length : ids.length;
    while (masks_padding && count > 1 && ids.at(r, count - 1) == 0) --count;
    int64_t begin = batch.num_tokens();
    batch.add(ids.prefix(r, count),
              segments.values.empty() ? std::vector<int32_t>(static_cast<size_t>(count)) : segments.prefix(r, count),
              0,
              r);
    for (int64_t t = 0; t < count; ++t) {
      rows.packed.positions.push_back((row >= 0 ? 0 : r * ids.length) + t);
      if (!positions.values.empty()) batch.position_ids.push_back(positions.at(r, t));
    }
    for (int64_t s = 0; s < scored.length; ++s) {
      if (scored.at(r, s) < 0 || scored.at(r, s) >= count) continue;
      rows.scored.push_back(static_cast<int32_t>(begin + scored.at(r, s)));
      rows.scored_positions.push_back((row >= 0 ? 0 : r * scored.length) + s);
    }
  }
  if (golden.has(group + "/condition")) {
    GoldenTensor condition = golden.tensor(group + "/condition");
    int64_t first = row >= 0 ? row : 0;
    int64_t count = row >= 0 ? 1 : ids.rows;
    batch.condition = session.context().empty({count, condition.width()}, session.dtype());
    batch.condition.set_values(condition.values.data() + first * condition.width(), DType::f32);
  }
  return rows;
}

}  // namespace weft
