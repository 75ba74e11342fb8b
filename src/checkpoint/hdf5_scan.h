// The walk through an HDF5 file's metadata with the HDF5 library, in a process that may crash.
#pragma once

#include <string>

#include "checkpoint/hdf5_listing.h"

namespace weft {

/// Lists groups, datasets and attributes of the file. Soft and external links aren't followed. Ends with
/// writer.finish() or writer.finish_with_error(); throws nothing. Uses process-wide state of the library: call it in a
/// child process only.
void scan_hdf5(const std::string& path, Hdf5ListingWriter& writer);

}  // namespace weft
