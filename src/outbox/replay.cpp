#include <pillion/replay.hpp>

#include <algorithm>
#include <pillion/error.hpp>

#include "event/timestamp.hpp"
#include "event/topic_pattern.hpp"
#include "migrate/schema_check.hpp"
#include "outbox/outbox_table.hpp"
#include "postgres/connection.hpp"

namespace pillion {
namespace {

outbox::ReplayRange rangeOf(const ReplayFilter& filter, const ReplayOptions& options) {
  outbox::ReplayRange range;
  range.afterId = filter.firstId - 1;
  if (filter.from) range.from = toRfc3339(*filter.from);
  if (filter.to) range.to = toRfc3339(*filter.to);
  if (!filter.type.empty()) range.typePattern = topicExpression(filter.type);
  range.key = filter.key;
  range.limit = options.batch;
  return range;
}

}  // namespace

std::uint64_t replayEvents(const ReplayFilter& filter, const ReplayOptions& options) {
  if (options.batch == 0) throw ConfigError("replay option batch must be above zero");
  const std::string schema = postgres::schemaOf(options.database);
  const auto connection = postgres::connect(options.database, "replay");
  auto range = rangeOf(filter, options);
  const auto mode = options.dryRun  ? outbox::ReplayMode::Count
                    : options.asNew ? outbox::ReplayMode::AsNew
                                    : outbox::ReplayMode::SameIds;
  std::uint64_t events = 0;
  postgres::guarded("replaying events", [&] {
    {
      pqxx::work tx{*connection};
      migrate::requireCurrentSchema(tx, schema);
      const std::int64_t newest = outbox::lastEventId(tx, schema);
      range.upToId = std::min(filter.lastId.value_or(newest), newest);
    }
    for (bool more = true; more;) {
      pqxx::work tx{*connection};
      tx.exec("set local enable_seqscan = off; set local jit = off");
      const auto replayed = outbox::replayBatch(tx, schema, range, mode);
      tx.commit();
      events += replayed.events;
      range.afterId = replayed.lastId;
      more = replayed.events == options.batch;
    }
  });
  return events;
}

}  // namespace pillion
