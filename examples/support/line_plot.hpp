// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// Draws curves over common values of x as an SVG picture with logarithmic axes.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace line_plot {

struct curve {
  std::string name, colour;
  std::vector<double> y;  // one per x
};

class picture {
 public:
  // x ascending; curves end between bottom and top, powers of 10
  picture(std::vector<double> x, double bottom, double top) : x_(std::move(x)), bottom_(bottom), top_(top) {}

  bool write(const std::string& path, const std::string& title, const std::string& x_name, const std::string& y_name,
             const std::vector<curve>& curves) const {
    std::ofstream svg(path);
    svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"560\" height=\"340\" viewBox=\"0 0 560 340\">\n<title>"
        << title << "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        << "<g font-family=\"sans-serif\" font-size=\"12\" fill=\"#24292f\">\n";
    for (double power = bottom_; power < top_ * 1.5; power *= 10)
      for (int times = 1; times < (power < top_ * 0.9 ? 10 : 2); ++times) {
        const std::string y = number(place_y(power * times));
        svg << "<path stroke=\"" << (times == 1 ? "#afb8c1" : "#eaeef2") << "\" d=\"M" << left << ' ' << y << 'H'
            << right << "\"/>\n";
        if (times == 1) text(svg, left - 6, place_y(power) + 4, "end", shortest(power));
      }
    for (const double x : x_) text(svg, place_x(x), below + 18, "middle", shortest(x));
    text(svg, (left + right) / 2, below + 38, "middle", x_name);
    text(svg, left - 40, above - 12, "start", y_name);
    for (std::size_t c = 0; c < curves.size(); ++c) {
      std::string line;
      for (std::size_t i = 0; i < x_.size(); ++i)
        line += (i == 0 ? "M" : "L") + number(place_x(x_[i])) + " " + number(place_y(curves[c].y[i]));
      const double y = below - 14 - 20 * static_cast<double>(curves.size() - 1 - c);
      svg << "<path fill=\"none\" stroke=\"" << curves[c].colour << "\" stroke-width=\"2.5\" d=\"" << line << "M"
          << left + 12 << ' ' << number(y) << "h24\"/>\n";
      text(svg, left + 44, y + 4, "start", curves[c].name);
    }
    svg << "</g>\n</svg>\n";
    return static_cast<bool>(svg.flush());
  }

 private:
  static constexpr double left = 56, right = 544, above = 32, below = 290;

  // Rounds to whole pixels, so that the picture is the same for every instruction set.
  static std::string number(double x) { return std::to_string(std::lround(x)); }
  static std::string shortest(double x) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", x);
    return digits;
  }
  static void text(std::ofstream& svg, double x, double y, const char* anchor, const std::string& what) {
    svg << "<text text-anchor=\"" << anchor << "\" x=\"" << number(x) << "\" y=\"" << number(y) << "\">" << what
        << "</text>\n";
  }
  double place_x(double x) const {
    return left + 20 + (right - left - 40) * std::log(x / x_.front()) / std::log(x_.back() / x_.front());
  }
  double place_y(double y) const { return below - (below - above) * std::log(y / bottom_) / std::log(top_ / bottom_); }

  std::vector<double> x_;
  double bottom_, top_;
};

}  // namespace line_plot
