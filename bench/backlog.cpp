#include "backlog.hpp"

#include <algorithm>

namespace pillion::bench {

void fillOutbox(const BenchServers& servers, const std::string& database, const Backlog& backlog) {
  constexpr long kStep = 100'000;
  for (long from = 0; from < backlog.events; from += kStep) {
    servers.postgres.execute(
        database,
        "insert into pillion.outbox (lane, event_id, type, source, key, time, content_type,"
        " payload) select (hashtextextended(key, 0) & 63)::smallint, gen_random_uuid(), type,"
        " 'bench', key, now(), 'application/json', convert_to('" +
            payload() + "', 'UTF8') from (select " + backlog.type + " as type, " + backlog.key +
            " as key from generate_series(" + std::to_string(from) + ", " +
            std::to_string(std::min(backlog.events, from + kStep) - 1) + ") g) events");
  }
  if (backlog.checkpoint) servers.postgres.execute(database, "checkpoint");
}

}  // namespace pillion::bench
