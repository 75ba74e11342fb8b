// How a family's weights are laid out in a checkpoint format: its tensors become a rank's rows, and parameters its
// tensors.
#pragma once

#include <vector>

#include "core/dtype.h"
#include "core/shape.h"
#include "models/weight_map.h"

namespace weft {

class CheckpointReader;

/// The shape of the checkpoint's tensor that a parameter is in.
Shape format_shape(const WeightSource& source, const Parameter& parameter);

/// A whole parameter (or its gradient), row-major [out, in], in the layout of the format; of a part of a tensor only
/// that part. `minus_one` values gain the one unless they are gradients.
std::vector<float> to_format(WeightTransform transform,
                             const Parameter& parameter,
                             const std::vector<float>& full,
                             bool is_gradient);

/// Copies a parameter (or its gradient), row-major, to its place in the tensor of a format that holds rows of several
/// (source.part), and back.
void copy_part(const WeightSource& source, const Parameter& parameter, const float* ours, float* theirs);
void copy_part_back(const WeightSource& source, const Parameter& parameter, const float* theirs, float* ours);

/// Reads rows [begin, end) of this rank's slice (dim 0 of local_shape) into `into`, row-major in `dtype`. For `none`
/// nothing else is allocated; other transforms may need a buffer of that size.
void read_rows(const CheckpointReader& reader,
               const WeightSource& source,
               const Parameter& parameter,
               int64_t begin,
               int64_t end,
               void* into,
               DType dtype);

}  // namespace weft
