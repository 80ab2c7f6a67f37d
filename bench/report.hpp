#pragma once

#include <algorithm>
#include <concepts>
#include <cstdio>
#include <map>
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

  /// Runs what gives these figures, if one of them is wanted.
  template <typename Work>
  void measure(const std::vector<std::string>& names, const Work& work) {
    const auto wanted = [&](const std::string& name) {
      return options_.only.empty() || std::ranges::find(options_.only, name) != options_.only.end();
    };
    if (std::ranges::none_of(names, wanted)) return;
    std::fprintf(stderr, "%s …\n", names.front().c_str());
    work();
  }

  /// Both sides in turns, so that a machine that gets slower meanwhile slows both; the medians say
  /// what one run, which may be off by a fifth, does not.
  template <typename One, typename Other>
  void compare(const std::string& name, int rounds, const One& one, const Other& other,
               const char* unit = "/s") {
    std::vector<double> ones;
    std::vector<double> others;
    for (int round = 0; round < this->rounds(rounds); ++round) {
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

  /// Several under one name, with what they are called.
  void values(const std::string& name, const std::map<std::string, double>& values) {
    results_[name] = values;
    std::fprintf(stderr, "  %s:", name.c_str());
    for (const auto& [what, value] : values) std::fprintf(stderr, " %s %.2f", what.c_str(), value);
    std::fprintf(stderr, "\n");
  }

  void finish() const {
    if (options_.json) std::printf("%s\n", results_.dump().c_str());
  }

  static std::string text(const char* format, std::same_as<double> auto... values) {
    char line[240];
    std::snprintf(line, sizeof line, format, values...);
    return line;
  }

  [[nodiscard]] int rounds(int full) const { return options_.quick ? 2 : full; }

  static double median(std::vector<double> values) {
    std::ranges::sort(values);
    return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
  }

 private:
  static std::string figure(double value) { return text(value < 100 ? "%.3f" : "%.0f", value); }

  static std::string spread(const std::vector<double>& values) {
    const auto [least, most] = std::ranges::minmax(values);
    return ", " + figure(least) + " to " + figure(most);
  }

  BenchOptions options_;
  nlohmann::json results_ = nlohmann::json::object();
};

}  // namespace pillion::bench
