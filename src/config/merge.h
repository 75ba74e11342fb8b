// One config over another.
#pragma once

#include "config/text_reader.h"

namespace weft {

/// `over`'s fields replace `base`'s, repeated ones as a whole, messages field by field; so do their locations.
void merge_config(const google::protobuf::Message& over,
                  const FieldLocations& over_locations,
                  google::protobuf::Message& base,
                  FieldLocations& base_locations);

/// Forgets a field and everything within it.
void erase_locations(FieldLocations& locations, const std::string& field_path);

}  // namespace weft
