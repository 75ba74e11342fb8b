// What the blocks of attention's backward shall do, decided on the host.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_dropout.cuh"

namespace weft::cuda {

/// Sequences and tiles as the device wants them, and what queries see.
class BackwardSequences {
 public:
  static constexpr int64_t kMaxTokens = int64_t{1} << 30;

  /// Rows of q.
  int64_t tokens() const { return tokens_; }

  /// Everything in one copy; says in `params` and the tiles where it lies. The buffer may be freed after the launches.
  DeviceBuffer<std::byte> upload(CudaDevice& device,
                                 BackwardParams& params,
                                 BackwardTiles& keys,
                                 BackwardTiles& queries) const {
    std::vector<std::byte> bytes;
    size_t key_tiles = append(bytes, key_tiles_);
    size_t query_tiles = append(bytes, query_tiles_);
    size_t splits = append(bytes, splits_);
    size_t sequences = append(bytes, sequences_);
    size_t visible_keys = append(bytes, visible_keys_);
    DeviceBuffer<std::byte> buffer = uploaded(device, bytes.data(), static_cast<int64_t>(bytes.size()));
    keys = {.tiles = reinterpret_cast<const BackwardTile*>(buffer.data() + key_tiles),
            .count = static_cast<int64_t>(key_tiles_.size()),
            .heads = heads_of_key_tiles_,
            .splits = reinterpret_cast<const BackwardSplit*>(buffer.data() + splits),
            .num_splits = static_cast<int64_t>(splits_.size()),
            .num_partials = num_partials_};
    queries = {.tiles = reinterpret_cast<const BackwardTile*>(buffer.data() + query_tiles),
               .count = static_cast<int64_t>(query_tiles_.size()),
               .heads = static_cast<int>(args_.num_heads)};
    params.sequences = reinterpret_cast<const BackwardSequence*>(buffer.data() + sequences);
    params.visible_keys = reinterpret_cast<const int32_t*>(buffer.data() + visible_keys);
    return buffer;
  }

 protected:
  explicit BackwardSequences(const AttentionBackwardArgs& args) : args_(args) {}

  void add_sequence(const AttentionSequence& sequence, int64_t key_begin) {
    require(sequence.query_begin + sequence.query_count < kMaxTokens && key_begin + sequence.key_count < kMaxTokens,
            "attention_backward",
            "fewer than 2^30 tokens");
    BackwardSequence& added = sequences_.emplace_back();
    added.query_begin = static_cast<int>(sequence.query_begin);
    added.key_begin = static_cast<int>(key_begin);
    added.query_count = static_cast<int>(sequence.query_count);
    added.key_count = static_cast<int>(sequence.key_count);
    added.bias_origin = static_cast<int>(sequence.bias_origin);
    tokens_ = std::max(tokens_, sequence.query_begin + sequence.query_count);
    if (sequence.visible_keys == nullptr) return;
    added.visible_begin = static_cast<int>(visible_keys_.size());
    visible_keys_.insert(visible_keys_.end(), sequence.visible_keys, sequence.visible_keys + sequence.query_count);
  }

  int64_t seen_begin(const AttentionSequence& sequence, int64_t query) const {
    if (sequence.visible_keys != nullptr || args_.mask.window <= 0) return 0;
    int64_t position = sequence.key_count - sequence.query_count + query;
    return std::max<int64_t>(0, position - args_.mask.window + 1);
  }

  int64_t seen_end(const AttentionSequence& sequence, int64_t query) const {
    if (sequence.visible_keys != nullptr) return sequence.visible_keys[query];
    if (!args_.mask.causal) return sequence.key_count;
    return std::max<int64_t>(0, sequence.key_count - sequence.query_count + query + 1);
  }

