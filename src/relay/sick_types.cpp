#include "relay/sick_types.hpp"

#include <algorithm>

namespace pillion::relay {
namespace {

/// A queue that has taken so many in a row has recovered: the next failure is a new one.
constexpr std::size_t kRecovered = 1'000;
constexpr std::chrono::seconds kLately{10};
/// After a probe that said nothing; what takes it away may do so to the next.
constexpr std::chrono::milliseconds kAgain{100};

}  // namespace

using outbox::Reason;

bool SickTypes::isOpen(const std::string& type) const {
  const auto found = types_.find(type);
  return found != types_.end() && found->second.state == State::Open;
}

Reason SickTypes::reasonOf(const std::string& type) const {
  return types_.at(type).reason;
}

bool SickTypes::add(const std::string& type, Reason reason, Boot now) {
  const auto [entry, isNew] = types_.try_emplace(
      type, Type{.reason = reason, .backoff = base::Backoff(first_, most_, 2.0, *random_)});
  Type& sick = entry->second;
  const bool isNews = isNew || sick.reason != reason;
  // Of many that were in flight together each says the same: the first has set the time.
  const bool waits = !isNew && sick.state == State::Waiting;
  sick.reason = reason;
  if (waits) return isNews;
  sick.state = State::Waiting;
  sick.next = now;
  if (!isNew || reason != Reason::Unconfirmed) sick.next += sick.backoff.next();
  return isNews;
}

void SickTypes::parked(const std::string& type) {
  if (const auto found = types_.find(type); found != types_.end()) {
    found->second.parkedSinceProbe = true;
  }
}

const std::string* SickTypes::due(Boot now) const {
  const std::string* earliest = nullptr;
  Boot at = now;
  for (const auto& [name, type] : types_) {
    if (type.state != State::Waiting || type.inFlight > 0 || type.next > at) continue;
    earliest = &name;
    at = type.next;
  }
  return earliest;
}

std::optional<SickTypes::Boot> SickTypes::nextDue() const {
  std::optional<Boot> next;
  for (const auto& [name, type] : types_) {
    if (type.state != State::Waiting || type.inFlight > 0) continue;
    next = next ? std::min(*next, type.next) : type.next;
  }
  return next;
}

void SickTypes::probing(const std::string& type) {
  Type& sick = types_.at(type);
  sick.state = State::Probing;
  sick.parkedSinceProbe = false;
}

void SickTypes::open(const std::string& type) {
  if (const auto found = types_.find(type); found != types_.end()) {
    found->second.state = State::Open;
    found->second.routed = 0;
  }
}

bool SickTypes::roomFor(const std::string& type) const {
  const auto found = types_.find(type);
  return found == types_.end() || found->second.inFlight <= found->second.routed;
}

void SickTypes::sent(const std::string& type) {
  if (const auto found = types_.find(type); found != types_.end()) ++found->second.inFlight;
}

void SickTypes::ended(const std::string& type, bool routed) {
  const auto found = types_.find(type);
  if (found == types_.end()) return;
  if (found->second.inFlight > 0) --found->second.inFlight;
  if (!routed) return;
  if (++found->second.routed == kRecovered) found->second.backoff.reset();
}

void SickTypes::inconclusive(const std::string& type, Boot now) {
  const auto found = types_.find(type);
  if (found == types_.end() || found->second.state != State::Probing) return;
  found->second.state = State::Waiting;
  found->second.next = now + kAgain;
}

bool SickTypes::foundNone(const std::string& type, Boot now) {
  const auto found = types_.find(type);
  if (found == types_.end() || found->second.state != State::Probing) return false;
  if (!found->second.parkedSinceProbe) {
    types_.erase(found);
    return true;
  }
  found->second.state = State::Waiting;
  found->second.next = now;
  return false;
}

void SickTypes::healthy(const std::string& type, Boot now) {
  types_.erase(type);
  std::erase_if(recovered_, [&](const auto& entry) { return now - entry.second > kLately; });
  recovered_[type] = now;
}

bool SickTypes::recoveredLately(const std::string& type, Boot now) const {
  const auto found = recovered_.find(type);
  return found != recovered_.end() && now - found->second <= kLately;
}

bool SickTypes::anyOpen() const {
  return std::ranges::any_of(types_,
                             [](const auto& entry) { return entry.second.state == State::Open; });
}

std::vector<std::string> SickTypes::open() const {
  std::vector<std::string> names;
  for (const auto& [name, type] : types_) {
    if (type.state == State::Open) names.push_back(name);
  }
  return names;
}

std::set<std::string> SickTypes::closed() const {
  std::set<std::string> names;
  for (const auto& [name, type] : types_) {
    if (type.state != State::Open) names.insert(name);
  }
  return names;
}

}  // namespace pillion::relay
