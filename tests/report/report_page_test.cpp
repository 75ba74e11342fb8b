// The pages: escaped, self-contained, well-formed, and right in what they draw.
#include "report/report_page.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <regex>

#include "report/html_text.h"
#include "report/plot.h"

namespace weft {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

RunRecord example_run(int64_t num_steps) {
  RunRecord run{.name = "example", .directory = "runs/example"};
  for (int64_t step = 1; step <= num_steps; ++step) {
    run.steps.push_back({.step = step,
                         .loss = 2 + std::exp(-static_cast<double>(step) / 50),
                         .learning_rate = 1e-4,
                         .grad_norm = 1,
                         .tokens = 1000,
                         .tokens_seen = 1000 * step,
                         .seconds = 0.5,
                         .bound_fraction = 0.6,
                         .memory_bytes = 1'500'000'000});
  }
  run.evaluations = {{.step = 0, .loss = 3}, {.step = num_steps, .loss = 2.2}};
  return run;
}

/// Every element that is opened is closed, in order. Enough of a parser for pages of our own making.
std::string first_imbalance(const std::string& page) {
  static const std::regex tag("<(/?)([a-z0-9]+)([^>]*?)(/?)>");
  std::string body = page.substr(page.find("<h1>"));
  body.resize(body.find("<script>"));
  std::vector<std::string> open;
  for (std::sregex_iterator found(body.begin(), body.end(), tag), end; found != end; ++found) {
    std::string name = (*found)[2];
    bool is_end = (*found)[1].length() > 0;
    if ((*found)[4].length() > 0 || name == "meta") continue;
    if (!is_end) {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return "</" + name + ">";
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : "<" + open.back() + ">";
}

std::string unescape(std::string text) {
  const std::pair<const char*, const char*> replacements[] = {
      {"&quot;", "\""}, {"&lt;", "<"}, {"&gt;", ">"}, {"&#39;", "'"}, {"&amp;", "&"}};
  for (auto [from, to] : replacements) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; ++at) text.replace(at, std::strlen(from), to);
  }
  return text;
}

/// What the script gets to see of the first plot.
json hover_data(const std::string& page) {
  size_t begin = page.find("data-plot=\"") + 11;
  return json::parse(unescape(page.substr(begin, page.find('"', begin) - begin)));
}

TEST(Html, markup_is_escaped) {
  EXPECT_EQ(escape_html("<b a=\"1\" c='2'>&"), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;");
  EXPECT_EQ(escape_html("a\nb\tc"), "a\nb\tc");
}

TEST(Html, what_is_not_utf8_is_replaced) {
  std::string mark = "\xEF\xBF\xBD";
  EXPECT_EQ(escape_html("äß€😀"), "äß€😀");
  EXPECT_EQ(escape_html("\xff"), mark);
  EXPECT_EQ(escape_html("\xC0\x80"), mark + mark);             // overlong
  EXPECT_EQ(escape_html("\xED\xA0\x80"), mark + mark + mark);  // surrogate
  EXPECT_EQ(escape_html("\xF4\x90\x80\x80").size(), 4 * mark.size());
  EXPECT_EQ(escape_html("\xE2\x82"), mark + mark);  // ends too early
  EXPECT_EQ(escape_html(std::string_view("\0\x1b\x7f", 3)), mark + mark + mark);
  EXPECT_EQ(escape_html("abcdef", 3), "abc…");
}

TEST(ReportPage, strings_from_outside_cannot_become_markup) {
  const std::string evil = "</pre></script><script>alert('x')</script><img src=x onerror=\"y\">";
  RunRecord run = example_run(5);
  run.name = run.directory = run.config = evil;
  run.events = {{.step = 1, .kind = evil, .text = evil, .time = 1.7e9}};
  run.samples = {{.step = 1, .prompt = evil, .text = evil}};
  for (const std::string& page : {render_run_report(run, true), render_comparison(std::vector<RunRecord>{run, run})}) {
    EXPECT_THAT(page, AllOf(Not(HasSubstr("<script>alert")), Not(HasSubstr("<img"))));
    EXPECT_EQ(first_imbalance(page), "");
  }
}

TEST(ReportPage, needs_nothing_from_elsewhere) {
  std::string page = render_run_report(example_run(100), false);
  for (const char* reference : {"http:", "https:", "src=", "href=", "@import", "url("}) {
    EXPECT_THAT(page, Not(HasSubstr(reference)));
  }
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
}

TEST(ReportPage, reloads_only_while_the_run_goes_on) {
  EXPECT_THAT(render_run_report(example_run(5), true), HasSubstr("http-equiv=\"refresh\""));
  EXPECT_THAT(render_run_report(example_run(5), false), Not(HasSubstr("http-equiv=\"refresh\"")));
}

TEST(ReportPage, the_loss_curve_carries_the_values) {
  RunRecord run = example_run(20);
  json data = hover_data(render_run_report(run, false));
  ASSERT_THAT(data["curves"], SizeIs(2));
  json training = data["curves"][0];
  ASSERT_THAT(training["x"], SizeIs(20));
  EXPECT_EQ(training["x"][19], 20);
  EXPECT_NEAR(training["y"][19].get<double>(), run.steps[19].loss, 1e-5);
  EXPECT_EQ(data["curves"][1]["name"], "held-out");
  EXPECT_EQ(data["curves"][1]["y"], json({3.0, 2.2}));
}

TEST(ReportPage, a_run_of_evaluations_alone_has_a_page) {
  RunRecord run = example_run(0);
  std::string page = render_run_report(run, false);
  EXPECT_THAT(page, HasSubstr("held-out"));
  EXPECT_EQ(first_imbalance(page), "");
}

TEST(ReportPage, a_comparison_lists_runs_and_the_fields_that_differ) {
  std::vector<RunRecord> runs{example_run(30), example_run(60)};
  runs[1].name = "other";
  runs[0].config = "train {\n  steps: 30\n  seed: 7\n}\n";
  runs[1].config = "train {\n  steps: 60\n  seed: 7\n}\n";
  std::string page = render_comparison(runs);
  EXPECT_THAT(page, AllOf(HasSubstr("train.steps"), Not(HasSubstr("train.seed")), HasSubstr("other")));
  EXPECT_EQ(hover_data(page)["curves"].size(), 2u);
  EXPECT_EQ(first_imbalance(page), "");
}

TEST(Plot, long_curves_keep_their_extremes) {
  Curve curve{.name = "loss", .x = {}, .y = {}};
  for (int i = 0; i < 100'000; ++i) {
    curve.x.push_back(i);
    curve.y.push_back(i == 70'123 ? 9 : i == 30'000 ? -4 : 1);
  }
  std::string figure = draw_plot({.title = "t", .curves = {curve}});
  EXPECT_LT(figure.size(), 60'000u);
  json data = hover_data(figure)["curves"][0];
  EXPECT_EQ(*std::max_element(data["y"].begin(), data["y"].end()), 9);
  EXPECT_EQ(*std::min_element(data["y"].begin(), data["y"].end()), -4);
  EXPECT_TRUE(std::is_sorted(data["x"].begin(), data["x"].end()));
}

TEST(Plot, what_is_not_finite_leaves_a_gap) {
  double nan = std::nan("");
  std::string figure =
      draw_plot({.title = "t", .curves = {{.name = "c", .x = {1, 2, 3, 4, 5}, .y = {1, 2, nan, 2, 1}}}});
  std::smatch path;
  ASSERT_TRUE(std::regex_search(figure, path, std::regex(" d=\"([^\"]*)\"")));
  std::string drawn = path[1];
  EXPECT_EQ(std::count(drawn.begin(), drawn.end(), 'M'), 2);
  EXPECT_EQ(draw_plot({.title = "t", .curves = {{.name = "c", .x = {1, 2}, .y = {nan, nan}}}}), "");
}

TEST(Plot, extreme_values_draw_finite_coordinates) {
  double largest = std::numeric_limits<double>::max();
  std::vector<std::vector<double>> cases = {{0, 0, 0},
                                            {largest, -largest, 1},
                                            {1e30, -1e30, 0},
                                            {1e-320, 2e-320, 3e-320},
                                            {INFINITY, 1, -INFINITY},
                                            {5, 5, 5},
                                            {1e-9, 1, 1e29}};
  for (const std::vector<double>& y : cases) {
    for (bool is_logarithmic : {false, true}) {
      std::string figure = draw_plot(
          {.title = "t", .curves = {{.name = "c", .x = {1, 2, 9.2e18}, .y = y}}, .may_be_logarithmic = is_logarithmic});
      EXPECT_THAT(figure, AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf")))) << y[0];
    }
  }
}

TEST(Plot, smoothing_keeps_straight_lines_centred_and_gaps) {
  std::vector<double> line(2001);
  std::iota(line.begin(), line.end(), 0);
  std::vector<double> smoothed = smooth_curve(line, 0.95);
  EXPECT_NEAR(smoothed[1000], 1000, 1e-9);
  EXPECT_EQ(smooth_curve({3, 3, 3}, 0.9), (std::vector<double>{3, 3, 3}));
  line[7] = std::nan("");
  EXPECT_TRUE(std::isnan(smooth_curve(line, 0.95)[7]));
}

TEST(Plot, an_axis_that_a_spike_dwarfs_is_logarithmic) {
  Curve curve{.name = "norm", .x = {1, 2, 3, 4}, .y = {1, 1, 1, 1000}};
  EXPECT_THAT(draw_plot({.title = "t", .curves = {curve}, .may_be_logarithmic = true}), HasSubstr("logarithmic"));
  curve.y[3] = 2;
  EXPECT_THAT(draw_plot({.title = "t", .curves = {curve}, .may_be_logarithmic = true}), Not(HasSubstr("logarithmic")));
}

TEST(Plot, ticks_are_round_numbers_inside) {
  EXPECT_THAT(linear_ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(linear_ticks(1.93, 3.04, 5),
              Each(testing::Truly([](double tick) { return tick >= 1.93 && tick <= 3.04; })));
  EXPECT_THAT(linear_ticks(3, 3, 5), IsEmpty());
  EXPECT_LE(linear_ticks(1e300, 1.0000001e300, 5).size(), 11u);
}

}  // namespace
}  // namespace weft
