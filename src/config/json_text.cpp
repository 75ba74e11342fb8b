#include "config/json_text.h"

#include <google/protobuf/descriptor.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "config/parse_error.h"
#include "config/text_reader.h"
#include "core/error.h"

namespace weft {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

/// Accepts everything and keeps the first error. Takes no memory for the document.
class SyntaxCheck : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    offset = position > 0 ? position - 1 : 0;
    std::string_view what = error.what();
    size_t colon = what.find(": ");
    message = colon == std::string_view::npos ? what : what.substr(colon + 2);
    return false;
  }

  size_t offset = 0;
  std::string message;
};

bool is_plain_word(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return isalnum(c) || c == '_' || c == '.' || c == '+' || c == '-';
  });
}

/// Walks valid JSON once, writing as many characters as it reads.
class Transcoder {
 public:
  Transcoder(const std::string& json, const std::string& file) : json_(json), file_(file) {}

  std::string run(const Descriptor& type) {
    size_t begin = json_.find_first_not_of(" \t\r\n\xef\xbb\xbf");
    if (begin == std::string::npos || json_[begin] != '{') {
      fail_input("{}: a config must be a JSON object",
                 place_in_text(file_, json_, begin == std::string::npos ? 0 : begin));
    }
    out_.reserve(json_.size());
    out_.append(begin, ' ');
    for (at_ = begin; at_ < json_.size();) step(type);
    return std::move(out_);
  }

 private:
  /// An open bracket: an object's type, or a list's field.
  struct Level {
    const Descriptor* type = nullptr;
    const FieldDescriptor* field = nullptr;  // the value that comes next belongs to it
    bool is_list = false;
  };

  void step(const Descriptor& root) {
    char c = json_[at_];
    if (c == '"') return read_string();
    if (c == '{' || c == '[') {
      open(root, c);
    } else if (c == '}' || c == ']') {
      levels_.pop_back();
      put(levels_.empty() ? ' ' : c);
      return;
    } else {
      if (c == ',') expects_key_ = !levels_.back().is_list;
      put(c);
    }
  }

  void open(const Descriptor& root, char c) {
    bool is_root = levels_.empty();
    const FieldDescriptor* field = is_root ? nullptr : levels_.back().field;
    const Descriptor* type = is_root ? &root : field ? field->message_type() : nullptr;
    levels_.push_back(c == '{' ? Level{type, nullptr, false} : Level{nullptr, field, true});
    expects_key_ = c == '{';
    put(is_root ? ' ' : c);
  }

  void read_string() {
    size_t end = at_ + 1;
    while (json_[end] != '"') end += json_[end] == '\\' ? 2 : 1;
    std::string_view content = std::string_view(json_).substr(at_ + 1, end - at_ - 1);
    if (expects_key_) {
      write_key(content);
    } else {
      write_value(content);
    }
    at_ = end + 1;
  }

  void write_key(std::string_view name) {
    Level& level = levels_.back();
    expects_key_ = false;
    level.field = level.type ? level.type->FindFieldByName(std::string(name)) : nullptr;
    if (level.type && !level.field) {
      fail_input("{}: {}", place_in_text(file_, json_, at_), unknown_field_message(*level.type, message_path(), name));
    }
    // The key of an object where none belongs: what comes before it is reported first.
    out_ += ' ';
    out_ += is_plain_word(name) ? std::string(name) : std::string(name.size(), '_');
    out_ += ' ';
  }

  /// Of the object that is open, "train.schedule".
  std::string message_path() const {
    std::string path;
    for (size_t i = 0; i + 1 < levels_.size(); ++i) {
      if (levels_[i].is_list) continue;
      path += (path.empty() ? "" : ".") + levels_[i].field->name();
    }
    return path;
  }

  void write_value(std::string_view content) {
    const FieldDescriptor* field = levels_.empty() ? nullptr : levels_.back().field;
    bool is_quoted = !field || field->type() == FieldDescriptor::TYPE_STRING || !is_plain_word(content);
    out_ += is_quoted ? '"' : ' ';
    size_t dropped = 0;
    for (size_t i = 0; i < content.size(); ++i) {
      if (content[i] == '\\') {
        // JSON's escapes are Protobuf's as well, but for this one.
        if (content[i + 1] == '/') {
          ++dropped;
        } else {
          out_ += '\\';
        }
        ++i;
      }
      out_ += content[i];
    }
    out_ += is_quoted ? '"' : ' ';
    out_.append(dropped, ' ');
  }

  void put(char c) {
    out_ += c;
    ++at_;
  }

  const std::string& json_;
  const std::string& file_;
  std::string out_;
  size_t at_ = 0;
  bool expects_key_ = false;
  std::vector<Level> levels_;
};

}  // namespace

std::string json_to_config_text(const std::string& json, const std::string& file, const Descriptor& type) {
  // The JSON library takes a zero byte for the end of the text.
  if (size_t zero = json.find('\0'); zero != std::string::npos) {
    fail_input("{}: a zero byte; is it a JSON file?", place_in_text(file, json, zero));
  }
  SyntaxCheck check;
  if (!nlohmann::json::sax_parse(json, &check)) {
    fail_input("{}: {}", place_in_text(file, json, std::min(check.offset, json.size())), printable(check.message, 200));
  }
  return Transcoder(json, file).run(type);
}

}  // namespace weft
