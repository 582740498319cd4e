// SPDX-License-Identifier: BSD-3-Clause
//
// Draws docs/training.svg from the logs of examples/byte_lm.cpp: bits per byte of held-out text against the number of
// the step and against the seconds of training. From the folder above:
// g++ -std=c++20 docs/draw_training.cpp -o draw_training && ./draw_training docs/training.jsonl docs/training.svg
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

struct curve {
  std::string kernel;
  std::vector<double> steps, seconds, bits;
};

// Reads the lines of all runs. The time between two lines is that of their bytes at the rate of the second one.
std::vector<curve> read_curves(const char* path, double bytes_per_step, double& counts) {
  std::vector<curve> curves;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    char kernel[32] = "";
    double step = 0, trained = 0, held_out = 0, rate = 0;
    if (std::sscanf(line.c_str(),
                    R"({"kernel":"%31[^"]","step":%lf,"trained":%lf,"held_out":%lf,"tokens_per_second":%lf)", kernel,
                    &step, &trained, &held_out, &rate) == 5) {
      if (curves.empty() || curves.back().kernel != kernel) curves.push_back({kernel, {}, {}, {}});
      curve& c = curves.back();
      const double before = c.steps.empty() ? 0 : c.steps.back(), start = c.seconds.empty() ? 0 : c.seconds.back();
      c.steps.push_back(step), c.bits.push_back(held_out);
      c.seconds.push_back(start + (step - before) * bytes_per_step / rate);
    }
    std::sscanf(line.c_str(), R"({"kernel":"%31[^"]","all_held_out":%lf,"witten_bell":%lf)", kernel, &held_out,
                &counts);
  }
  return curves;
}

// Rounds to tenths of a pixel, so that the picture is the same everywhere.
std::string number(double x) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.1f", x);
  return digits;
}
void text(std::ofstream& svg, double x, double y, const char* anchor, const std::string& what) {
  svg << "<text text-anchor=\"" << anchor << "\" x=\"" << number(x) << "\" y=\"" << number(y) << "\">" << what
      << "</text>\n";
}

constexpr double above = 34, below = 300, width = 330, bottom = 1.4, top = 4;  // pixels; bits per byte
constexpr const char* colours[] = {"#0a56b8", "#d1242f", "#bf8700", "#1a7f37", "#8250df", "#57606a"};

double place_y(double bits) { return below - (below - above) * (std::min(bits, top) - bottom) / (top - bottom); }

// Draws one panel; x of a curve is steps or seconds, whose axis ends at `last` and has a number every `tick`.
void panel(std::ofstream& svg, double left, const std::vector<curve>& curves, std::vector<double> curve::*x,
           double last, double tick, const std::string& name, double counts) {
  const auto place_x = [&](double value) { return left + width * value / last; };
  for (double bits = 1.5; bits <= top; bits += 0.5) {
    svg << "<path stroke=\"#d8dee4\" d=\"M" << number(left) << ' ' << number(place_y(bits)) << 'h' << number(width)
        << "\"/>\n";
    text(svg, left - 6, place_y(bits) + 4, "end", number(bits));
  }
  for (double value = 0; value <= last; value += tick)
    text(svg, place_x(value), below + 18, "middle", std::to_string(std::lround(value)));
  text(svg, left + width / 2, below + 36, "middle", name);
  svg << "<path stroke=\"#24292f\" stroke-dasharray=\"5 4\" d=\"M" << number(left) << ' ' << number(place_y(counts))
      << 'h' << number(width) << "\"/>\n";
  text(svg, left + width, place_y(counts) + 14, "end", "Witten-Bell, order 3");
  for (std::size_t c = 0; c < curves.size(); ++c) {
    std::string line;
    for (std::size_t i = 0; i < curves[c].bits.size(); ++i)
      if (curves[c].bits[i] <= top)
        line +=
            (line.empty() ? "M" : "L") + number(place_x((curves[c].*x)[i])) + " " + number(place_y(curves[c].bits[i]));
    svg << "<path fill=\"none\" stroke=\"" << colours[c % std::size(colours)] << "\" stroke-width=\"2\" d=\"" << line
        << "\"/>\n";
  }
}

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s LOG.jsonl PICTURE.svg\n", argv[0]), 1;
  double counts = 0, steps = 0, seconds = 0;
  const std::vector<curve> curves = read_curves(argv[1], 1024, counts);
  for (const curve& c : curves) steps = std::max(steps, c.steps.back()), seconds = std::max(seconds, c.seconds.back());
  std::ofstream svg(argv[2]);
  svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"345\" viewBox=\"0 0 800 345\">\n"
      << "<title>Held-out bits per byte of byte_lm with each kernel</title>\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
      << "<g font-family=\"sans-serif\" font-size=\"12\" fill=\"#24292f\">\n";
  text(svg, 20, 18, "start", "bits per byte of held-out text");
  panel(svg, 44, curves, &curve::steps, steps, 500, "steps of 1024 bytes", counts);
  panel(svg, 444, curves, &curve::seconds, std::ceil(seconds / 10) * 10, 10, "seconds of training", counts);
  for (std::size_t c = 0; c < curves.size(); ++c) {
    const double y = above + 12 + 17 * static_cast<double>(c);
    svg << "<path stroke=\"" << colours[c % std::size(colours)] << "\" stroke-width=\"2.5\" d=\"M240 " << number(y - 4)
        << "h22\"/>\n";
    text(svg, 268, y, "start", curves[c].kernel);
  }
  svg << "</g>\n</svg>\n";
  std::printf("%zu curves\n", curves.size());
  return svg.flush() && !curves.empty() ? 0 : 1;
}
