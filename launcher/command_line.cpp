#include "launcher/command_line.h"

#include <CLI/CLI.hpp>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "checkpoint/nearest_name.h"

namespace weft {

Option Option::required(bool is_required) const {
  option_->required(is_required);
  return *this;
}

Option Option::check_range(int64_t lowest, int64_t highest) const {
  option_->check(CLI::Range(lowest, highest));
  return *this;
}

Option Option::check_one_of(std::initializer_list<std::string_view> words) const {
  option_->check(CLI::IsMember(std::vector<std::string>(words.begin(), words.end())));
  return *this;
}

Option Option::check_not_negative() const {
  option_->check(CLI::NonNegativeNumber);
  return *this;
}

Option Option::check_positive() const {
  option_->check(CLI::PositiveNumber);
  return *this;
}

Option Option::excludes(Option other) const {
  option_->excludes(other.option_);
  return *this;
}

Option Option::needs(Option other) const {
  option_->needs(other.option_);
  return *this;
}

Option Option::expected(int count) const {
  option_->expected(count);
  return *this;
}

Option Option::expected(int least, int most) const {
  option_->expected(least, most);
  return *this;
}

Option Option::one_value_each() const {
  option_->allow_extra_args(false);
  return *this;
}

Option Option::take_all() const {
  option_->take_all();
  return *this;
}

Option Option::trigger_on_parse() const {
  option_->trigger_on_parse();
  return *this;
}

Option Option::show_default() const {
  option_->capture_default_str();
  return *this;
}

Option Option::group(std::string_view heading) const {
  option_->group(std::string(heading));
  return *this;
}

size_t Option::count() const {
  return option_->count();
}

Command Command::add_subcommand(std::string_view name, std::string_view description) const {
  return Command(app_->add_subcommand(std::string(name), std::string(description)));
}

void Command::footer(std::string_view text) const {
  app_->footer(std::string(text));
}

void Command::callback(std::function<void()> function) const {
  app_->callback(std::move(function));
}

namespace {

/// A list of arguments by position, each taken as it stands: the library would take one in brackets, "[a, b]", for a
/// list of its own, unless the option claims to need as many arguments as there can be.
void take_each_as_it_stands(CLI::Option& positional) {
  constexpr int kAnyNumber = CLI::detail::expected_max_vector_size;
  positional.expected(kAnyNumber, kAnyNumber)->allow_extra_args(false)->take_all();
}

template <typename Value>
constexpr bool kIsList = false;
template <typename Element>
constexpr bool kIsList<std::vector<Element>> = true;

}  // namespace

template <typename Value>
Option Command::add_option(std::string_view names, Value& value, std::string_view help) const {
  CLI::Option* option = app_->add_option(std::string(names), value, std::string(help));
  if (kIsList<Value> && option->get_positional()) take_each_as_it_stands(*option);
  return Option(option);
}

template Option Command::add_option(std::string_view, int&, std::string_view) const;
template Option Command::add_option(std::string_view, int64_t&, std::string_view) const;
template Option Command::add_option(std::string_view, uint64_t&, std::string_view) const;
template Option Command::add_option(std::string_view, double&, std::string_view) const;
template Option Command::add_option(std::string_view, std::optional<double>&, std::string_view) const;
template Option Command::add_option(std::string_view, std::string&, std::string_view) const;
template Option Command::add_option(std::string_view, std::vector<int32_t>&, std::string_view) const;
template Option Command::add_option(std::string_view, std::vector<int64_t>&, std::string_view) const;
template Option Command::add_option(std::string_view, std::vector<std::string>&, std::string_view) const;

Option Command::add_option_function(std::string_view names,
                                    const std::function<void(const std::string&)>& function,
                                    std::string_view help) const {
  return Option(app_->add_option_function<std::string>(std::string(names), function, std::string(help)));
}

Option Command::add_flag(std::string_view names, bool& value, std::string_view help) const {
  return Option(app_->add_flag(std::string(names), value, std::string(help)));
}

Option Command::get_option(std::string_view name) const {
  return Option(app_->get_option(std::string(name)));
}

size_t Command::count(std::string_view name) const {
  return app_->count(std::string(name));
}

void fail_missing(std::string_view what) {
  throw CLI::RequiredError(std::string(what));
}

CommandLine::CommandLine(const Program& program) : app_(std::make_unique<CLI::App>(program.description)) {
  app_->name(program.name);
  app_->footer(program.footer);
  app_->set_version_flag("--version", program.version);
  app_->require_subcommand(1);
}

CommandLine::~CommandLine() = default;

namespace {

/// The flag of a command that is spelt nearly as one that it does not know.
std::string nearest_flag(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  for (const std::string& argument : command.remaining()) {
    const std::string name = argument.substr(0, argument.find('='));
    std::string nearest = name.starts_with("--") ? nearest_name(name, flags) : std::string();
    if (!nearest.empty()) return nearest;
  }
  return {};
}

std::string nearest_command(const CLI::App& program, std::string_view name) {
  std::vector<std::string> commands;
  for (const CLI::App* command : program.get_subcommands({})) commands.push_back(command->get_name());
  return nearest_name(name, commands);
}

}  // namespace

std::optional<ParseEnd> CommandLine::parse(int argc, char** argv) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    ParseEnd end;
    end.is_answer = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success);
    end.text = error.what();
    if (end.is_answer) {
      std::ostringstream answer;
      app_->exit(error, answer);
      end.text = answer.str();
    }
    end.is_unexpected = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::ExtrasError);
    for (const CLI::App* chosen : app_->get_subcommands()) {
      end.command = chosen->get_name();
      if (end.is_unexpected) end.suggestion = nearest_flag(*chosen);
    }
    if (end.command.empty() && argc > 1) end.suggestion = nearest_command(*app_, argv[1]);
    return end;
  } catch (const std::out_of_range&) {
    // What the library lets through where a flag is given a number that no integer holds.
    ParseEnd end;
    end.text = "a flag takes true or false";
    return end;
  }
  return std::nullopt;
}

}  // namespace weft
