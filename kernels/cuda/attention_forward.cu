// Which of the kernels for attention over many queries a call takes. On compute capability 9.0
// attention_forward_wgmma.cu does the most of bf16.
#include "kernels/cuda/attention_forward_mma.cuh"
#include "kernels/cuda/attention_parts.h"

namespace weft::cuda {
namespace {

template <int width, int row_tiles, int keys>
void launch_curved(const AttentionForwardArgs& args, const ForwardParams& params, CudaDevice& device) {
  if (params.is_curved) {
    launch<Shape<width, row_tiles, keys, true>>(args, params, device);
  } else {
    launch<Shape<width, row_tiles, keys, false>>(args, params, device);
  }
}

/// Whether tiles of 128 queries are enough for two blocks a multiprocessor, and filled by some sequence.
bool has_many_queries(const AttentionForwardArgs& args, const CudaDevice& device) {
  int64_t tiles = 0, longest = 0;
  for (const AttentionSequence& sequence : args.sequences) {
    tiles += ceil_div(sequence.query_count, 128);
    longest = sequence.query_count > longest ? sequence.query_count : longest;
  }
  return longest > 64 && tiles * args.num_heads >= 2 * static_cast<int64_t>(device.num_multiprocessors());
}

template <int width>
void launch_by_length(const AttentionForwardArgs& args, const ForwardParams& params, CudaDevice& device) {
  if (has_many_queries(args, device)) {
    launch_curved<width, 2, 64>(args, params, device);
  } else {
    launch_curved<width, 1, 64>(args, params, device);
  }
}

/// Whether its tiles of up to 192 queries are at least half full, and give half of the multiprocessors something to do.
bool suits_wgmma(const AttentionForwardArgs& args, const CudaDevice& device) {
  int64_t rows = args.head_dim <= 64 ? 192 : 128;
  int64_t tiles = 0, queries = 0;
  for (const AttentionSequence& sequence : args.sequences) {
    tiles += ceil_div(sequence.query_count, rows);
    queries += sequence.query_count;
  }
  return queries * 2 >= tiles * rows && tiles * args.num_heads * 2 >= device.num_multiprocessors();
}

}  // namespace

void attention_forward_mma(const AttentionForwardArgs& args, CudaDevice& device) {
  if (args.dropout.drops()) return attention_forward_mma_dropout(args, device);
  ForwardParams params = forward_params(args);
  if (args.head_dim <= 32) return launch_curved<32, 1, 64>(args, params, device);
  if (args.head_dim <= 64) return launch_by_length<64>(args, params, device);
  if (args.head_dim <= 96) return launch_curved<96, 2, 64>(args, params, device);
  if (args.head_dim <= 128) return launch_by_length<128>(args, params, device);
  if (args.head_dim <= 192) return launch_curved<192, 1, 32>(args, params, device);
  launch_curved<256, 1, 32>(args, params, device);
}

void attention_forward_tiles(const AttentionForwardArgs& args, CudaDevice& device) {
  require(args.head_dim >= 1 && args.head_dim <= 256, "attention", "a head_dim of 1 to 256");
  require(args.num_kv_heads > 0 && args.num_heads % args.num_kv_heads == 0,
          "attention",
          "query heads that are a multiple of the key heads");
  if (args.dtype == DType::f32) return attention_forward_f32(args, device);
  if (args.dtype != DType::bf16) fail_dtype("attention", args.dtype);
  if (!args.dropout.drops() && suits_wgmma(args, device) && attention_forward_wgmma(args, device)) return;
  attention_forward_mma(args, device);
}

}  // namespace weft::cuda
