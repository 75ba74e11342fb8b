// Adafactor.
#include "optimizer/update_rule.h"

namespace weft {

std::unique_ptr<UpdateRule> make_adafactor_rule(PieceSet&) {
  fail(ExitCode::failure, "adafactor comes soon");
}
}  // namespace weft
