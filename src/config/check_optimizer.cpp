#include <regex>

#include "config/field_checks.h"
#include "config/run.pb.h"

namespace weft {
namespace {

// std::regex compiles by recursion.
constexpr int kMaxPatternBytes = 1000;

constexpr const char* kLazyKinds = "use ADAMW, LAMB, LION or SGD";

void check_pattern(const FieldChecks& check, const std::string& field, const std::string& pattern) {
  check.given(field, pattern);
  check.require(pattern.size() <= kMaxPatternBytes, field, "is longer than {} bytes", kMaxPatternBytes);
  std::string problem;
  try {
    std::regex compiled(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    problem = error.what();
  }
  check.require(
      problem.empty(), field, "'{}' is no regular expression: {}", printable(pattern), printable(problem, 100));
}

void check_patterns(const FieldChecks& check,
                    const std::string& field,
                    const google::protobuf::RepeatedPtrField<std::string>& patterns) {
  for (int i = 0; i < patterns.size(); ++i) check_pattern(check, fmt::format("{}[{}]", field, i), patterns[i]);
}

void check_points(const FieldChecks& check, const config::ScheduleConfig& schedule) {
  bool is_piecewise = schedule.kind() == config::ScheduleConfig::PIECEWISE_LINEAR;
  check.require(is_piecewise || schedule.points().empty(),
                "train.schedule.points",
                "are given, but train.schedule.kind is {}; only PIECEWISE_LINEAR has points",
                config::ScheduleConfig::Kind_Name(schedule.kind()));
  check.require(!is_piecewise || !schedule.points().empty(),
                "train.schedule.points",
                "are missing; PIECEWISE_LINEAR needs at least one {{step: … factor: …}}");
  for (int i = 0; i < schedule.points_size(); ++i) {
    const config::SchedulePoint& point = schedule.points(i);
    std::string field = fmt::format("train.schedule.points[{}]", i);
    check.require(point.has_step() && point.has_factor(), field, "needs both step and factor");
    check.at_least<int64_t>(field + ".step", point.step(), 0);
    check.at_least<double>(field + ".factor", point.factor(), 0);
    int64_t previous = i > 0 ? schedule.points(i - 1).step() : -1;
    check.require(
        point.step() > previous, field + ".step", "is {}, but the point before is at {}", point.step(), previous);
  }
}

void check_schedule(const FieldChecks& check, const config::TrainConfig& train) {
  const config::ScheduleConfig& schedule = train.schedule();
  check.at_least<int64_t>("train.schedule.warmup_steps", schedule.warmup_steps(), 0);
  check.require(!train.has_steps() || schedule.warmup_steps() <= train.steps(),
                "train.schedule.warmup_steps",
                "is {}, but train.steps is only {}",
                schedule.warmup_steps(),
                train.steps());
  check.require(schedule.minimum_factor() >= 0 && schedule.minimum_factor() <= 1,
                "train.schedule.minimum_factor",
                "is {}; must be from 0 to 1",
                schedule.minimum_factor());
  check.positive("train.schedule.power", schedule.power());
  check.require(schedule.power() == 1 || schedule.kind() == config::ScheduleConfig::POLYNOMIAL,
                "train.schedule.power",
                "is given, but train.schedule.kind is {}; only POLYNOMIAL has one",
                config::ScheduleConfig::Kind_Name(schedule.kind()));
  check_points(check, schedule);
}

void check_moments(const FieldChecks& check, const config::OptimizerConfig& optimizer) {
  check.below_one("train.optimizer.beta1", optimizer.beta1());
  check.below_one("train.optimizer.beta2", optimizer.beta2());
  check.positive("train.optimizer.epsilon", optimizer.epsilon());
  check.below_one("train.optimizer.momentum", optimizer.momentum());
  check.at_least<double>("train.optimizer.weight_decay", optimizer.weight_decay(), 0);
  check.below_one("train.optimizer.ema_momentum", optimizer.ema_momentum());
  check.at_least<int64_t>("train.optimizer.lookahead_steps", optimizer.lookahead_steps(), 0);
  check.require(optimizer.lookahead_alpha() > 0 && optimizer.lookahead_alpha() <= 1,
                "train.optimizer.lookahead_alpha",
                "is {}; must be above 0 and at most 1",
                optimizer.lookahead_alpha());
}

/// Settings that only some rules have are errors elsewhere, since they would do nothing.
void check_meaning(const FieldChecks& check, const config::OptimizerConfig& optimizer) {
  using Config = config::OptimizerConfig;
  std::string kind = Config::Kind_Name(optimizer.kind());
  bool is_lamb = optimizer.kind() == Config::LAMB;
  bool has_momentum = optimizer.kind() == Config::SGD || optimizer.kind() == Config::MUON;
  bool is_adam_like = optimizer.kind() == Config::ADAMW || is_lamb;
  check.require(is_lamb || optimizer.layer_adaptation_exclude().empty(),
                "train.optimizer.layer_adaptation_exclude",
                "is given, but {} adapts no layers; only LAMB does",
                kind);
  check.require(has_momentum || optimizer.momentum() == Config().momentum(),
                "train.optimizer.momentum",
                "is given, but {} has betas; momentum is of SGD and MUON",
                kind);
  check.require(!optimizer.lazy_rows() || optimizer.kind() != Config::ADAFACTOR,
                "train.optimizer.lazy_rows",
                "has no meaning for ADAFACTOR, whose moments are shared by all rows of a matrix; {}",
                kLazyKinds);
  check.require(!optimizer.lazy_rows() || optimizer.kind() != Config::MUON,
                "train.optimizer.lazy_rows",
                "has no meaning for MUON's matrices; {}",
                kLazyKinds);
  check.require(is_adam_like || optimizer.bias_correction(),
                "train.optimizer.bias_correction",
                "is off, but {} has none; only ADAMW and LAMB do",
                kind);
}

void check_factors(const FieldChecks& check, const config::OptimizerConfig& optimizer) {
  for (int i = 0; i < optimizer.learning_rate_factors_size(); ++i) {
    std::string field = fmt::format("train.optimizer.learning_rate_factors[{}]", i);
    check_pattern(check, field + ".pattern", optimizer.learning_rate_factors(i).pattern());
    check.at_least<double>(field + ".factor", optimizer.learning_rate_factors(i).factor(), 0);
  }
}

}  // namespace

void check_optimizer(const RunConfig& config) {
  FieldChecks check(config);
  const config::TrainConfig& train = config.message().train();
  check_schedule(check, train);
  check_moments(check, train.optimizer());
  check_meaning(check, train.optimizer());
  check_patterns(check, "train.optimizer.weight_decay_exclude", train.optimizer().weight_decay_exclude());
  check_patterns(check, "train.optimizer.layer_adaptation_exclude", train.optimizer().layer_adaptation_exclude());
  check_factors(check, train.optimizer());
  check_patterns(check, "train.freeze", train.freeze());
  check.require(train.freeze().empty() || !config.message().has_lora(),
                "train.freeze",
                "is given, but with lora the model's weights are frozen already; remove one of the two");
  check.require(train.adversarial().epsilon() > 0 || train.adversarial().kind() == config::AdversarialConfig::OFF,
                "train.adversarial.epsilon",
                "is {}; must be above 0",
                train.adversarial().epsilon());
}

}  // namespace weft
