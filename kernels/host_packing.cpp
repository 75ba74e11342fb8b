#include "kernels/host_packing.h"

#include <vector>

#include "core/error.h"
#include "kernels/cpu/quantized_weights.h"
#include "kernels/quantized_shape.h"

namespace weft {

void pack_on_host(const PackArgs& args, const Stream& stream) {
  WEFT_ASSERT(is_quantized(args.layout) && args.row_begin % kPackRowBlock == 0);
  QuantizedShape shape(args.in_features, args.layout);
  std::vector<std::byte> panels(static_cast<size_t>(shape.num_panels(args.num_rows) * shape.panel_bytes()));
  PackArgs on_host = args;
  on_host.packed = panels.data();
  on_host.row_begin = 0;
  on_host.out_features = args.num_rows;
  pack_quantized_weight(on_host, Stream{.device = {}, .num_threads = stream.num_threads});
  int64_t first = args.row_begin / kQuantizedPanelWidth * shape.panel_bytes();
  stream.workspace->copy_from_host(static_cast<std::byte*>(args.packed) + first, panels.data(), panels.size());
}

}  // namespace weft
