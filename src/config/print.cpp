// A config as text, complete: defaults are written out.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include <nlohmann/json.hpp>

#include "config/dependent_defaults.h"
#include "config/run_config_state.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

/// A message that means something by being there.
bool is_switch(const FieldDescriptor& field) {
  return field.message_type() == config::LoraConfig::descriptor() ||
         field.message_type() == config::GenerationConfig::descriptor() ||
         field.message_type() == config::StateTuningConfig::descriptor();
}

void set_default(Message& message, const FieldDescriptor& field) {
  const auto* reflection = message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection->SetInt64(&message, &field, field.default_value_int64());
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->SetUInt64(&message, &field, field.default_value_uint64());
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->SetDouble(&message, &field, field.default_value_double());
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->SetBool(&message, &field, field.default_value_bool());
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection->SetEnum(&message, &field, field.default_value_enum());
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection->SetString(&message, &field, field.default_value_string());
    default:
      WEFT_ASSERT(false, "{} has a type that configs do not use", field.full_name());
  }
}

/// An adapter that training goes on from decides these itself: they cannot be given beside it.
bool is_decided_elsewhere(const Message& message, const FieldDescriptor& field) {
  if (message.GetDescriptor() != config::LoraConfig::descriptor()) return false;
  const FieldDescriptor& adapter = *message.GetDescriptor()->FindFieldByName("adapter");
  int number = field.number();
  return message.GetReflection()->HasField(message, &adapter) &&
         (number == config::LoraConfig::kRankFieldNumber || number == config::LoraConfig::kAlphaFieldNumber ||
          number == config::LoraConfig::kRankStabilisedFieldNumber);
}

void fill_defaults(Message& message) {
  const auto* reflection = message.GetReflection();
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor& field = *type->field(i);
    if (field.is_repeated()) {
      int size = field.message_type() ? reflection->FieldSize(message, &field) : 0;
      for (int k = 0; k < size; ++k) fill_defaults(*reflection->MutableRepeatedMessage(&message, &field, k));
    } else if (field.message_type()) {
      if (!is_switch(field) || reflection->HasField(message, &field)) {
        fill_defaults(*reflection->MutableMessage(&message, &field));
      }
    } else if (field.has_default_value() && !reflection->HasField(message, &field) &&
               !is_decided_elsewhere(message, field)) {
      set_default(message, field);
    }
  }
}

/// Defaults that depend on other fields come first: the schema's would stand for values that were given.
config::RunConfig resolve(config::RunConfig config) {
  config::OptimizerConfig& optimizer = *config.mutable_train()->mutable_optimizer();
  optimizer.set_beta2(beta2_of(optimizer));
  optimizer.set_momentum(momentum_of(optimizer));
  config.mutable_data()->set_packing(packing_of(config));
  fill_defaults(config);
  return config;
}

Json to_json_object(const Message& message);

/// Value `index` of a repeated field, or of a single one with −1.
Json to_json_value(const Message& message, const FieldDescriptor& field, int index) {
  const auto* reflection = message.GetReflection();
  bool is_single = index < 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return to_json_object(is_single ? reflection->GetMessage(message, &field)
                                      : reflection->GetRepeatedMessage(message, &field, index));
    case FieldDescriptor::CPPTYPE_INT64:
      return is_single ? reflection->GetInt64(message, &field) : reflection->GetRepeatedInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_STRING:
      return is_single ? reflection->GetString(message, &field) : reflection->GetRepeatedString(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection->GetUInt64(message, &field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->GetDouble(message, &field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection->GetEnum(message, &field)->name();
    default:
      WEFT_ASSERT(false, "{} has a type that configs do not use", field.full_name());
  }
  return {};
}

Json to_json_object(const Message& message) {
  Json object = Json::object();
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor& field = *type->field(i);
    const auto* reflection = message.GetReflection();
    if (!field.is_repeated()) {
      if (reflection->HasField(message, &field)) object[field.name()] = to_json_value(message, field, -1);
      continue;
    }
    Json list = Json::array();
    for (int k = 0; k < reflection->FieldSize(message, &field); ++k) list.push_back(to_json_value(message, field, k));
    if (!list.empty()) object[field.name()] = list;
  }
  return object;
}

}  // namespace

std::string RunConfig::to_text() const {
  config::RunConfig resolved = resolve(state_->message);
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  std::string text;
  bool is_printed = printer.PrintToString(resolved, &text);
  WEFT_ASSERT(is_printed);
  return text;
}

std::string RunConfig::to_json() const {
  config::RunConfig resolved = resolve(state_->message);
  return to_json_object(resolved).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace weft
