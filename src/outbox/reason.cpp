#include "outbox/reason.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace pillion::outbox {
namespace {

constexpr std::array<std::pair<Reason, std::string_view>, 8> kTexts{{
    {Reason::Unroutable, "unroutable"},
    {Reason::Nacked, "nacked"},
    {Reason::Unconfirmed, "unconfirmed"},
    {Reason::Forbidden, "forbidden"},
    {Reason::Refused, "refused"},
    {Reason::Invalid, "invalid"},
    {Reason::Suspect, "suspect"},
    {Reason::Held, "held"},
}};

}  // namespace

std::string_view textOf(Reason reason) {
  return std::ranges::find(kTexts, reason, &std::pair<Reason, std::string_view>::first)->second;
}

std::optional<Reason> reasonFrom(std::string_view text) {
  const auto* const found =
      std::ranges::find(kTexts, text, &std::pair<Reason, std::string_view>::second);
  if (found == kTexts.end()) return std::nullopt;
  return found->first;
}

}  // namespace pillion::outbox
