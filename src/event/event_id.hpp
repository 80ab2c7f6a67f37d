#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/random.hpp"

namespace pillion {

/// A UUID of version 7 (RFC 9562, 5.7) as lower-case text.
std::string makeEventId(const base::Clock& clock = base::systemClock(),
                        base::Random& random = base::systemRandom());

/// Is it the 36-character text form of a UUID, in either case?
bool isUuid(std::string_view text);

/// The lower-case form, so that one event has one spelling. Needs isUuid(text).
std::string normalizedUuid(std::string_view text);

/// The same of what other libraries write: also as `urn:uuid:…`, in braces, and without the dashes.
/// Nothing when it is no UUID.
std::optional<std::string> uuidFrom(std::string_view text);

/// When a version-7 id was made; nothing for other versions.
std::optional<std::chrono::system_clock::time_point> timeOfEventId(std::string_view uuid);

/// How much older than its due time an event's id may be. The shortest dedupe window is a day, and
/// the event has a way to go when it is due.
inline constexpr std::chrono::hours kMostBeforeDue{12};

/// Is this an id of version 7 that was made more than kMostBeforeDue before `due`? `due` may be any
/// time.
bool isMadeLongBefore(std::string_view uuid, std::chrono::system_clock::time_point due);

/// The version-7 id with this time, cut to milliseconds, and the random bits that it had. Needs
/// isUuid(uuid) and a time after 1970.
std::string withTime(std::string_view uuid, std::chrono::system_clock::time_point time);

}  // namespace pillion
