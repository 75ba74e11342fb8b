// What the blocks of attention's backward in one pass shall do, decided on the host.
//
// A block owns a tile of keys. What its keys add to dq of a tile of queries goes to memory after what the keys before
// them add, so that the sums have one order: the blocks of a sequence and head are a chain. They go through the queries
// alike, from the last to the first, and those of earlier keys begin earlier, so that hardly one has to wait for
// another. None can wait for ever, since blocks take their places in the list when they begin, and what a place waits
// for stands before it.
#pragma once

#include "kernels/cuda/attention_backward_plan.cuh"

namespace weft::cuda {

class BackwardChains : public BackwardSequences {
 public:
  /// `places`: how many blocks run at once.
  BackwardChains(const AttentionBackwardArgs& args, ChainSizes sizes, int places)
      : BackwardSequences(args), sizes_(sizes), places_(std::max(places, 1)) {
    queries_per_key_ = args.num_heads / args.num_kv_heads;
    int64_t key_begin = 0;
    for (const AttentionSequence& sequence : args.sequences) {
      add_sequence(sequence, key_begin);
      key_begin += sequence.key_count;
      add_tiles(sequence);
    }
    choose_share();
    list_keys();
  }

  /// Rows of queries in whole tiles.
  int64_t padded_queries() const { return static_cast<int64_t>(query_tiles_.size()) * sizes_.queries; }

 private:
  static constexpr int64_t kLeastShare = 8;

  /// The tiles of a sequence, of keys for one head.
  struct Chain {
    std::vector<BackwardTile> tiles;
    int64_t query_tiles = 0;
    int64_t steps = 0;
  };
  /// A tile's steps or some of them. Its price is that of the dearest piece of the same queries that comes after it in
  /// the chain, if that is dearer.
  struct Piece {
    BackwardTile tile;
    int64_t price = 0;
  };

  int64_t steps_of(const BackwardTile& tile) const {
    return int64_t{tile.other_end - tile.other_begin} / sizes_.queries * queries_per_key_;
  }

  void add_tiles(const AttentionSequence& sequence) {
    int number = static_cast<int>(sequences_.size()) - 1;
    Chain& chain = chains_.emplace_back();
    chain.query_tiles = ceil_div(sequence.query_count, sizes_.queries);
    sequences_.back().first_query_tile = static_cast<int>(query_tiles_.size());
    for (int64_t query = 0; query < sequence.query_count; query += sizes_.queries) {
      query_tiles_.push_back({.sequence = number, .begin = static_cast<int>(query)});
    }
    for (int64_t key = 0; key < sequence.key_count; key += sizes_.keys) {
      int64_t begin = first_query(sequence, [&](int64_t query) { return seen_end(sequence, query) > key; });
      int64_t end =
          first_query(sequence, [&](int64_t query) { return seen_begin(sequence, query) >= key + sizes_.keys; });
      BackwardTile& tile = chain.tiles.emplace_back();
      tile.sequence = number;
      tile.begin = static_cast<int>(key);
      if (begin < end) {
        tile.other_begin = static_cast<int>(begin / sizes_.queries * sizes_.queries);
        tile.other_end = static_cast<int>(ceil_div(end, sizes_.queries) * sizes_.queries);
      }
      chain.steps += steps_of(tile);
    }
  }

  /// Where the tiles are too few to keep all places busy, they are cut where their queries reach multiples of a share,
  /// so that what waits for each other has the same queries and goes at the same pace.
  void choose_share() {
    int64_t total = 0, most = 0;
    for (const Chain& chain : chains_) {
      total += chain.steps * args_.num_kv_heads;
      for (const BackwardTile& tile : chain.tiles) most = std::max(most, steps_of(tile));
    }
    int64_t even = total / places_;
    if (most <= even + even / 4) return;
    int64_t wanted = std::max(even / 2, kLeastShare);
    share_ = ceil_div(most, ceil_div(most, wanted));
  }

