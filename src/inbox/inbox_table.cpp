#include "inbox/inbox_table.hpp"

#include <vector>

#include "event/timestamp.hpp"
#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

using postgres::execute;
using postgres::inSchema;

constexpr int kDeleteBatch = 1'000;

}  // namespace

void prepareClaim(pqxx::connection& connection, const std::string& schema) {
  // No conflict target: the parent of a ring has no constraint that could be named.
  connection.prepare("pillion_claim",
                     inSchema("insert into {schema}.inbox (consumer, event_id) values ($1::text,"
                              " $2::text::uuid) on conflict do nothing",
                              schema));
}

bool claimId(pqxx::transaction_base& tx, const std::string& consumer, const std::string& eventId) {
  return postgres::executePrepared(tx, "pillion_claim", {consumer, eventId}).affected_rows() == 1;
}

namespace {

WallTime horizonOf(const pqxx::result& result) {
  return WallTime(std::chrono::milliseconds(postgres::integerOf(result[0][0])));
}

constexpr const char* kReadHorizon =
    "select (extract(epoch from horizon) * 1000)::bigint from {schema}.inbox_horizon";

}  // namespace

WallTime readHorizon(pqxx::transaction_base& tx, const std::string& schema) {
  return horizonOf(tx.exec(inSchema(kReadHorizon, schema)));
}

WallTime lockHorizon(pqxx::transaction_base& tx, const std::string& schema) {
  return horizonOf(tx.exec(inSchema(kReadHorizon, schema) + " for share"));
}

std::vector<OldChild> childrenBefore(WallTime horizon, WallTime now) {
  std::vector<OldChild> old;
  const auto current =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()) / kChildSpan;
  for (int back = 1; back < kRing - kChildrenAhead; ++back) {
    const auto span = current - back;
    const WallTime end{(span + 1) * kChildSpan};
    if (end < horizon) old.push_back({static_cast<int>(span % kRing), end});
  }
  return old;
}

bool truncateChild(pqxx::transaction_base& tx, const std::string& schema, const OldChild& old) {
  const std::string child = inSchema("{schema}.", schema) +
                            postgres::quoteIdentifier("inbox_" + std::to_string(old.child));
  if (tx.exec("select 1 from " + child + " limit 1").empty()) return false;
  tx.exec("lock table only " + child + " in access exclusive mode nowait");
  tx.exec("truncate only " + child);
  execute(tx,
          inSchema("update {schema}.inbox_horizon set horizon = greatest(horizon,"
                   " $1::text::timestamptz)",
                   schema),
          {toRfc3339(old.end)});
  return true;
}

bool deleteOther(pqxx::transaction_base& tx, const std::string& schema, WallTime before) {
  const auto deleted =
      execute(tx,
              inSchema("delete from {schema}.inbox_other where ctid = any(array(select ctid from"
                       " {schema}.inbox_other where applied_at < $1::text::timestamptz limit "
                       "$2::text::bigint))",
                       schema),
              {toRfc3339(before), std::to_string(kDeleteBatch)});
  return deleted.affected_rows() == static_cast<std::size_t>(kDeleteBatch);
}

}  // namespace pillion::inbox
