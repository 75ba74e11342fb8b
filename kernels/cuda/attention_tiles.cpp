#include "kernels/cuda/attention_tiles.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cuda/check.h"

namespace weft::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

int64_t visible_end(const AttentionSequence& sequence, const AttentionMask& mask, int64_t query) {
  if (sequence.visible_keys != nullptr) return sequence.visible_keys[query];
  if (!mask.causal) return sequence.key_count;
  return std::min(sequence.key_count, sequence.key_count - sequence.query_count + query + 1);
}

int64_t visible_begin(const AttentionSequence& sequence, const AttentionMask& mask, int64_t query) {
  if (sequence.visible_keys != nullptr || mask.window <= 0) return 0;
  return std::max<int64_t>(0, sequence.key_count - sequence.query_count + query - mask.window + 1);
}

TileSequence convert(const AttentionSequence& sequence) {
  require(sequence.key_count <= kLargest && sequence.key_token_stride <= kLargest && sequence.query_count <= kLargest,
          "attention",
          "fewer than 2^31 keys and queries a sequence");
  return {.keys = sequence.keys,
          .values = sequence.values,
          .key_head_stride = sequence.key_head_stride,
          .query_begin = sequence.query_begin,
          .bias_origin = sequence.bias_origin,
          .key_token_stride = static_cast<int32_t>(sequence.key_token_stride),
          .query_count = static_cast<int32_t>(sequence.query_count),
          .key_count = static_cast<int32_t>(sequence.key_count),
          .first_tile = 0,
          .first_visible = -1};
}

bool is_multiple_of_16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

/// Whether all rows of q, out, keys and values are made of aligned pieces of 16 bytes.
bool has_wide_rows(const AttentionForwardArgs& args) {
  auto piece = static_cast<int64_t>(16 / dtype_bytes(args.dtype));
  bool is_wide = args.head_dim % piece == 0 && is_multiple_of_16(args.q) && is_multiple_of_16(args.out);
  for (const AttentionSequence& sequence : args.sequences) {
    is_wide = is_wide && is_multiple_of_16(sequence.keys) && is_multiple_of_16(sequence.values) &&
              sequence.key_token_stride % piece == 0 && sequence.key_head_stride % piece == 0;
  }
  return is_wide;
}

template <typename T>
size_t append(std::vector<char>& bytes, const std::vector<T>& values) {
  size_t at = (bytes.size() + 15) / 16 * 16;
  bytes.resize(at + values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof(T));
  return at;
}

struct CostlyTile {
  TilePlace place;
  int64_t cost = 0;
};

std::vector<TilePlace> dearest_first(const std::vector<AttentionSequence>& sequences,
                                     const AttentionMask& mask,
                                     int64_t rows) {
  std::vector<CostlyTile> tiles;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const AttentionSequence& sequence = sequences[s];
    for (int64_t query = 0; query < sequence.query_count; query += rows) {
      int64_t last = std::min(query + rows, sequence.query_count) - 1;
      tiles.push_back({{static_cast<int32_t>(s), static_cast<int32_t>(query)},
                       visible_end(sequence, mask, last) - visible_begin(sequence, mask, query)});
    }
  }
  std::stable_sort(
      tiles.begin(), tiles.end(), [](const CostlyTile& a, const CostlyTile& b) { return a.cost > b.cost; });
  std::vector<TilePlace> places;
  places.reserve(tiles.size());
  for (const CostlyTile& tile : tiles) places.push_back(tile.place);
  return places;
}

}  // namespace

AttentionTiles::AttentionTiles(const AttentionForwardArgs& args, int rows, CudaDevice& device) {
  bool has_limits = false;
  for (const AttentionSequence& sequence : args.sequences) {
    if (sequence.query_count <= 0) continue;
    sequences_.push_back(sequence);
    has_limits = has_limits || sequence.visible_keys != nullptr;
  }
  std::stable_sort(sequences_.begin(), sequences_.end(), [](const AttentionSequence& a, const AttentionSequence& b) {
    return a.key_count > b.key_count;
  });
  for (const AttentionSequence& sequence : sequences_) {
    converted_.push_back(convert(sequence));
    converted_.back().first_tile = static_cast<int32_t>(count_);
    count_ += (sequence.query_count + rows - 1) / rows;
    require(count_ <= kLargest, "attention", "fewer than 2^31 tiles of queries");
  }
  list_.num_sequences = static_cast<int32_t>(sequences_.size());
  list_.rows = rows;
  list_.is_last_first = args.mask.causal;
  if (converted_.size() <= kInlineSequences && !has_limits) {
    std::copy(converted_.begin(), converted_.end(), list_.inlined);
  } else {
    upload(args, device);
  }
}

void AttentionTiles::upload(const AttentionForwardArgs& args, CudaDevice& device) {
  std::vector<int32_t> visible;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    const AttentionSequence& sequence = sequences_[s];
    if (sequence.visible_keys == nullptr) continue;
    require(static_cast<int64_t>(visible.size()) + sequence.query_count <= kLargest, "attention", "fewer queries");
    converted_[s].first_visible = static_cast<int32_t>(visible.size());
    visible.insert(visible.end(), sequence.visible_keys, sequence.visible_keys + sequence.query_count);
  }
  std::vector<char> bytes;
  size_t sequences_at = append(bytes, converted_);
  size_t tiles_at = append(bytes, dearest_first(sequences_, args.mask, list_.rows));
  size_t visible_at = append(bytes, visible);
  if (bytes.empty()) return;
  uploaded_.emplace(uploaded(device, bytes.data(), static_cast<int64_t>(bytes.size())));
  list_.sequences = reinterpret_cast<const TileSequence*>(uploaded_->data() + sequences_at);
  list_.tiles = reinterpret_cast<const TilePlace*>(uploaded_->data() + tiles_at);
  list_.visible_keys = reinterpret_cast<const int32_t*>(uploaded_->data() + visible_at);
}

ForwardParams forward_params(const AttentionForwardArgs& args) {
  const AttentionMask& mask = args.mask;
  ForwardParams params;
  params.q = args.q;
  params.out = args.out;
  params.log_sum_exp = static_cast<float*>(args.log_sum_exp);
  params.bias = static_cast<const float*>(args.bias.values);
  params.bias_stride = args.bias.stride;
  params.num_heads = static_cast<int32_t>(args.num_heads);
  params.group = static_cast<int32_t>(args.num_heads / args.num_kv_heads);
  params.head_dim = static_cast<int32_t>(args.head_dim);
  // A window beyond every position is none.
  params.window = mask.window > 0 && mask.window <= kLargest ? static_cast<int32_t>(mask.window) : 0;
  params.causal = mask.causal;
  params.is_wide = has_wide_rows(args);
  params.factor = mask.scale * kLog2E;
  if (mask.soft_cap > 0) {
    params.cap = mask.soft_cap * kLog2E;
    params.cap_inner = mask.scale / mask.soft_cap;
    // tanh x / x up to |x| = 0.75 with an error below 1e-6 (a Chebyshev fit in x²).
    constexpr double kTerms[] = {0.999999452, -0.333283482, 0.132598308, -0.0500801901, 0.0129507279};
    double inner = params.cap_inner, term = params.cap * inner;
    for (int i = 0; i < 5; ++i, term *= inner * inner) params.cap_terms[i] = static_cast<float>(kTerms[i] * term);
  }
  // The order of products is that of scores only under a factor above zero, and masked products have to stay infinite.
  params.is_curved = mask.soft_cap > 0 || params.bias != nullptr || !(params.factor > 1e-30f);
  return params;
}

}  // namespace weft::cuda
