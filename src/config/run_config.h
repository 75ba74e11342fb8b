// An experiment's config: the schema run.proto, read from Protobuf text or JSON, with `extends` and overrides applied.
// What all of its parts may be is checked in check_run_config.h.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

namespace config {
class RunConfig;  // config/run.pb.h; for .cpp files
}

/// A config with where each of its fields was set. Does not change once made; copies share it.
class RunConfig {
 public:
  struct State;
  explicit RunConfig(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  const config::RunConfig& message() const;

  /// Protobuf text of everything that was set and of the defaults of all that was not: it reads back as an equal
  /// config and stays the same run when a later version changes a default.
  std::string to_text() const;
  /// The same as a JSON object, which load_run_config reads as well.
  std::string to_json() const;

  /// Where a field was set, for messages: "train.schedule.points[1].step" gives "configs/x.textproto:12:3", or
  /// "--set train.steps". A field that was not set gives the place of the message it belongs to, at last the file.
  std::string location(std::string_view field_path) const;

 private:
  std::shared_ptr<const State> state_;
};

/// Reads a config: JSON if the name ends in .json, else Protobuf text. `extends` names another file, relative to this
/// one; this file's fields replace its fields, repeated ones as a whole. Then overrides are applied in order:
///   train.learning_rate=1e-4     a number, a text, an enum's value in any case
///   lora.target_modules=a,b      a repeated field, all of it (nothing after the sign empties it)
///   lora.target_modules+=c       one element more
///   data.sources[0].path=x       a field of an element; the index one after the last appends
///   lora={rank: 4}               a message as Protobuf text; nothing after the sign removes it
/// Throws Error(bad_input), one line that begins with file:line:column. The values are not checked: check_run_config.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides = {});

/// The same for a text in memory; `name` stands for its path in messages and for what `extends` is relative to.
RunConfig parse_run_config(const std::string& text,
                           const std::string& name,
                           const std::vector<std::string>& overrides = {});

/// Documentation of a message or field of the schema ("train", "train.schedule.kind", a field's name alone, or nothing
/// for the whole), with types, defaults and the schema's comments; several lines. Throws Error(bad_input) for a name
/// that is nowhere.
std::string explain_config(std::string_view field_path);

}  // namespace weft
