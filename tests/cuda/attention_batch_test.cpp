// Which calls of attention are one dense batch. Nothing is computed, so that no GPU is needed.
#include "kernels/cuda/attention_batch.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weft::cuda {
namespace {

alignas(16) std::byte memory[1 << 16];

const void* element(int64_t index) {
  return memory + 2 * index;
}

/// Two sequences of 10 queries and 12 keys, six heads of 8 on two, packed.
class Call {
 public:
  Call() {
    for (int64_t b = 0; b < 2; ++b) {
      sequences.push_back({.query_begin = 3 + b * 10,
                           .query_count = 10,
                           .key_count = 12,
                           .keys = element(b * 12 * 16),
                           .values = element(4096 + b * 12 * 16),
                           .key_token_stride = 16,
                           .key_head_stride = 8});
    }
  }

  std::string obstacle(AttentionBatch* batch = nullptr) {
    args.q = args.out = memory;
    args.sequences = sequences;
    AttentionBatch found;
    const char* text = find_batch(args, found);
    if (batch != nullptr) *batch = found;
    return text == nullptr ? "" : text;
  }

  std::vector<AttentionSequence> sequences;
  AttentionForwardArgs args{
      .sequences = {}, .num_heads = 6, .num_kv_heads = 2, .head_dim = 8, .mask = {}, .dtype = DType::bf16};
};

TEST(AttentionBatch, IsWhereSequencesAreAlikeAndEvenlySpaced) {
  Call call;
  AttentionBatch batch;
  EXPECT_EQ(call.obstacle(&batch), "");
  EXPECT_EQ(batch.query_begin, 3);
  EXPECT_EQ(batch.keys, element(0));
  EXPECT_EQ(batch.values, element(4096));
  EXPECT_EQ(batch.shape,
            (AttentionBatchShape{.batch = 2,
                                 .query_count = 10,
                                 .key_count = 12,
                                 .num_heads = 6,
                                 .num_kv_heads = 2,
                                 .head_dim = 8,
                                 .query_step = 10,
                                 .key_token_stride = 16,
                                 .key_head_stride = 8,
                                 .key_batch_stride = 12 * 16,
                                 .scale = 1,
                                 .soft_cap = 0,
                                 .window = 0,
                                 .causal = true}));
}

TEST(AttentionBatch, OfOneSequenceHasStridesThatHoldIt) {
  Call call;
  call.sequences.resize(1);
  AttentionBatch batch;
  EXPECT_EQ(call.obstacle(&batch), "");
  EXPECT_EQ(batch.shape.query_step, 10);
  EXPECT_EQ(batch.shape.key_batch_stride, 12 * 16);
  call.sequences[0].key_token_stride = 8;
  call.sequences[0].key_head_stride = 20 * 8;
  EXPECT_EQ(call.obstacle(&batch), "");
  EXPECT_EQ(batch.shape.key_batch_stride, 2 * 20 * 8);
}

TEST(AttentionBatch, IsNotWhereSequencesDiffer) {
  for (int what = 0; what < 6; ++what) {
    SCOPED_TRACE(what);
    Call call;
    AttentionSequence& second = call.sequences[1];
    if (what == 0) second.query_count = 9;
    if (what == 1) second.key_count = 11;
    if (what == 2) second.key_token_stride = 32;
    if (what == 3) second.values = element(4096 + 13 * 16);
    if (what == 4) call.sequences.push_back(second);  // where the second lies, not behind it
    if (what == 5) second.keys = call.sequences[0].keys, second.values = call.sequences[0].values;
    EXPECT_NE(call.obstacle(), "");
  }
}

TEST(AttentionBatch, IsNotWhereMoreThanAMaskIsAskedFor) {
  const int32_t limits[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  for (int what = 0; what < 8; ++what) {
    SCOPED_TRACE(what);
    Call call;
    if (what == 0) call.args.dtype = DType::f32;
    if (what == 1) call.args.bias.values = memory;
    if (what == 2) call.args.dropout.probability = 0.1f;
    if (what == 3) call.sequences[1].visible_keys = limits;
    if (what == 4) call.args.mask.scale = 0;
    if (what == 5) call.args.head_dim = 12;
    if (what == 6) call.args.num_kv_heads = 4;
    if (what == 7) call.sequences.clear();
    EXPECT_NE(call.obstacle(), "");
  }
}

TEST(AttentionBatch, IsNotOfArraysWithoutAlignment) {
  for (int what = 0; what < 2; ++what) {
    SCOPED_TRACE(what);
    Call call;
    if (what == 0) {
      for (AttentionSequence& sequence : call.sequences) sequence.keys = static_cast<const char*>(sequence.keys) + 2;
    }
    if (what == 1) {
      for (AttentionSequence& sequence : call.sequences) sequence.key_token_stride = 17;
    }
    EXPECT_NE(call.obstacle(), "");
  }
}

// Rows that see no key are for our own kernels.
TEST(AttentionBatch, HasNoMoreQueriesThanKeysUnderADiagonal) {
  Call call;
  for (AttentionSequence& sequence : call.sequences) sequence.key_count = 9;
  EXPECT_NE(call.obstacle(), "");
  call.args.mask.causal = false;
  EXPECT_EQ(call.obstacle(), "");
  call.args.mask.window = 5;
  EXPECT_NE(call.obstacle(), "");
}

TEST(AttentionBatch, HasNoWindowThatLeavesNothingOut) {
  Call call;
  for (int64_t window : {0, 11, 12, 100}) {
    AttentionBatch batch;
    call.args.mask.window = window;
    EXPECT_EQ(call.obstacle(&batch), "");
    EXPECT_EQ(batch.shape.window, window == 11 ? 11 : 0);
  }
}

TEST(AttentionBatch, OfBackwardHasPackedKeys) {
  Call call;
  AttentionBackwardArgs args{.q = memory,
                             .k = element(1024),
                             .v = element(2048),
                             .out = memory,
                             .dout = memory,
                             .dq = memory,
                             .dk = memory,
                             .dv = memory,
                             .sequences = call.sequences,
                             .num_heads = 6,
                             .num_kv_heads = 2,
                             .head_dim = 8,
                             .mask = {},
                             .dtype = DType::bf16};
  AttentionBatch batch;
  EXPECT_EQ(find_batch(args, batch), nullptr);
  EXPECT_EQ(batch.keys, element(1024));
  EXPECT_EQ(batch.values, element(2048));
  EXPECT_EQ(batch.shape.key_token_stride, 16);
  EXPECT_EQ(batch.shape.key_head_stride, 8);
  EXPECT_EQ(batch.shape.key_batch_stride, 12 * 16);
  args.dk = memory + 2;
  EXPECT_NE(find_batch(args, batch), nullptr);
}

}  // namespace
}  // namespace weft::cuda