  /// A tile's pieces at the places in `pieces` that their steps from the sequence's last queries on give them.
  void cut(const Chain& chain, const BackwardTile& tile, std::vector<Piece>& pieces) const {
    int64_t steps = steps_of(tile);
    int64_t first = (chain.query_tiles - tile.other_end / sizes_.queries) * queries_per_key_;
    if (steps == 0) first = 0;
    int64_t step = 0;
    do {
      int64_t room = share_ - (first + step) % share_;
      int64_t count = std::min(room, steps - step);
      auto place = static_cast<size_t>((first + step) / share_);
      if (pieces.size() <= place) pieces.resize(place + 1);
      pieces[place].tile = tile;
      pieces[place].tile.first_step = static_cast<int>(step);
      pieces[place].tile.end_step = static_cast<int>(step + count);
      pieces[place].price = count;
      step += count;
    } while (step < steps);
  }

  /// [tile][place] of a chain; places without steps have an end_step that was left as it is made.
  std::vector<std::vector<Piece>> pieces_of(const Chain& chain) const {
    std::vector<std::vector<Piece>> pieces(chain.tiles.size());
    std::vector<int64_t> dearest;
    for (size_t i = chain.tiles.size(); i-- > 0;) {
      cut(chain, chain.tiles[i], pieces[i]);
      if (dearest.size() < pieces[i].size()) dearest.resize(pieces[i].size(), 0);
      for (size_t place = 0; place < pieces[i].size(); ++place) {
        dearest[place] = std::max(dearest[place], pieces[i][place].price);
        pieces[i][place].price = dearest[place];
      }
    }
    return pieces;
  }

  /// A chain of a head joins those that run at the same time.
  void append_chain(std::vector<std::vector<Piece>> pieces, int head, std::vector<Piece>& listed) {
    for (std::vector<Piece>& of_tile : pieces) {
      std::erase_if(of_tile, [](const Piece& piece) { return piece.tile.end_step == BackwardTile{}.end_step; });
      for (Piece& piece : of_tile) piece.tile.head = head;
      if (of_tile.size() > 1) {
        const BackwardTile& tile = of_tile.front().tile;
        splits_.push_back({.sequence = tile.sequence,
                           .begin = tile.begin,
                           .head = head,
                           .first_partial = num_partials_,
                           .num_partials = static_cast<int>(of_tile.size())});
        for (Piece& piece : of_tile) piece.tile.partial = num_partials_++;
      }
      listed.insert(listed.end(), of_tile.begin(), of_tile.end());
    }
  }

  /// Chains come in turns of about as many tiles as run at once twice, so that what they share stays in the cache;
  /// within a turn the dearest pieces first, so that the blocks end together.
  void list_keys() {
    std::vector<const Chain*> chains;
    for (const Chain& chain : chains_) chains.push_back(&chain);
    std::stable_sort(chains.begin(), chains.end(), [](const Chain* a, const Chain* b) { return a->steps > b->steps; });
    std::vector<Piece> turn;
    auto end_turn = [&] {
      std::stable_sort(turn.begin(), turn.end(), [](const Piece& a, const Piece& b) { return a.price > b.price; });
      for (const Piece& piece : turn) key_tiles_.push_back(piece.tile);
      turn.clear();
    };
    for (const Chain* chain : chains) {
      std::vector<std::vector<Piece>> pieces = pieces_of(*chain);
      for (int head = 0; head < static_cast<int>(args_.num_kv_heads); ++head) {
        append_chain(pieces, head, turn);
        if (static_cast<int64_t>(turn.size()) >= 2 * places_) end_turn();
      }
    }
    end_turn();
  }

  ChainSizes sizes_;
  int64_t places_, queries_per_key_ = 1;
  int64_t share_ = int64_t{1} << 40;  // steps of a piece
  std::vector<Chain> chains_;         // of one head each
};

}  // namespace weft::cuda