  /// The first query for which `holds`, which then holds for all behind it.
  template <typename Condition>
  static int64_t first_query(const AttentionSequence& sequence, const Condition& holds) {
    int64_t low = 0, high = sequence.query_count;
    while (low < high) {
      int64_t middle = low + (high - low) / 2;
      if (holds(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  template <typename T>
  static size_t append(std::vector<std::byte>& bytes, const std::vector<T>& values) {
    size_t begin = (bytes.size() + 15) / 16 * 16;
    bytes.resize(begin + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes.data() + begin, values.data(), values.size() * sizeof(T));
    return begin;
  }

  const AttentionBackwardArgs& args_;
  int64_t tokens_ = 0;
  std::vector<BackwardSequence> sequences_;
  std::vector<BackwardTile> key_tiles_, query_tiles_;
  std::vector<BackwardSplit> splits_;
  int heads_of_key_tiles_ = 1;
  int num_partials_ = 0;

 private:
  std::vector<int32_t> visible_keys_;
};

/// Tiles of keys and of queries for a pass each.
class BackwardPlan : public BackwardSequences {
 public:
  /// `places`: how many blocks of the pass for keys run at once.
  BackwardPlan(const AttentionBackwardArgs& args, BackwardTileSizes sizes, int places) : BackwardSequences(args) {
    heads_of_key_tiles_ = static_cast<int>(args.num_kv_heads);
    int64_t key_begin = 0;
    for (const AttentionSequence& sequence : args.sequences) {
      add_sequence(sequence, key_begin);
      add_key_tiles(sequence, sizes.keys);
      add_query_tiles(sequence, sizes.queries);
      key_begin += sequence.key_count;
    }
    if (sizes.queries_of_keys > 0) share_key_tiles(sizes.queries_of_keys, std::max(places, 1));
    put_dearest_first(key_tiles_);
    put_dearest_first(query_tiles_);
  }

 private:
  // A block of the pass for keys spends about as much time beside its steps as on kStepsBeside of them.
  static constexpr int64_t kStepsBeside = 3, kLeastSteps = 4, kLeastShare = 8;
  static constexpr int kMostBlocks = 64;  // at a place, for which it is worth to be told of each

  void add_key_tiles(const AttentionSequence& sequence, int size) {
    for (int64_t key = 0; key < sequence.key_count; key += size) {
      int64_t begin = first_query(sequence, [&](int64_t query) { return seen_end(sequence, query) > key; });
      int64_t end = first_query(sequence, [&](int64_t query) { return seen_begin(sequence, query) >= key + size; });
      add_tile(key_tiles_, key, begin, end);
    }
  }

  void add_query_tiles(const AttentionSequence& sequence, int size) {
    for (int64_t query = 0; query < sequence.query_count; query += size) {
      int64_t last = std::min(query + size, sequence.query_count) - 1;
      int64_t begin = seen_begin(sequence, query);
      if (args_.dropout.drops()) begin = first_drawn_key(static_cast<int>(begin));
      add_tile(query_tiles_, query, begin, seen_end(sequence, last));
    }
  }

  void add_tile(std::vector<BackwardTile>& tiles, int64_t begin, int64_t other_begin, int64_t other_end) const {
    tiles.push_back({.sequence = static_cast<int>(sequences_.size()) - 1,
                     .begin = static_cast<int>(begin),
                     .other_begin = static_cast<int>(other_begin),
                     .other_end = static_cast<int>(std::max(other_begin, other_end))});
  }

  /// Lines up the steps of all tiles of keys and heads and cuts them into as many pieces as there are places, if the
  /// tiles alone would not end about together.
  void share_key_tiles(int queries_a_step, int places) {
    int64_t queries_per_key = args_.num_heads / args_.num_kv_heads, total = 0;
    int64_t least = std::numeric_limits<int64_t>::max(), most = 0;
    std::vector<int64_t> steps;
    for (const BackwardTile& tile : key_tiles_) {
      steps.push_back(ceil_div(tile.other_end - tile.other_begin, queries_a_step) * queries_per_key);
      total += steps.back() * args_.num_kv_heads;
      most = std::max(most, steps.back());
      if (steps.back() > 0) least = std::min(least, steps.back());
    }
    // Dearest first, what is left over at the end is about a tile of the cheapest.
    int64_t blocks = static_cast<int64_t>(key_tiles_.size()) * args_.num_kv_heads;
    int64_t share = std::max(ceil_div(total + kStepsBeside * (blocks + places), places), kLeastShare);
    if (most <= share / 2 && least <= share / 8) return;
    if (most <= kLeastShare + kLeastSteps) return;
    if (blocks > int64_t{kMostBlocks} * places) return;
    heads_of_key_tiles_ = 1;
    std::vector<BackwardTile> tiles = std::move(key_tiles_);
    key_tiles_.clear();
    int64_t room = share;
    for (int head = 0; head < args_.num_kv_heads; ++head) {
      for (size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].head = head;
        cut(tiles[i], steps[i], share, room);
      }
    }
  }

  /// Adds a tile of keys in pieces, the first of `room` steps, which becomes what the last piece leaves of its share.
  void cut(BackwardTile tile, int64_t steps, int64_t share, int64_t& room) {
    size_t first_piece = key_tiles_.size();
    int64_t step = 0;
    do {
      if (room < kLeastSteps) room = share;
      int64_t count = steps - step <= room + kLeastSteps ? steps - step : room;
      tile.first_step = static_cast<int>(step);
      tile.end_step = static_cast<int>(step + count);
      key_tiles_.push_back(tile);
      step += count;
      room -= count + kStepsBeside;
    } while (step < steps);
    size_t pieces = key_tiles_.size() - first_piece;
    if (pieces == 1) return;
    splits_.push_back({.sequence = tile.sequence,
                       .begin = tile.begin,
                       .head = tile.head,
                       .first_partial = num_partials_,
                       .num_partials = static_cast<int>(pieces)});
    for (size_t i = 0; i < pieces; ++i) key_tiles_[first_piece + i].partial = num_partials_++;
  }

  /// So that the blocks end together.
  static void put_dearest_first(std::vector<BackwardTile>& tiles) {
    std::stable_sort(
        tiles.begin(), tiles.end(), [](const BackwardTile& a, const BackwardTile& b) { return price(a) > price(b); });
  }

  /// Comparable among tiles of one kind: all whole, or all pieces.
  static int price(const BackwardTile& tile) {
    bool is_whole = tile.end_step == BackwardTile{}.end_step;
    return is_whole ? tile.other_end - tile.other_begin : tile.end_step - tile.first_step;
  }
};

}  // namespace weft::cuda
