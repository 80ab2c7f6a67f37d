#pragma once

#include <pillion/error.hpp>
#include <string>

namespace pillion::base {

/// Says once that something is away, and once that it is back: a minute of outage is two lines of
/// log, not one per attempt.
class Outage {
 public:
  explicit Outage(std::string who) : who_(std::move(who)) {}

  void began(const Error& error);
  void ended();

 private:
  std::string who_;
  std::string reason_;  // empty: all is well
};

}  // namespace pillion::base
