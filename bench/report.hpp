#pragma once

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace pillion::bench {

struct BenchOptions {
  bool json = false;
  bool quick = false;  // a tenth of everything: shows that it runs, not how fast
  std::vector<std::string> only;
};

/// What all benchmarks do with their figures. Ratios are the result; absolute figures are printed
/// beside them since they say what the machine was.
class Report {
 public:
  explicit Report(const BenchOptions& options) : options_(options) {}

  [[nodiscard]] bool quick() const { return options_.quick; }
  [[nodiscard]] long scaled(long full) const { return options_.quick ? full / 10 : full; }

  template <typename Work>
  void measure(const std::string& name, const Work& work) {
    const auto& only = options_.only;
    if (!only.empty() && std::ranges::find(only, name) == only.end()) return;
    std::fprintf(stderr, "%s …\n", name.c_str());
    work();
  }

  /// Both sides in turns, so that a machine that gets slower meanwhile slows both; the medians say
  /// what one run, which may be off by a fifth, does not.
  template <typename One, typename Other>
  void compare(const std::string& name, int rounds, const One& one, const Other& other,
               const char* unit = "/s") {
    std::vector<double> ones;
    std::vector<double> others;
    for (int round = 0; round < (options_.quick ? 2 : rounds); ++round) {
      others.push_back(other());
      ones.push_back(one());
    }
    ratio(name, median(ones) / median(others),
          "median " + figure(median(ones)) + unit + " against " + figure(median(others)) + unit +
              spread(ones) + " against" + spread(others));
  }

  void ratio(const std::string& name, double value, const std::string& figures) {
    results_[name] = value;
    std::fprintf(stderr, "  %s = %.3f   (%s)\n", name.c_str(), value, figures.c_str());
  }

  void value(const std::string& name, double value) {
    results_[name] = value;
    std::fprintf(stderr, "  %s = %.1f\n", name.c_str(), value);
  }

  void finish() const {
    if (options_.json) std::printf("%s\n", results_.dump().c_str());
  }

  static std::string text(const char* format, double a, double b) {
    char line[160];
    std::snprintf(line, sizeof line, format, a, b);
    return line;
  }

 private:
  static std::string figure(double value) { return text(value < 100 ? "%.3f" : "%.0f", value, 0); }

  static double median(std::vector<double> values) {
    std::ranges::sort(values);
    return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
  }

  static std::string spread(const std::vector<double>& values) {
    const auto [least, most] = std::ranges::minmax(values);
    return ", " + figure(least) + " to " + figure(most);
  }

  BenchOptions options_;
  nlohmann::json results_ = nlohmann::json::object();
};

}  // namespace pillion::bench
