#include "inbox/inbox_dead_table.hpp"

#include <pillion/error.hpp>

#include "inbox/stored_job.hpp"
#include "postgres/array.hpp"
#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

// Some of these run in the sessions of handlers: see inbox_parked_table.cpp.
using postgres::execute;
using postgres::inSchema;
using postgres::integerOf;
using postgres::textOf;
using std::chrono::milliseconds;

constexpr const char* kUtc = "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'";

std::string asRfc3339(const std::string& column) {
  return "to_char(coalesce(" + column + ", made_at) at time zone 'UTC', " + kUtc + ")";
}

std::string listOf(const std::vector<std::int64_t>& letters) {
  return postgres::arrayOf(letters, [](std::int64_t seq) { return std::to_string(seq); });
}

std::size_t remove(pqxx::transaction_base& tx, const std::string& schema,
                   const std::string& letters) {
  return execute(tx,
                 inSchema("delete from {schema}.inbox_dead where seq = any($1::text::bigint[])",
                          schema),
                 {letters})
      .affected_rows();
}

/// What would refuse to let them go does so before a copy has left.
void proveRemovable(pqxx::work& tx, const std::string& schema,
                    const std::vector<std::int64_t>& letters) {
  pqxx::subtransaction trial(tx, "pillion_trial");
  postgres::ensureBegun(trial);
  if (remove(trial, schema, listOf(letters)) != letters.size()) {
    throw DatabaseError(DatabaseError::Kind::Refused, "a dead letter cannot be removed");
  }
  trial.abort();
}

}  // namespace

void insertDead(pqxx::transaction_base& tx, const std::string& schema, const std::string& consumer,
                const Job& job, const Failure& failure, int attempts) {
  execute(tx,
          inSchema("insert into {schema}.inbox_dead (consumer, message, reason, error, attempts)"
                   " values ($1::text, $2::bytea, $3::text, $4::text, $5::text::int)",
                   schema),
          {consumer, storedForm(job), failure.verdict, failure.error, std::to_string(attempts)});
}

std::optional<milliseconds> nextDeadIn(pqxx::transaction_base& tx, const std::string& schema,
                                       const std::string& consumer) {
  const auto next = execute(
      tx,
      inSchema("select ceil(extract(epoch from min(next_send_at) - pg_catalog.clock_timestamp()) *"
               " 1000)::bigint from {schema}.inbox_dead where consumer = $1::text",
               schema),
      {consumer});
  if (next.empty() || next[0][0].is_null()) return std::nullopt;
  return milliseconds(integerOf(next[0][0]));
}

std::vector<DeadLetterRow> takeDead(pqxx::work& tx, const std::string& schema,
                                    const std::string& consumer, std::size_t most,
                                    std::size_t bytes) {
  const auto due = execute(
      tx,
      inSchema("select seq, octet_length(message) from {schema}.inbox_dead where consumer ="
               " $1::text and next_send_at <= pg_catalog.clock_timestamp() order by next_send_at,"
               " seq limit $2::text::int for update skip locked",
               schema),
      {consumer, std::to_string(most)});
  std::vector<std::int64_t> letters;
  std::size_t total = 0;
  for (const auto& row : due) {
    total += static_cast<std::size_t>(integerOf(row[1]));
    if (!letters.empty() && total > bytes) break;
    letters.push_back(integerOf(row[0]));
  }
  if (letters.empty()) return {};
  proveRemovable(tx, schema, letters);
  const auto taken =
      execute(tx,
              inSchema("with taken as (update {schema}.inbox_dead set next_send_at ="
                       " pg_catalog.clock_timestamp() + $2::text::bigint * interval '1 millisecond'"
                       " where seq = any($1::text::bigint[]) returning *)"
                       " select seq, message, reason, error, attempts, " +
                           asRfc3339("first_failed_at") + ", " + asRfc3339("last_failed_at") +
                           " from taken order by seq",
                       schema),
              {listOf(letters), textOf(kLetterLease)});
  std::vector<DeadLetterRow> rows;
  for (const auto& row : taken) {
    rows.push_back({integerOf(row[0]), postgres::bytesOf(row[1]), textOf(row[2]), textOf(row[3]),
                    static_cast<int>(integerOf(row[4])), textOf(row[5]), textOf(row[6])});
  }
  return rows;
}

void deleteDead(pqxx::transaction_base& tx, const std::string& schema,
                const std::vector<std::int64_t>& letters) {
  remove(tx, schema, listOf(letters));
}

void postponeDead(pqxx::transaction_base& tx, const std::string& schema,
                  const std::vector<std::int64_t>& letters, milliseconds wait) {
  execute(tx,
          inSchema("update {schema}.inbox_dead set next_send_at = pg_catalog.clock_timestamp() +"
                   " $2::text::bigint * interval '1 millisecond' where seq ="
                   " any($1::text::bigint[])",
                   schema),
          {listOf(letters), textOf(wait)});
}

std::optional<std::int64_t> postponeFirstDead(pqxx::transaction_base& tx, const std::string& schema,
                                              const std::string& consumer, milliseconds wait) {
  const auto postponed = execute(
      tx,
      inSchema("update {schema}.inbox_dead set next_send_at = pg_catalog.clock_timestamp() +"
               " $2::text::bigint * interval '1 millisecond' where seq = (select seq from"
               " {schema}.inbox_dead where consumer = $1::text and next_send_at <="
               " pg_catalog.clock_timestamp() order by next_send_at, seq limit 1"
               " for update skip locked) returning seq",
               schema),
      {consumer, textOf(wait)});
  if (postponed.empty()) return std::nullopt;
  return integerOf(postponed[0][0]);
}

std::map<std::string, DeadCount> countDead(pqxx::transaction_base& tx, const std::string& schema) {
  const auto counts = tx.exec(
      inSchema("select consumer, count(*), (extract(epoch from pg_catalog.clock_timestamp() -"
               " min(made_at)) * 1000)::bigint from {schema}.inbox_dead group by consumer",
               schema));
  std::map<std::string, DeadCount> letters;
  for (const auto& row : counts) {
    letters[textOf(row[0])] = {static_cast<std::uint64_t>(integerOf(row[1])),
                               milliseconds(integerOf(row[2]))};
  }
  return letters;
}

}  // namespace pillion::inbox
