#include "report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "report/html_text.h"

namespace weft {
namespace {

constexpr double kWidth = 640;
constexpr double kHeight = 260;
constexpr double kLeft = 62;
constexpr double kRight = 628;
constexpr double kTop = 10;
constexpr double kBottom = 222;
constexpr size_t kMaxBuckets = 500;
constexpr double kLargest = 1e30;  // beyond it a value counts as infinite, so that differences are finite

bool is_drawable(double value) {
  return std::abs(value) <= kLargest;
}

struct Point {
  double x;
  double y;
};

/// The lowest and the highest point of each of kMaxBuckets stretches, in the order of x; gaps at their ends.
std::vector<Point> thin_out(const Curve& curve) {
  size_t count = std::min(curve.x.size(), curve.y.size());
  size_t bucket_size = count <= 2 * kMaxBuckets ? 1 : (count + kMaxBuckets - 1) / kMaxBuckets;
  std::vector<Point> points;
  for (size_t begin = 0; begin < count; begin += bucket_size) {
    size_t end = std::min(count, begin + bucket_size);
    size_t lowest = end;
    size_t highest = end;
    for (size_t i = begin; i < end; ++i) {
      if (!is_drawable(curve.y[i]) || !is_drawable(curve.x[i])) continue;
      if (lowest == end || curve.y[i] < curve.y[lowest]) lowest = i;
      if (highest == end || curve.y[i] > curve.y[highest]) highest = i;
    }
    if (lowest == end) {
      points.push_back({curve.x[begin], std::numeric_limits<double>::quiet_NaN()});
      continue;
    }
    size_t first = std::min(lowest, highest);
    size_t second = std::max(lowest, highest);
    points.push_back({curve.x[first], curve.y[first]});
    if (second != first) points.push_back({curve.x[second], curve.y[second]});
  }
  return points;
}

/// From values to units of the picture.
struct Axis {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  double begin = 0;
  double end = 0;
  bool is_logarithmic = false;

  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool is_empty() const { return low > high; }
  void widen_if_flat() {
    if (high > low) return;
    double margin = low == 0 ? 1 : std::max(std::abs(low) * 0.05, 1e-30);
    low -= margin;
    high += margin;
  }
  double place(double value) const {
    double part = is_logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
    return begin + part * (end - begin);
  }
};

struct Drawing {
  std::vector<std::vector<Point>> curves;
  Axis x{.begin = kLeft, .end = kRight};
  Axis y{.begin = kBottom, .end = kTop};
};

bool wants_logarithm(const Drawing& drawing) {
  std::vector<double> values;
  for (const auto& points : drawing.curves) {
    for (const Point& point : points) {
      if (std::isfinite(point.y)) values.push_back(point.y);
    }
  }
  auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return drawing.y.low > 0 && drawing.y.high > 20 * *middle;
}

/// Nothing to draw leaves the axes empty.
Drawing lay_out(const Plot& plot) {
  Drawing drawing;
  for (const Curve& curve : plot.curves) {
    drawing.curves.push_back(thin_out(curve));
    for (const Point& point : drawing.curves.back()) {
      if (!is_drawable(point.y)) continue;
      drawing.x.include(point.x);
      drawing.y.include(point.y);
    }
  }
  if (drawing.x.is_empty()) return drawing;
  drawing.y.is_logarithmic = plot.may_be_logarithmic && wants_logarithm(drawing);
  if (plot.from_zero && !drawing.y.is_logarithmic) drawing.y.include(0);
  drawing.x.widen_if_flat();
  drawing.y.widen_if_flat();
  double margin = 0.04 * (drawing.y.high - drawing.y.low);
  if (!drawing.y.is_logarithmic) drawing.y.high += margin;
  if (!drawing.y.is_logarithmic && !plot.from_zero) drawing.y.low -= margin;
  return drawing;
}

std::vector<double> logarithmic_ticks(double low, double high) {
  std::vector<double> ticks;
  auto first = static_cast<int>(std::floor(std::log10(low)));
  auto last = static_cast<int>(std::ceil(std::log10(high)));
  int stride = std::max(1, (last - first) / 6);
  for (int power = first; power <= last; power += stride) {
    for (double digit : {1.0, 2.0, 5.0}) {
      if (digit > 1 && last - first > 3) continue;
      double value = digit * std::pow(10.0, power);
      if (value >= low && value <= high) ticks.push_back(value);
    }
  }
  return ticks;
}

std::string format_tick(double value) {
  if (value == 0) return "0";
  double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:.4g}", value);
  if (size >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:.4g}k", value / 1e3);
  return fmt::format("{:.5g}", value);
}

std::string draw_axes(const Drawing& drawing, const std::string& x_label) {
  std::string svg;
  const Axis& y = drawing.y;
  for (double tick : y.is_logarithmic ? logarithmic_ticks(y.low, y.high) : linear_ticks(y.low, y.high, 5)) {
    double place = y.place(tick);
    svg += fmt::format(R"(<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>)", kLeft, kRight, place, place);
    svg +=
        fmt::format(R"(<text x="{}" y="{:.1f}" text-anchor="end">{}</text>)", kLeft - 6, place + 4, format_tick(tick));
  }
  for (double tick : linear_ticks(drawing.x.low, drawing.x.high, 6)) {
    svg += fmt::format(R"(<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>)",
                       drawing.x.place(tick),
                       kBottom + 16,
                       format_tick(tick));
  }
  svg += fmt::format(R"(<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>)", kLeft, kRight, kBottom, kBottom);
  svg += fmt::format(R"(<text x="{}" y="{}" text-anchor="end">{}</text>)", kRight, kHeight - 6, escape_html(x_label));
  return svg;
}

std::string draw_line(const std::vector<Point>& points, const Drawing& drawing) {
  std::string path;
  bool is_drawing = false;
  for (const Point& point : points) {
    if (is_drawable(point.y)) {
      const char* step = is_drawing ? "L" : "M";
      path += fmt::format("{}{:.1f} {:.1f}", step, drawing.x.place(point.x), drawing.y.place(point.y));
    }
    is_drawing = is_drawable(point.y);
  }
  return path;
}

std::string draw_curve(const Curve& curve, const std::vector<Point>& points, const Drawing& drawing) {
  std::string svg;
  if (curve.style != CurveStyle::dots || points.size() > 1) {
    const char* faint = curve.style == CurveStyle::faint_line ? " faint" : "";
    svg = fmt::format(R"(<path class="c{}{}" d="{}"/>)", curve.colour % 8, faint, draw_line(points, drawing));
  }
  if (curve.style != CurveStyle::dots && points.size() > 1) return svg;
  for (const Point& point : points) {
    if (!is_drawable(point.y)) continue;
    svg += fmt::format(R"(<circle class="c{}" cx="{:.1f}" cy="{:.1f}" r="3"/>)",
                       curve.colour % 8,
                       drawing.x.place(point.x),
                       drawing.y.place(point.y));
  }
  return svg;
}

std::string draw_marks(const Plot& plot, const Drawing& drawing) {
  std::string svg;
  size_t stride = plot.marks.size() / kMaxBuckets + 1;
  for (size_t i = 0; i < plot.marks.size(); i += stride) {
    double x = plot.marks[i];
    if (!(x >= drawing.x.low && x <= drawing.x.high)) continue;
    double place = drawing.x.place(x);
    svg += fmt::format(
        R"(<line class="mark" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>)", place, place, kBottom - 8, kBottom);
  }
  return svg;
}

std::string json_numbers(const std::vector<Point>& points, double Point::*member) {
  std::string json;
  for (const Point& point : points) {
    if (!json.empty()) json += ",";
    double value = point.*member;
    json += is_drawable(value) ? fmt::format("{:.{}g}", value, member == &Point::x ? 15 : 6) : std::string("null");
  }
  return "[" + json + "]";
}

std::string json_string(std::string_view text) {
  std::string json = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return json + "\"";
}

/// {"x":[pixel of low, pixel of high, low, high],"y":[…, 1 if logarithmic],"curves":[{name, colour, x, y}]}
std::string hover_data(const Plot& plot, const Drawing& drawing) {
  const Axis& x = drawing.x;
  const Axis& y = drawing.y;
  std::string curves;
  for (size_t i = 0; i < plot.curves.size(); ++i) {
    if (plot.curves[i].style == CurveStyle::faint_line) continue;
    if (!curves.empty()) curves += ",";
    curves += fmt::format(R"({{"name":{},"colour":{},"x":{},"y":{}}})",
                          json_string(plot.curves[i].name),
                          plot.curves[i].colour % 8,
                          json_numbers(drawing.curves[i], &Point::x),
                          json_numbers(drawing.curves[i], &Point::y));
  }
  return fmt::format(R"({{"label":{},"x":[{},{},{:.15g},{:.15g}],"y":[{},{},{:.9g},{:.9g},{}],"curves":[{}]}})",
                     json_string(plot.x_label),
                     x.begin,
                     x.end,
                     x.low,
                     x.high,
                     y.begin,
                     y.end,
                     y.low,
                     y.high,
                     y.is_logarithmic ? 1 : 0,
                     curves);
}

std::string draw_legend(const Plot& plot) {
  std::string legend;
  for (const Curve& curve : plot.curves) {
    if (curve.style == CurveStyle::faint_line || curve.name.empty()) continue;
    legend += fmt::format(R"(<span class="key c{}">{}</span>)", curve.colour % 8, escape_html(curve.name, 80));
  }
  return legend;
}

/// Each value with those before it, with falling weights whose sum is 1.
std::vector<double> average_with_past(const std::vector<double>& y, double smoothing) {
  std::vector<double> averages;
  averages.reserve(y.size());
  double sum = 0;
  double weight = 0;
  for (double value : y) {
    if (is_drawable(value)) {
      sum = smoothing * sum + (1 - smoothing) * value;
      weight = smoothing * weight + (1 - smoothing);
    }
    averages.push_back(is_drawable(value) ? sum / weight : value);
  }
  return averages;
}

}  // namespace

