#include "inbox/inbox_parked_table.hpp"

#include <pillion/error.hpp>

#include "inbox/stored_job.hpp"
#include "postgres/array.hpp"
#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

// These run in the sessions of handlers, whose search path is the service's own: a clock of its own
// could stand before PostgreSQL's.
using postgres::execute;
using postgres::inSchema;
using postgres::integerOf;
using postgres::textOf;

ParkedEvent parkedOf(const pqxx::row& row) {
  ParkedEvent event;
  event.seq = integerOf(row[0]);
  event.identity = {textOf(row[1]), textOf(row[2]), textOf(row[3]), textOf(row[4])};
  event.job = jobFromStored(postgres::bytesOf(row[5]));
  event.attempts = static_cast<int>(integerOf(row[6]));
  event.along = static_cast<int>(integerOf(row[7]));
  event.error = textOf(row[8]);
  return event;
}

}  // namespace

void requireParkedSequence(pqxx::transaction_base& tx, const std::string& schema) {
  const auto behind = tx.exec(inSchema(
      "select sequence, last, highest from {schema}.inbox_sequences() where last < highest",
      schema));
  if (behind.empty()) return;
  throw SchemaError("sequence " + schema + '.' + textOf(behind[0][0]) + " is at " +
                    textOf(behind[0][1]) + ", behind the rows that it numbers, which go up to " +
                    textOf(behind[0][2]) +
                    " (copied without it, as logical replication does); run: pillion rebase");
}

void insertFailed(pqxx::transaction_base& tx, const std::string& schema,
                  const std::string& consumer, const Job& job, const amqp::Identity& identity,
                  const Failure& failure, Wait wait) {
  execute(tx,
          inSchema("insert into {schema}.inbox_parked (consumer, event_id, source, key, type,"
                   " message, attempts, next_attempt_at, error, first_failed_at, last_failed_at)"
                   " values ($1::text, $2::text::uuid, $3::text, $4::text, $5::text, $6::bytea, 1,"
                   " pg_catalog.clock_timestamp() + $7::text::bigint * interval '1 millisecond',"
                   " $8::text, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp())",
                   schema),
          {consumer, identity.id, identity.source, identity.key, identity.type, storedForm(job),
           textOf(wait), failure.error});
}

bool insertBehind(pqxx::transaction_base& tx, const std::string& schema,
                  const std::string& consumer, const Job& job, const amqp::Identity& identity) {
  // The lock keeps the one in front from being removed until this commits, so that whoever removes
  // it sees this one, too, and makes it due.
  const auto inserted = execute(
      tx,
      inSchema("with front as (select 1 from {schema}.inbox_parked where consumer = $1::text and"
               " key = $4::text order by seq limit 1 for key share)"
               " insert into {schema}.inbox_parked (consumer, event_id, source, key, type,"
               " message, attempts) select $1::text, $2::text::uuid, $3::text, $4::text,"
               " $5::text, $6::bytea, 0 from front",
               schema),
      {consumer, identity.id, identity.source, identity.key, identity.type, storedForm(job)});
  return inserted.affected_rows() == 1;
}

void insertUnknown(pqxx::transaction_base& tx, const std::string& schema,
                   const std::string& consumer, const Job& job, const amqp::Identity& identity) {
  execute(
      tx,
      inSchema("insert into {schema}.inbox_parked (consumer, event_id, source, key, type, message,"
               " attempts, next_attempt_at, unknown_since) select $1::text, $2::text::uuid,"
               " $3::text, $4::text, $5::text, $6::bytea, 0, now + $7::text::bigint * interval"
               " '1 millisecond', now from pg_catalog.clock_timestamp() as now",
               schema),
      {consumer, identity.id, identity.source, identity.key, identity.type, storedForm(job),
       textOf(kUnknownAgain)});
}

