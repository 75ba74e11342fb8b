// How the forward pass of attention over many queries is cut into tiles of queries, each a thread block a head.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cuda/device.h"

namespace weft::cuda {

/// An AttentionSequence as a block reads it.
struct TileSequence {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t key_head_stride = 0;
  int64_t query_begin = 0;
  int64_t bias_origin = 0;
  int32_t key_token_stride = 0;
  int32_t query_count = 0, key_count = 0;
  int32_t first_tile = 0;     // where the sequence's tiles begin
  int32_t first_visible = 0;  // where its numbers of visible keys begin; below 0: the mask says
};

/// A tile of an uploaded list.
struct TilePlace {
  int32_t sequence = 0;
  int32_t first_query = 0;
};

inline constexpr int kInlineSequences = 32;

/// What a kernel takes by value: a few sequences themselves, whose tiles follow one another; else the addresses of
/// uploaded lists.
struct TileList {
  const TileSequence* sequences = nullptr;  // null: `inlined`
  const TilePlace* tiles = nullptr;
  const int32_t* visible_keys = nullptr;
  int32_t num_sequences = 0;
  int32_t rows = 0;            // queries of a tile
  bool is_last_first = false;  // inlined: the tiles of a sequence begin with its last queries, which see most keys
  TileSequence inlined[kInlineSequences];
};

/// The tiles of a call and the memory that its list needs until the kernel is launched. The dearest tiles come first,
/// so that the blocks end together.
class AttentionTiles {
 public:
  AttentionTiles(const AttentionForwardArgs& args, int rows, CudaDevice& device);

  const TileList& list() const { return list_; }
  /// Tiles of all sequences.
  int64_t count() const { return count_; }
  /// The sequences in the order of the list.
  const std::vector<TileSequence>& sequences() const { return converted_; }

 private:
  void upload(const AttentionForwardArgs& args, CudaDevice& device);

  TileList list_;
  int64_t count_ = 0;
  std::vector<AttentionSequence> sequences_;  // those with queries, as in the list
  std::vector<TileSequence> converted_;
  std::optional<DeviceBuffer<char>> uploaded_;
};

/// What the forward kernels take besides the tiles. Scores are kept in units of log2, so that weights are powers of
/// two.
struct ForwardParams {
  const void* q = nullptr;
  void* out = nullptr;
  float* log_sum_exp = nullptr;
  const float* bias = nullptr;
  int64_t bias_stride = 0;
  int32_t num_heads = 0, group = 0, head_dim = 0;
  int32_t window = 0;  // 0: none
  bool causal = false;
  bool is_wide = false;     // every row consists of whole aligned pieces of 16 bytes
  bool is_curved = false;   // the score is more than factor · product with a factor above zero
  float factor = 0;         // scale · log2(e)
  float cap = 0;            // soft_cap · log2(e); 0: none
  float cap_inner = 0;      // what tanh takes is cap_inner · product
  float cap_terms[5] = {};  // small products p become p · Σ cap_terms[i] · p^2i
};

ForwardParams forward_params(const AttentionForwardArgs& args);

/// What the kernels that drop weights take.
struct DroppingForwardParams : ForwardParams {
  explicit DroppingForwardParams(const AttentionForwardArgs& args)
      : ForwardParams(forward_params(args)), dropout(args.dropout) {}
  AttentionDropout dropout;
};

/// The forward pass of f32, and that of bf16 for all heads and devices.
void attention_forward_f32(const AttentionForwardArgs& args, CudaDevice& device);
void attention_forward_mma(const AttentionForwardArgs& args, CudaDevice& device);
/// What attention_forward_mma does where weights are dropped.
void attention_forward_mma_dropout(const AttentionForwardArgs& args, CudaDevice& device);

/// That of bf16 for many queries on compute capability 9.0a. False, with nothing done: not on this device, or not for
/// heads of this size, or these addresses and strides.
bool attention_forward_wgmma(const AttentionForwardArgs& args, CudaDevice& device);

/// The backward pass of both dtypes for all heads and devices.
void attention_backward_two_passes(const AttentionBackwardArgs& args, CudaDevice& device);

/// The backward pass of bf16 on compute capability 9.0a. False, with no gradient touched: not on this device, or not
/// for heads of this size, biases, dropped weights, these addresses, or sequences so short that they would mostly be
/// padding.
bool attention_backward_wgmma(const AttentionBackwardArgs& args, CudaDevice& device);

/// Heads of fewer dims are not for attention_backward_wgmma.
int64_t least_one_pass_head_dim();

}  // namespace weft::cuda
