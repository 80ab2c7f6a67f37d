#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pillion::outbox {

/// A pg_snapshot: "xmin:xmax:xip,xip,…". Transactions below xmin have ended, those from xmax on had
/// not begun to be visible, those in xip were in progress.
struct Snapshot {
  std::string text;
  std::uint64_t xmin = 0;
  std::uint64_t xmax = 0;
  std::vector<std::uint64_t> inProgress;

  /// Throws Error for a text of another form.
  static Snapshot parse(std::string_view text);
  /// The in-progress transactions as a PostgreSQL array, "{1,2}".
  [[nodiscard]] std::string inProgressArray() const;
  friend bool operator==(const Snapshot& a, const Snapshot& b) { return a.text == b.text; }
};

inline constexpr int kLanes = 64;

/// A set of lanes, one bit each.
using Lanes = std::uint64_t;
inline constexpr Lanes kAllLanes = ~Lanes{0};
constexpr Lanes laneBit(int lane) {
  return Lanes{1} << static_cast<unsigned>(lane);
}
int countLanes(Lanes lanes);
/// The set as PostgreSQL's signed bigint, in decimal.
std::string lanesText(Lanes lanes);

/// How far some lanes have come: everything visible in `done`, and while a backlog is paged
/// (`target` not empty) also everything visible in `target` with an id up to `lastId`.
struct Position {
  Lanes lanes = kAllLanes;
  Snapshot done;
  Snapshot target;
  std::int64_t lastId = 0;
  /// No event with xid >= done.xmax has a lower id. Only grows; a later `done` may keep an earlier
  /// floor.
  std::int64_t floor = 0;
  std::int64_t targetFloor = 0;

  [[nodiscard]] bool paging() const { return !target.text.empty(); }
  /// Do they differ in nothing but their lanes and floors?
  [[nodiscard]] bool samePlace(const Position& other) const;
};

/// How far the lanes of one relay have come. Usually all are at one position; lanes that were just
/// taken over are at another one until they have caught up. No two positions share a lane.
struct Cursor {
  std::vector<Position> positions;

  [[nodiscard]] Lanes lanes() const;
  /// Takes in the positions of other lanes; those at one place become one.
  void add(const Cursor& other);
  /// Splits the positions of these lanes off.
  Cursor take(Lanes lanes);
};

}  // namespace pillion::outbox
