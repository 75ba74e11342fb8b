// What commands say of their options. CLI11 parses the command line; its headers, which take longer to compile than
// most commands, stay in command_line.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
class Option;
}  // namespace CLI

namespace weft {

/// An option, flag or positional argument of a command. A handle, cheap to copy, valid as long as the CommandLine. Most
/// functions return the handle, so that calls chain.
class Option {
 public:
  /// The command line is wrong without it.
  Option required(bool is_required = true) const;

  /// Takes integers from `lowest` to `highest` only.
  Option check_range(int64_t lowest, int64_t highest) const;
  /// Takes one of these words only.
  Option check_one_of(std::initializer_list<std::string_view> words) const;
  /// Takes numbers from 0 on only.
  Option check_not_negative() const;
  /// Takes numbers above 0 only.
  Option check_positive() const;

  /// It and `other` exclude each other.
  Option excludes(Option other) const;
  /// The command line is wrong with it and without `other`.
  Option needs(Option other) const;

  /// How many values it takes.
  Option expected(int count) const;
  Option expected(int least, int most) const;
  /// Takes a single value each time that it is named: what follows it is an argument of its own.
  Option one_value_each() const;
  /// Keeps the values of all times that it is named.
  Option take_all() const;
  /// Is carried out where it stands, before options further right are read.
  Option trigger_on_parse() const;

  /// Shows the variable's present value in the help, as the default.
  Option show_default() const;
  /// The help lists it under this heading.
  Option group(std::string_view heading) const;

  /// How often the command line named it. 0 before the line was parsed.
  size_t count() const;

 private:
  friend class Command;
  explicit Option(CLI::Option* option) : option_(option) {}

  CLI::Option* option_;
};

/// The program or one of its commands. A handle, cheap to copy, valid as long as the CommandLine.
///
/// Names are "-s,--long" for options and flags, and a word for what is given by its position. Variables are written
/// when the line is parsed and must live until then. Names that are malformed or taken, and unknown ones, are mistakes
/// of the caller and throw the library's exceptions, which nobody catches.
class Command {
 public:
  /// A command of this one. `description` is its line in this one's help.
  Command add_subcommand(std::string_view name, std::string_view description) const;
  /// The end of the help.
  void footer(std::string_view text) const;
  /// What is done once the line was parsed, if it names this command. May call fail_missing().
  void callback(std::function<void()> function) const;

  /// An option with a value (int, int64_t, uint64_t, double, std::optional<double> or std::string) or, for a vector of
  /// int32_t, int64_t or std::string, several. A further type is instantiated in command_line.cpp.
  template <typename Value>
  Option add_option(std::string_view names, Value& value, std::string_view help) const;
  /// An option whose text is given to `function`.
  Option add_option_function(std::string_view names,
                             const std::function<void(const std::string&)>& function,
                             std::string_view help) const;
  /// A flag. "!--no-thing" makes the variable false.
  Option add_flag(std::string_view names, bool& value, std::string_view help) const;

  /// The option of that name, which there must be.
  Option get_option(std::string_view name) const;
  /// How often the command line named that option.
  size_t count(std::string_view name) const;

 private:
  friend class CommandLine;
  explicit Command(CLI::App* app) : app_(app) {}

  CLI::App* app_;
};

/// In a command's callback: the command line lacks `what`.
[[noreturn]] void fail_missing(std::string_view what);

/// Why a command line names nothing to be done.
struct ParseEnd {
  bool is_answer = false;      // the help or version was asked for
  bool is_unexpected = false;  // there is an argument that the command does not know
  std::string text;            // the help or version as it is to be printed, or what is wrong, without a line's end
  std::string command;         // the command that was named; empty if none was
  std::string suggestion;      // a flag, or without a command a command, that is spelt nearly as one that is unknown
};

/// The program's command line, of which it wants exactly one command.
class CommandLine {
 public:
  /// What --help and --version say.
  struct Program {
    std::string name;
    std::string description;
    std::string footer;
    std::string version;
  };

  explicit CommandLine(const Program& program);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  /// What commands are added to.
  Command program() const { return Command(app_.get()); }

  /// Writes the variables and calls the named command's callback. Returns nothing when that went well.
  std::optional<ParseEnd> parse(int argc, char** argv);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace weft
