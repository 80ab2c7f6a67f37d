#include "inbox/group_member.hpp"

#include <algorithm>
#include <pillion/error.hpp>
#include <utility>

#include "base/environment.hpp"
#include "base/log_line.hpp"
#include "event/event_id.hpp"
#include "migrate/schema_check.hpp"

namespace pillion::inbox {
namespace {

using std::chrono::milliseconds;

/// How long one that is not heard of keeps what it has: several turns, and less than anybody would
/// wait for by hand.
constexpr milliseconds kLease{5'000};
constexpr milliseconds kTurn{1'000};
/// While partitions change hands.
constexpr milliseconds kTurnUnsettled{200};

std::string listed(const Partitions& partitions) {
  std::string text;
  for (const int partition : partitions) {
    text += (text.empty() ? "" : ", ") + std::to_string(partition);
  }
  return text.empty() ? "none" : text;
}

}  // namespace

GroupMember::GroupMember(const DatabaseOptions& options, std::string consumer, int partitions,
                         Holdings& holdings)
    : options_(options),
      schema_(postgres::schemaOf(options)),
      member_{
          .consumer = std::move(consumer), .instance = makeEventId(), .name = base::processName()},
      initial_(partitions),
      holdings_(holdings),
      database_("consumer '" + member_.consumer + "', sharing partitions", milliseconds(200),
                milliseconds(2'000)) {
  options_.answerTimeout = std::min<milliseconds>(options_.answerTimeout, kLease);
}

void GroupMember::open() {
  try {
    turn();
  } catch (const Error& error) {
    connection_.reset();
    if (!error.retryable()) throw;
    database_.failed(error);
  }
}

void GroupMember::serve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    milliseconds wait = isSettled_ ? kTurn : kTurnUnsettled;
    try {
      turn();
      database_.works();
    } catch (const Error& error) {
      database_.failed(error);
      connection_.reset();
      wait = database_.pause();
    } catch (const std::exception& error) {
      base::log.error("consumer '{}' shares partitions again after: {}", member_.consumer,
                      error.what());
      connection_.reset();
      wait = kTurn;
    }
    holdings_.awaitNews(wait, stop);
  }
  leave();
  ended_ = true;
}

void GroupMember::turn() {
  if (!connection_) {
    auto fresh = postgres::connect(options_, "partitions of " + member_.consumer);
    postgres::guarded(*fresh, "opening the inbox", [&] {
      pqxx::nontransaction tx{*fresh};
      migrate::requireCurrentSchema(tx, schema_);
    });
    connection_ = std::move(fresh);
  }
  const auto until = base::systemClock().boot() + kLease;  // the server counts from later
  Share share;
  // In one statement: a process that is paused between two would keep the others from theirs.
  postgres::guarded(*connection_, "sharing partitions", [&] {
    pqxx::nontransaction tx{*connection_};
    share = sharePartitions(tx, schema_, member_, initial_, kLease, had_, holdings_.consumption());
  });
  tellOfChange(share.assignment);
  had_ = share.assignment;
  isSettled_ = share.isSettled;
  holdings_.assign(std::move(share.assignment), until);
}

void GroupMember::tellOfChange(const Assignment& now) {
  if (had_.generation == 0 && now.partitions != initial_) {
    base::log.warn(
        "consumer '{}' has {} partitions, as its database says; the option says {}, which counts"
        " for a new consumer only. To change it: pillion partitions",
        member_.consumer, now.partitions, initial_);
  }
  if (had_.next != 0 && now.generation > had_.generation) {
    base::log.info("consumer '{}' has {} partitions now", member_.consumer, now.partitions);
  }
  if (now.wanted == had_.wanted) return;
  base::log.info("consumer '{}': this instance has partitions {} of {}", member_.consumer,
                 listed(now.wanted), now.partitions);
}

/// Without it the others wait for the lease, and that is all.
void GroupMember::leave() noexcept {
  holdings_.assign({}, base::Clock::Boot{0});
  if (!connection_) return;
  try {
    postgres::guarded(*connection_, "giving partitions up", [&] {
      pqxx::nontransaction tx{*connection_};
      leaveGroup(tx, schema_, member_);
    });
  } catch (const std::exception& error) {
    base::log.debug("consumer '{}' leaves without a word: {}", member_.consumer, error.what());
  }
}

}  // namespace pillion::inbox
