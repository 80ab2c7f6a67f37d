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
class FakeEventLog : public outbox::EventLog, public outbox::ParkedFeed {
 public:
  using Reason = outbox::Reason;

  struct Parked {
    Row row;
    Reason reason = Reason::Held;
    int attempts = 0;
    bool holds = false;
  };

  static outbox::Cursor cursorAt(std::int64_t id) {
    outbox::Position position;
    position.done.text = std::to_string(id);
    position.lastId = id;
    return {{position}};
  }
  /// Of lane 0, in which all events are.
  static std::int64_t placeOf(const outbox::Cursor& cursor) {
    for (const outbox::Position& position : cursor.positions) {
      if ((position.lanes & outbox::laneBit(0)) != 0) return position.lastId;
    }
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
  std::int64_t addBad(const std::string& type, const std::string& key = "") {
    const auto id = add(type, key);
    rows.back().headers = R"({"number":1})";
    return id;
  }

  /// The same for an event of another lane than 0.
  std::int64_t addParkedIn(int lane, const std::string& type, const std::string& key, Reason reason,
                           bool holds) {
    const auto id = addParked(type, key, reason, holds);
    rows.back().lane = parkedAt(id)->row.lane = lane;
    return id;
  }
  /// One that an earlier relay has parked; the cursor is past it.
  std::int64_t addParked(const std::string& type, const std::string& key = "",
                         Reason reason = Reason::Unroutable, bool holds = false) {
    const auto id = add(type, key);
    park(rows.back(), reason, 0, holds);
    saved = cursorAt(id);
    return id;
  }

  /// The parked event with this outbox id, if there is one.
  [[nodiscard]] Parked* parkedAt(std::int64_t id) {
    for (auto& [seq, entry] : parked) {
      if (entry.row.id == id) return &entry;
    }
    return nullptr;
  }
  [[nodiscard]] Reason reasonAt(std::int64_t id) { return parkedAt(id)->reason; }
  void discard(const std::function<bool(const Parked&)>& which) {
    std::erase_if(parked, [&](const auto& entry) { return which(entry.second); });
  }

  outbox::Page fetch(const outbox::Cursor& from, std::size_t limit) override {
    ++fetches;
    outbox::Page page;
    page.after = from;
    for (auto& position : page.after.positions) {
      position.done.inProgress.assign(writerRuns ? 1 : 0, 1);
    }
    const std::size_t most = std::min(limit, pageRows);
    if ((from.lanes() & outbox::laneBit(0)) == 0) return page;  // where all its events are
    for (auto at = static_cast<std::size_t>(placeOf(from)); at < rows.size(); ++at) {
      const Row& row = rows[at];
      if (page.rows.size() == most) {
        page.more = true;
        break;
      }
      page.rows.push_back(row);
      page.after = cursorAt(row.id);
      page.after.positions.front().lanes = from.lanes();
    }
    return page;
  }

  void checkpoint(const outbox::Checkpoint& checkpoint) override {
    if (leaseLost) throw outbox::LeaseLost();
    if (whileWriting) whileWriting();
    checkpoints.push_back(checkpoint);
    if (checkpoint.cursorMoved) saved = checkpoint.cursor;
    auto added = checkpoint.parked.park;
    std::ranges::sort(added, {}, &outbox::Park::id);
    for (const outbox::Park& each : added) {
      park(rows.at(static_cast<std::size_t>(each.id - 1)), each.reason, each.attempts, each.holds);
    }
    for (const outbox::Retried& retried : checkpoint.parked.retried) {
      const auto entry = parked.find(retried.seq);
      if (entry == parked.end()) continue;
      entry->second.reason = retried.reason;
      entry->second.holds = retried.holds;
      entry->second.attempts += retried.attempts;
    }
    for (const std::int64_t seq : checkpoint.parked.settled) parked.erase(seq);
  }

  outbox::ParkedSummary parkedSummary(outbox::Lanes lanes) override {
    outbox::ParkedSummary summary;
    std::set<std::string> types;
    std::map<std::string, outbox::ParkedSummary::Key> keys;
    for (const auto& [seq, entry] : parked) {
      if ((outbox::laneBit(entry.row.lane) & lanes) == 0) continue;
      if (outbox::isOfType(entry.reason) && types.insert(entry.row.type).second) {
        summary.types.push_back({entry.row.type, entry.reason});
      }
      summary.anyRefused = summary.anyRefused || entry.reason == Reason::Refused;
      if (entry.row.id > placeOf(saved)) summary.ahead.push_back(entry.row.id);
      if (!entry.holds) continue;
      auto& key =
          keys.try_emplace(entry.row.key, outbox::ParkedSummary::Key{entry.row.key, entry.row.lane,
                                                                     entry.row.id, 0})
              .first->second;
      key.firstId = std::min(key.firstId, entry.row.id);
      ++key.events;
    }
    for (auto& [name, key] : keys) summary.keys.push_back(key);
    return summary;
  }

  void noteInHand(std::optional<std::int64_t> id) override { inHand = id; }
  void acquit(std::int64_t id) override {
    inHand.reset();
    acquitted.insert(id);
  }
  void setIdle(bool now) override { idle.push_back(now); }

  // The parked feed.
  void ask(outbox::ParkedQuestion question) override {
    ++questions[question.kind];
    answer_ = silent ? std::nullopt : std::optional(answerTo(question));
  }
  std::optional<outbox::ParkedAnswer> answer() override {
    return slow() ? std::nullopt : std::exchange(answer_, std::nullopt);
  }

  std::vector<Row> rows;
  std::map<std::int64_t, Parked> parked;  // by seq
  std::vector<outbox::Checkpoint> checkpoints;
  outbox::Cursor saved = cursorAt(0);
  std::optional<std::int64_t> inHand;
  std::set<std::int64_t> acquitted;
  std::vector<bool> idle;
  bool writerRuns = false;  // in every snapshot that is read
  std::size_t pageRows = 100;
  std::size_t passRows = 100;
  int fetches = 0;
  std::map<outbox::ParkedQuestion::Kind, int> questions;
  bool leaseLost = false;
  bool silent = false;                                // parked events cannot be read
  std::function<bool()> slow = [] { return false; };  // an answer is on its way, and grows old
  std::function<void()> whileWriting;                 // a checkpoint

 private:
  using Kind = outbox::ParkedQuestion::Kind;

  void park(const Row& row, Reason reason, int attempts, bool holds) {
    parked[++lastSeq_] = {row, reason, attempts, holds};
  }

  static bool own(Reason reason) {
    return reason == Reason::Refused || reason == Reason::Invalid || reason == Reason::Suspect;
  }

  outbox::ParkedAnswer answerTo(const outbox::ParkedQuestion& question) const {
    outbox::ParkedAnswer answer;
    if (question.kind == Kind::Heads) {
      for (const auto& [seq, entry] : parked) {
        if (!entry.holds || std::ranges::count(question.names, entry.row.key) == 0) continue;
        const auto [head, isFirst] = answer.heads.try_emplace(
            entry.row.key, outbox::ParkedAnswer::Head{seq, entry.reason, entry.row.type});
        if (!isFirst && entry.row.id < parked.at(head->second.seq).row.id) {
          head->second = {seq, entry.reason, entry.row.type};
        }
      }
      return answer;
    }
    answer.upTo = question.after;
    answer.end = true;
    const auto begin = parked.upper_bound(question.after);
    if (begin != parked.end()) answer.first = begin->first - 1;
    for (auto at = begin; at != parked.end(); ++at) {
      const auto& [seq, entry] = *at;
      const std::size_t most = question.kind == Kind::Pass ? passRows : 1;
      if (answer.rows.size() == most) {
        answer.end = false;
        break;
      }
      if (matches(question, entry)) {
        answer.rows.push_back({seq, entry.reason, entry.holds, entry.row});
      }
      answer.upTo = seq;
    }
    return answer;
  }

  [[nodiscard]] bool matches(const outbox::ParkedQuestion& question, const Parked& entry) const {
    if ((outbox::laneBit(entry.row.lane) & question.lanes) == 0) return false;
    const auto left = [&](const std::string& type) {
      return std::ranges::count(question.names, type) > 0;
    };
    if (question.kind == Kind::Probe) {
      return entry.row.type == question.type && outbox::isOfType(entry.reason);
    }
    if (question.kind == Kind::Refused) return entry.reason == Reason::Refused;
    if (own(entry.reason) || left(entry.row.type)) return false;
    return std::ranges::none_of(parked, [&](const auto& before) {
      const Parked& holder = before.second;
      return holder.row.id < entry.row.id && holder.holds && holder.row.key == entry.row.key &&
             (own(holder.reason) || left(holder.row.type));
    });
  }

  std::int64_t lastSeq_ = 0;
  std::optional<outbox::ParkedAnswer> answer_;
};

}  // namespace pillion::test
