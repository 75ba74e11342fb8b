// The bytes of a pickle that is followed by something else in its file.
#pragma once

#include <string>

#include "checkpoint/file.h"

namespace weft {

/// The pickle that begins at the cursor, which is left behind it. It ends with its STOP or with an opcode that the
/// machine (pickle_machine.h) refuses; nothing of it is run. `what` names it in messages. Throws Error(bad_input) when
/// the file ends before the pickle, or the pickle is larger than any state dict's.
std::string take_pickle(FileCursor& cursor, const std::string& path, const char* what);

}  // namespace weft
