// Muon.
#include "optimizer/update_rule.h"

namespace weft {

bool is_muon_matrix(const Shape& full_shape, int64_t block) {
  return full_shape.rank() == 2 && block != kOuterBlock;
}
std::unique_ptr<UpdateRule> make_muon_rule(PieceSet&) {
  fail(ExitCode::failure, "muon comes soon");
}
}  // namespace weft
