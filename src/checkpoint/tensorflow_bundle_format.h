// What the reader and the writer of TensorFlow checkpoints share: types, names of files, keys of slices
// (tensorflow/core/framework/types.proto, core/util/tensor_bundle/naming.cc, core/util/saved_tensor_slice_util.cc).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "checkpoint/storage_type.h"

namespace weft {

namespace tensor_bundle {
class TensorSlice;
}

/// Null for types that Weft can't read.
const StorageType* bundle_storage_type(int number);

/// "STRING", "U16", …; "type 99" for what is unknown.
std::string bundle_type_name(int number);

int bundle_type_number(DType dtype);

/// PREFIX.data-00002-of-00003 for shard 2 of 3.
std::string bundle_shard_path(std::string_view prefix, int shard, int num_shards);

/// The key under which a slice of a partitioned variable has its entry. A dimension without a length is taken whole.
std::string bundle_slice_key(std::string_view name, const tensor_bundle::TensorSlice& slice);

}  // namespace weft
