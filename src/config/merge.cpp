#include "config/merge.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <vector>

namespace weft {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void clear_replaced(const Message& over, Message& base, const std::string& prefix, FieldLocations& locations) {
  std::vector<const FieldDescriptor*> fields;
  over.GetReflection()->ListFields(over, &fields);
  for (const FieldDescriptor* field : fields) {
    std::string path = prefix + field->name();
    if (field->is_repeated()) {
      base.GetReflection()->ClearField(&base, field);
      erase_locations(locations, path);
    } else if (field->message_type() && base.GetReflection()->HasField(base, field)) {
      clear_replaced(over.GetReflection()->GetMessage(over, field),
                     *base.GetReflection()->MutableMessage(&base, field),
                     path + ".",
                     locations);
    }
  }
}

}  // namespace

void erase_locations(FieldLocations& locations, const std::string& field_path) {
  locations.erase(field_path);
  for (char separator : {'.', '['}) {
    std::string prefix = field_path + separator;
    auto begin = locations.lower_bound(prefix);
    auto end = begin;
    while (end != locations.end() && end->first.starts_with(prefix)) ++end;
    locations.erase(begin, end);
  }
}

void merge_config(const Message& over,
                  const FieldLocations& over_locations,
                  Message& base,
                  FieldLocations& base_locations) {
  clear_replaced(over, base, "", base_locations);
  base.MergeFrom(over);
  for (const auto& [path, location] : over_locations) base_locations[path] = location;
}

}  // namespace weft
