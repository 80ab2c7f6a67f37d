#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "outbox/event_log.hpp"

namespace pillion::test {

/// An outbox in memory. A cursor's place is its `lastId`.
class FakeEventLog : public outbox::EventLog {
 public:
  static outbox::Cursor cursorAt(std::int64_t id) {
    outbox::Position position;
    position.done.text = std::to_string(id);
    position.lastId = id;
    return {{position}};
  }
  static std::int64_t placeOf(const outbox::Cursor& cursor) {
    return cursor.positions.front().lastId;
  }

  /// Commits one more event and returns its id; its event id is "e" and that number.
  std::int64_t add(const std::string& type, const std::string& key = "", std::size_t bytes = 1) {
    Row row;
    row.id = static_cast<std::int64_t>(rows.size()) + 1;
    row.eventId = "e" + std::to_string(row.id);
    row.type = type;
    row.source = "unit";
    row.key = key;
    row.time = "2026-01-31 12:00:00";
    row.contentType = "text/plain";
    row.payload = std::string(bytes, 'x');
    rows.push_back(row);
    return row.id;
  }

  /// One that no publisher can have written.
  std::int64_t addBad(const std::string& type) {
    const auto id = add(type);
    rows.back().headers = R"({"number":1})";
    return id;
  }

  /// One that an earlier relay has parked; the cursor is past it.
  std::int64_t addParked(const std::string& type, const std::string& key = "") {
    const auto id = add(type, key);
    parked[id] = {rows.back(), "unroutable"};
    saved = cursorAt(id);
    return id;
  }

  outbox::Balance balance() override {
    outbox::Balance balance;
    balance.taken = saved;
    return balance;
  }

  outbox::Page fetch(const outbox::Cursor& from) override {
    ++fetches;
    outbox::Page page;
    page.after = from;
    for (auto& position : page.after.positions) {
      position.done.inProgress.assign(writerRuns ? 1 : 0, 1);
    }
    for (auto at = static_cast<std::size_t>(placeOf(from)); at < rows.size(); ++at) {
      const Row& row = rows[at];
      if (page.rows.size() == pageRows) {
        page.more = true;
        break;
      }
      page.rows.push_back(row);
      page.after = cursorAt(row.id);
      page.after.positions.front().lanes = from.lanes();
    }
    return page;
  }

  bool checkpoint(const outbox::Checkpoint& checkpoint) override {
    if (leaseLost) return false;
    if (whileWriting) whileWriting();
    checkpoints.push_back(checkpoint);
    if (checkpoint.cursorMoved) saved = checkpoint.cursor;
    for (const outbox::Park& park : checkpoint.parked.park) {
      parked.try_emplace(park.id, Parked{rows.at(static_cast<std::size_t>(park.id - 1)),
                                         park.reason, park.attempts});
    }
    for (const outbox::Park& retried : checkpoint.parked.retried) {
      parked.at(retried.id).reason = retried.reason;
      parked.at(retried.id).attempts += retried.attempts;
    }
    for (const std::int64_t id : checkpoint.parked.unpark) parked.erase(id);
    return true;
  }

  void release() override {}

  void suspect(std::optional<std::int64_t> id) override { suspected = id; }

  outbox::ParkedSummary parkedSummary(outbox::Lanes, const outbox::HoldPolicy& hold) override {
    outbox::ParkedSummary summary;
    std::set<std::string> keys;
    for (const auto& [id, entry] : parked) {
      if (entry.reason == "unroutable") summary.unroutableTypes.push_back(entry.row.type);
      summary.anyRefused = summary.anyRefused || entry.reason == "refused";
      const bool waits = entry.reason == "held";
      if (entry.row.key.empty() || (!waits && !hold.holds(entry.row.type))) continue;
      if (keys.insert(entry.row.key).second) summary.keys.push_back({entry.row.key, 0, id, waits});
    }
    return summary;
  }

  outbox::HeldRows fetchHeld(const std::vector<std::string>& keys,
                             const outbox::HoldPolicy& hold) override {
    ++heldFetches;
    outbox::HeldRows held;
    for (const auto& [id, entry] : parked) {
      if (std::ranges::find(keys, entry.row.key) == keys.end()) continue;
      if (entry.reason != "held") {
        if (hold.holds(entry.row.type)) held.headed.insert(entry.row.key);
      } else if (!held.headed.contains(entry.row.key)) {
        if (held.rows.size() == heldRows) {
          held.cut = true;
          break;
        }
        held.rows.push_back(entry.row);
      }
    }
    return held;
  }

  std::vector<Row> fetchRefused(outbox::Lanes, std::int64_t after) override {
    for (const auto& [id, entry] : parked) {
      if (id > after && entry.reason == "refused") return {entry.row};
    }
    return {};
  }

  std::vector<Row> fetchParked(const std::string& type, outbox::Lanes, std::size_t limit) override {
    ++parkedFetches;
    std::vector<Row> found;
    for (const auto& [id, entry] : parked) {
      if (found.size() == limit) break;
      if (entry.row.type == type && entry.reason == "unroutable") found.push_back(entry.row);
    }
    return found;
  }

  std::chrono::milliseconds moveDue() override { return std::chrono::seconds(1); }
  void setIdle(bool now) override { idle.push_back(now); }
  void reclaimSpace() override {}
  [[nodiscard]] std::string identity() const override { return "fake"; }

  struct Parked {
    Row row;
    std::string reason;
    int attempts = 0;
  };

  std::vector<Row> rows;
  std::map<std::int64_t, Parked> parked;
  std::vector<outbox::Checkpoint> checkpoints;
  outbox::Cursor saved = cursorAt(0);
  std::optional<std::int64_t> suspected;
  std::vector<bool> idle;
  bool writerRuns = false;  // in every snapshot that is read
  std::size_t pageRows = 100;
  std::size_t heldRows = 100;
  int fetches = 0;
  int parkedFetches = 0;
  int heldFetches = 0;
  bool leaseLost = false;
  std::function<void()> whileWriting;  // a checkpoint
};

}  // namespace pillion::test