std::optional<ParkedEvent> takeDue(pqxx::transaction_base& tx, const std::string& schema,
                                   const std::string& consumer,
                                   const std::vector<std::string>& left) {
  const auto taken = execute(
      tx,
      inSchema(
          "update {schema}.inbox_parked p set attempts = attempts + (along <= 0)::int,"
          " along = case when along <> 0 or attempts > 0 or key = '' then 0 else (select"
          " count(*) from (select from {schema}.inbox_parked f where f.consumer = p.consumer"
          " and f.key = p.key and f.seq > p.seq and f.next_attempt_at is null limit 99) t) end,"
          " next_attempt_at = pg_catalog.clock_timestamp() + $2::text::bigint * interval '1"
          " millisecond' where seq ="
          " (select seq from {schema}.inbox_parked where consumer = $1::text and"
          " next_attempt_at <= pg_catalog.clock_timestamp() and (not"
          " type = any($3::text::text[]) or next_attempt_at <= pg_catalog.clock_timestamp() -"
          " interval '1500 milliseconds') order by next_attempt_at limit 1"
          " for no key update skip locked)"
          " returning seq, event_id, source, key, type, message, attempts, along, error",
          schema),
      {consumer, textOf(kLease),
       postgres::arrayOf(left, [](const std::string& type) { return std::string_view(type); })});
  if (taken.empty()) return std::nullopt;
  return parkedOf(taken[0]);
}

std::vector<ParkedEvent> lockBehind(pqxx::transaction_base& tx, const std::string& schema,
                                    const std::string& consumer, const ParkedEvent& event,
                                    int most) {
  tx.exec("set local row_security = off");
  const auto rows = execute(
      tx,
      inSchema("select seq, event_id, source, key, type, message, attempts, along, error from"
               " {schema}.inbox_parked where consumer = $1::text and key = $2::text and seq >"
               " $3::text::bigint and next_attempt_at is null order by seq limit"
               " $4::text::bigint for no key update",
               schema),
      {consumer, event.identity.key, std::to_string(event.seq), std::to_string(most)});
  tx.exec("set local row_security to default");
  std::vector<ParkedEvent> events;
  for (const auto& row : rows) events.push_back(parkedOf(row));
  return events;
}

void returnTaken(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event) {
  execute(tx,
          inSchema("update {schema}.inbox_parked set attempts = attempts - 1,"
                   " along = case when along > 0 then -1 else 0 end, next_attempt_at = "
                   "pg_catalog.clock_timestamp() where seq = $1::text::bigint"
                   " and attempts = $2::text::int",
                   schema),
          {std::to_string(event.seq), std::to_string(event.attempts)});
}

bool leaveToOthers(pqxx::transaction_base& tx, const std::string& schema,
                   const ParkedEvent& event) {
  const auto seen = execute(
      tx,
      inSchema("select coalesce(unknown_since < pg_catalog.clock_timestamp() - $3::text::bigint *"
               " interval '1 millisecond', false) from {schema}.inbox_parked where seq ="
               " $1::text::bigint and attempts = $2::text::int for no key update",
               schema),
      {std::to_string(event.seq), std::to_string(event.attempts), textOf(kUnknownMost)});
  if (seen.empty()) return true;  // somebody else has it
  if (textOf(seen[0][0]) == "t") return false;
  execute(
      tx,
      inSchema(
          "update {schema}.inbox_parked p set attempts = p.attempts - 1, along = 0, unknown_since ="
          " coalesce(p.unknown_since, t.moment), next_attempt_at = t.moment +"
          " greatest($2::text::bigint * interval '1 millisecond', least($3::text::bigint *"
          " interval '1 millisecond', (t.moment - coalesce(p.unknown_since, t.moment)) / 4))"
          " from (select pg_catalog.clock_timestamp() as moment) t"
          " where p.seq = $1::text::bigint",
          schema),
      {std::to_string(event.seq), textOf(kUnknownAgain), textOf(kUnknownAgainMost)});
  return true;
}

