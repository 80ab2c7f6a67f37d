#include "event/timestamp.hpp"

#include <array>
#include <cstdint>
#include <cstdio>

namespace pillion {
namespace {

using std::chrono::days;
using std::chrono::floor;
using std::chrono::microseconds;
using std::chrono::sys_days;
using std::chrono::system_clock;

/// Takes exactly `width` digits off the front.
std::optional<int> takeNumber(std::string_view& text, std::size_t width) {
  if (text.size() < width) return std::nullopt;
  int value = 0;
  for (const char c : text.substr(0, width)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');
  }
  text.remove_prefix(width);
  return value;
}

bool take(std::string_view& text, std::string_view anyOf) {
  if (text.empty() || anyOf.find(text.front()) == std::string_view::npos) return false;
  text.remove_prefix(1);
  return true;
}

std::optional<microseconds> takeFraction(std::string_view& text) {
  microseconds fraction{0};
  if (!take(text, ".")) return fraction;
  if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
  std::int64_t unit = 100'000;
  while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
    fraction += microseconds((text.front() - '0') * unit);
    unit /= 10;
    text.remove_prefix(1);
  }
  return fraction;
}

std::optional<std::chrono::minutes> takeOffset(std::string_view& text) {
  if (take(text, "Zz")) return std::chrono::minutes{0};
  const bool west = !text.empty() && text.front() == '-';
  if (!take(text, "+-")) return std::nullopt;
  const auto hours = takeNumber(text, 2);
  if (!take(text, ":")) return std::nullopt;
  const auto minutes = takeNumber(text, 2);
  if (!hours || !minutes || *hours > 23 || *minutes > 59) return std::nullopt;
  const std::chrono::minutes offset(*hours * 60 + *minutes);
  return west ? -offset : offset;
}

}  // namespace

std::string toRfc3339(system_clock::time_point time) {
  const auto instant = floor<microseconds>(time);
  const auto day = floor<days>(instant);
  const std::chrono::year_month_day date{day};
  const std::chrono::hh_mm_ss clock{instant - day};
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%04d-%02u-%02uT%02d:%02d:%02d.%06dZ",
                static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                static_cast<unsigned>(date.day()), static_cast<int>(clock.hours().count()),
                static_cast<int>(clock.minutes().count()),
                static_cast<int>(clock.seconds().count()),
                static_cast<int>(clock.subseconds().count()));
  return text.data();
}

std::optional<system_clock::time_point> fromRfc3339(std::string_view text) {
  const auto year = takeNumber(text, 4);
  if (!year || !take(text, "-")) return std::nullopt;
  const auto month = takeNumber(text, 2);
  if (!month || !take(text, "-")) return std::nullopt;
  const auto day = takeNumber(text, 2);
  if (!day || !take(text, "Tt ")) return std::nullopt;
  const auto hour = takeNumber(text, 2);
  if (!hour || !take(text, ":")) return std::nullopt;
  const auto minute = takeNumber(text, 2);
  if (!minute || !take(text, ":")) return std::nullopt;
  const auto second = takeNumber(text, 2);
  if (!second) return std::nullopt;
  const auto fraction = takeFraction(text);
  const auto offset = takeOffset(text);
  const std::chrono::year_month_day date{std::chrono::year(*year),
                                         std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day))};
  // The clock counts nanoseconds from 1677 to 2262.
  if (*year < 1678 || *year > 2261) return std::nullopt;
  if (!fraction || !offset || !text.empty() || !date.ok() || *hour > 23 || *minute > 59 ||
      *second > 60) {
    return std::nullopt;
  }
  return system_clock::time_point(sys_days(date)) + std::chrono::hours(*hour) +
         std::chrono::minutes(*minute) + std::chrono::seconds(*second) + *fraction - *offset;
}

}  // namespace pillion
