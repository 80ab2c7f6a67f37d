#include "event/event_id.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>

namespace pillion {
namespace {

constexpr std::size_t kTextLength = 36;
constexpr std::size_t kVersionAt = 14;

bool isDashPosition(std::size_t at) {
  return at == 8 || at == 13 || at == 18 || at == 23;
}

bool isHex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

std::string asText(std::uint64_t high, std::uint64_t low) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(kTextLength, '-');
  std::size_t nibble = 0;
  for (std::size_t at = 0; at < kTextLength; ++at) {
    if (isDashPosition(at)) continue;
    const std::uint64_t half = nibble < 16 ? high : low;
    text[at] = kDigits[(half >> (60 - 4 * (nibble % 16))) & 0xFU];
    ++nibble;
  }
  return text;
}

/// The 48 bits of time.
std::uint64_t millisecondsOf(std::chrono::system_clock::time_point time) {
  const auto sinceEpoch =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
  return static_cast<std::uint64_t>(sinceEpoch.count()) & 0xFFFF'FFFF'FFFFU;
}

}  // namespace

std::string makeEventId(const base::Clock& clock, base::Random& random) {
  const std::uint64_t high =
      (millisecondsOf(clock.wall()) << 16U) | 0x7000U | (random.next() & 0x0FFFU);
  const std::uint64_t low = (random.next() >> 2U) | 0x8000'0000'0000'0000U;
  return asText(high, low);
}

bool isUuid(std::string_view text) {
  if (text.size() != kTextLength) return false;
  for (std::size_t at = 0; at < kTextLength; ++at) {
    if (isDashPosition(at) ? text[at] != '-' : !isHex(text[at])) return false;
  }
  return true;
}

std::string normalizedUuid(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return lower;
}

std::optional<std::string> uuidFrom(std::string_view text) {
  static constexpr std::string_view kUrn = "urn:uuid:";
  const auto sameLetter = [](char a, char b) { return (a | 0x20) == b; };
  if (std::ranges::equal(text.substr(0, kUrn.size()), kUrn, sameLetter)) {
    text.remove_prefix(kUrn.size());
  } else if (text.size() > 2 && text.front() == '{' && text.back() == '}') {
    text = text.substr(1, text.size() - 2);
  }
  if (isUuid(text)) return normalizedUuid(text);
  if (text.size() != kTextLength - 4) return std::nullopt;
  std::string dashed(text);
  for (const std::size_t at : {8, 13, 18, 23}) dashed.insert(at, 1, '-');
  if (!isUuid(dashed)) return std::nullopt;
  return normalizedUuid(dashed);
}

std::optional<std::chrono::system_clock::time_point> timeOfEventId(std::string_view uuid) {
  if (!isUuid(uuid) || uuid[kVersionAt] != '7') return std::nullopt;
  const std::string digits = std::string(uuid.substr(0, 8)) + std::string(uuid.substr(9, 4));
  std::uint64_t milliseconds = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), milliseconds, 16);
  using Time = std::chrono::system_clock::time_point;
  // 48 bits of milliseconds reach further than the clock's nanoseconds: to the year 10889.
  constexpr auto kMost =
      std::chrono::floor<std::chrono::milliseconds>(Time::max().time_since_epoch()).count();
  if (milliseconds > static_cast<std::uint64_t>(kMost)) return Time::max();
  return Time(std::chrono::milliseconds(milliseconds));
}

bool isMadeLongBefore(std::string_view uuid, std::chrono::system_clock::time_point due) {
  const auto made = timeOfEventId(uuid);
  // An id is of 1970 or later; what is added to it could overflow, what is taken from 1970 cannot.
  return made && due.time_since_epoch() > kMostBeforeDue && due - kMostBeforeDue > *made;
}

std::string withTime(std::string_view uuid, std::chrono::system_clock::time_point time) {
  constexpr std::size_t kTimeEnd = 13;
  return asText(millisecondsOf(time) << 16U, 0).substr(0, kTimeEnd) +
         std::string(uuid.substr(kTimeEnd));
}

}  // namespace pillion