std::optional<Wait> nextDueIn(pqxx::transaction_base& tx, const std::string& schema,
                              const std::string& consumer) {
  const auto next = execute(
      tx,
      inSchema(
          "select ceil(extract(epoch from min(next_attempt_at) - pg_catalog.clock_timestamp()) *"
          " 1000)::bigint from {schema}.inbox_parked where consumer = $1::text and"
          " next_attempt_at is not null",
          schema),
      {consumer});
  if (next.empty() || next[0][0].is_null()) return std::nullopt;
  return Wait(integerOf(next[0][0]));
}

bool lockTaken(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event) {
  // A row that a policy hides is not one that somebody else has. For this statement alone: the
  // service's own tables may have policies that its handlers live by.
  tx.exec("set local row_security = off");
  const auto locked = execute(
      tx,
      inSchema("select from {schema}.inbox_parked where seq ="
               " $1::text::bigint and attempts = $2::text::int for no key update skip locked",
               schema),
      {std::to_string(event.seq), std::to_string(event.attempts)});
  tx.exec("set local row_security to default");
  return !locked.empty();
}

void removeParked(pqxx::transaction_base& tx, const std::string& schema,
                  const std::string& consumer, const ParkedEvent& event,
                  std::span<const ParkedEvent> behind) {
  std::vector<std::string> numbers{std::to_string(event.seq)};
  for (const ParkedEvent& next : behind) numbers.push_back(std::to_string(next.seq));
  const auto removed = execute(
      tx, inSchema("delete from {schema}.inbox_parked where seq = any($1::text::bigint[])", schema),
      {postgres::arrayOf(numbers, [](const std::string& text) { return std::string_view(text); })});
  // Locked by this transaction, so they are there: what hides one would let it be applied again.
  if (static_cast<std::size_t>(removed.affected_rows()) != numbers.size())
    throw Error("a parked event cannot be removed");
  if (event.identity.key.empty()) return;
  execute(
      tx,
      inSchema(
          "update {schema}.inbox_parked set next_attempt_at = pg_catalog.clock_timestamp() where"
          " next_attempt_at is null and seq = (select min(seq) from"
          " {schema}.inbox_parked where consumer = $1::text and key = $2::text)",
          schema),
      {consumer, event.identity.key});
}

void giveUpParked(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event,
                  const Failure& failure, int attempts) {
  const auto moved = execute(
      tx,
      inSchema("select {schema}.give_up($1::text::bigint, $2::text, $3::text, $4::text::int)",
               schema),
      {std::to_string(event.seq), failure.verdict, failure.error, std::to_string(attempts)});
  if (textOf(moved[0][0]) != "t") throw Error("a parked event cannot be given up");
}

void noteFailure(pqxx::transaction_base& tx, const std::string& schema, const ParkedEvent& event,
                 const Failure& failure, Wait wait) {
  execute(tx,
          inSchema("update {schema}.inbox_parked set error = $2::text, along = 0, next_attempt_at ="
                   " pg_catalog.clock_timestamp() + $3::text::bigint * interval '1 millisecond',"
                   " first_failed_at = coalesce(first_failed_at, pg_catalog.clock_timestamp()),"
                   " last_failed_at = pg_catalog.clock_timestamp(), unknown_since = null"
                   " where seq = $1::text::bigint",
                   schema),
          {std::to_string(event.seq), failure.error, textOf(wait)});
}

std::vector<ConsumerStatus> countParked(pqxx::transaction_base& tx, const std::string& schema) {
  const auto counts = tx.exec(
      inSchema("select consumer, count(*) filter (where next_attempt_at is not null),"
               " count(*) filter (where next_attempt_at is null),"
               " (extract(epoch from pg_catalog.clock_timestamp() - min(parked_at)) * 1000)::bigint"
               " from {schema}.inbox_parked group by consumer",
               schema));
  std::vector<ConsumerStatus> consumers;
  for (const auto& row : counts) {
    consumers.push_back({.consumer = textOf(row[0]),
                         .failed = static_cast<std::uint64_t>(integerOf(row[1])),
                         .held = static_cast<std::uint64_t>(integerOf(row[2])),
                         .oldest = Wait(integerOf(row[3]))});
  }
  return consumers;
}

}  // namespace pillion::inbox
