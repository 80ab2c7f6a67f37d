#pragma once

#include <array>
#include <functional>
#include <optional>

#include "support/fake_event_log.hpp"

namespace pillion::test {

/// An outbox in memory that several relays share, by its lanes.
struct SharedOutbox {
  FakeEventLog events;
  std::array<std::int64_t, outbox::kLanes> saved{};  // up to here the lane is published
  std::array<int, outbox::kLanes> holder{};          // a relay's number; 0: free

  std::int64_t add(int lane, const std::string& type, const std::string& key) {
    const auto id = events.add(type, key);
    events.rows.back().lane = lane;
    return id;
  }

  static outbox::Position positionAt(std::int64_t id, outbox::Lanes lanes) {
    auto position = FakeEventLog::cursorAt(id).positions.front();
    position.lanes = lanes;
    return position;
  }

  /// Takes a lane over.
  outbox::Cursor claim(int lane, int relay) {
    holder.at(static_cast<std::size_t>(lane)) = relay;
    return {{positionAt(saved.at(static_cast<std::size_t>(lane)), outbox::laneBit(lane))}};
  }
  /// Its lanes are free.
  void release(int relay) { std::ranges::replace(holder, relay, 0); }

  [[nodiscard]] std::int64_t publishedUpTo() const { return *std::ranges::min_element(saved); }
};

/// One relay's view of it.
class RelayLog : public outbox::EventLog, public outbox::ParkedFeed {
 public:
  RelayLog(SharedOutbox& outbox, int relay) : outbox_(outbox), relay_(relay) {}

  outbox::Page fetch(const outbox::Cursor& from, std::size_t limit) override {
    outbox::Page page;
    page.after = from;
    if (from.positions.empty()) return page;
    const outbox::Position at = from.positions[turn_++ % from.positions.size()];
    page.more = from.positions.size() > 1;
    page.after.take(at.lanes);
    const auto& rows = outbox_.events.rows;
    auto upTo = static_cast<std::int64_t>(rows.size());
    for (auto i = static_cast<std::size_t>(at.lastId); i < rows.size(); ++i) {
      if ((outbox::laneBit(rows[i].lane) & at.lanes) == 0) continue;
      if (page.rows.size() == std::min(limit, outbox_.events.pageRows)) {
        page.more = true;
        upTo = page.rows.back().id;
        break;
      }
      page.rows.push_back(rows[i]);
    }
    page.after.add({{SharedOutbox::positionAt(upTo, at.lanes)}});
    return page;
  }

  void checkpoint(const outbox::Checkpoint& checkpoint) override {
    if (checkpoint.cursorMoved) save(checkpoint.cursor);
    save(checkpoint.give);
    for (int lane = 0; lane < outbox::kLanes; ++lane) {
      if ((checkpoint.give.lanes() & outbox::laneBit(lane)) != 0) {
        outbox_.holder.at(static_cast<std::size_t>(lane)) = 0;
      }
    }
    outbox::Checkpoint rest;
    rest.parked = checkpoint.parked;
    outbox_.events.checkpoint(rest);
  }

  outbox::ParkedSummary parkedSummary(outbox::Lanes lanes) override {
    auto summary = outbox_.events.parkedSummary(lanes);
    summary.ahead.clear();
    for (const auto& [seq, entry] : outbox_.events.parked) {
      const auto lane = static_cast<std::size_t>(entry.row.lane);
      const bool isIn = (outbox::laneBit(entry.row.lane) & lanes) != 0;
      if (isIn && entry.row.id > outbox_.saved.at(lane)) summary.ahead.push_back(entry.row.id);
    }
    return summary;
  }

  void noteInHand(std::optional<std::int64_t>) override {}
  void acquit(std::int64_t) override {}
  void setIdle(bool) override {}

  void ask(outbox::ParkedQuestion question) override {
    outbox_.events.ask(std::move(question));
    answer_ = outbox_.events.answer();
  }
  std::optional<outbox::ParkedAnswer> answer() override {
    return slow() ? std::nullopt : std::exchange(answer_, std::nullopt);
  }

  std::function<bool()> slow = [] { return false; };  // an answer is on its way, and grows old

 private:
  void save(const outbox::Cursor& cursor) {
    for (const outbox::Position& position : cursor.positions) {
      for (int lane = 0; lane < outbox::kLanes; ++lane) {
        if ((position.lanes & outbox::laneBit(lane)) == 0) continue;
        REQUIRE(outbox_.holder.at(static_cast<std::size_t>(lane)) == relay_);
        outbox_.saved.at(static_cast<std::size_t>(lane)) = position.lastId;
      }
    }
  }

  SharedOutbox& outbox_;
  int relay_;
  std::size_t turn_ = 0;
  std::optional<outbox::ParkedAnswer> answer_;
};

}  // namespace pillion::test