std::vector<double> linear_ticks(double low, double high, int count) {
  double rough = (high - low) / count;
  if (!(rough > 0) || !std::isfinite(rough)) return {};
  double power = std::pow(10.0, std::floor(std::log10(rough)));
  double digit = rough / power;
  double stride = power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
  if (!(stride > 0)) return {};
  double first = std::ceil(low / stride);
  std::vector<double> ticks;
  for (int i = 0; i <= 2 * count; ++i) {
    double tick = (first + i) * stride;
    if (tick > high) break;
    ticks.push_back(tick);
  }
  return ticks;
}

std::vector<double> smooth_curve(const std::vector<double>& y, double smoothing) {
  std::vector<double> forward = average_with_past(y, smoothing);
  std::vector<double> backward = average_with_past({y.rbegin(), y.rend()}, smoothing);
  for (size_t i = 0; i < y.size(); ++i) forward[i] = 0.5 * (forward[i] + backward[y.size() - 1 - i]);
  return forward;
}

std::string draw_plot(const Plot& plot) {
  Drawing drawing = lay_out(plot);
  if (drawing.x.is_empty()) return {};
  std::string svg = draw_axes(drawing, plot.x_label) + draw_marks(plot, drawing);
  for (size_t i = 0; i < plot.curves.size(); ++i) svg += draw_curve(plot.curves[i], drawing.curves[i], drawing);
  return fmt::format(
      R"(<figure><figcaption>{}{}{}</figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-plot="{}">{}</svg></figure>)"
      "\n",
      escape_html(plot.title),
      drawing.y.is_logarithmic ? " (logarithmic)" : "",
      draw_legend(plot),
      kWidth,
      kHeight,
      escape_html(plot.title),
      escape_html(hover_data(plot, drawing), std::string::npos),
      svg);
}

}  // namespace weft
