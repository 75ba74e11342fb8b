// Curves as SVG, drawn without any library.
#pragma once

#include <string>
#include <vector>

namespace weft {

enum class CurveStyle { line, faint_line, dots };

struct Curve {
  std::string name;
  std::vector<double> x;  // ascending
  std::vector<double> y;  // as many; what isn't finite leaves a gap
  int colour = 0;         // one of eight, by the style sheet
  CurveStyle style = CurveStyle::line;
};

struct Plot {
  std::string title;
  std::string x_label = "step";
  std::vector<Curve> curves = {};
  std::vector<double> marks = {};   // x of ticks below the curves (skipped steps)
  bool from_zero = false;           // the y axis begins at 0
  bool may_be_logarithmic = false;  // it is when all values are positive and the largest dwarf the median
};

/// A <figure> with an <svg> 640 units wide that scales; its data-plot attribute (JSON) is what report_page.cpp's script
/// shows on hovering. Long curves are thinned to the extremes of each pixel. Empty when there is nothing finite to
/// draw.
std::string draw_plot(const Plot& plot);

/// Exponential averages from both ends, so that the curve does not lag behind; what isn't finite stays a gap.
std::vector<double> smooth_curve(const std::vector<double>& y, double smoothing);

/// Tick positions within [low, high], about `count`: multiples of 1, 2 or 5 times a power of ten.
std::vector<double> linear_ticks(double low, double high, int count);

}  // namespace weft
