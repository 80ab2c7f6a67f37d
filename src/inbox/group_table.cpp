#include "inbox/group_table.hpp"

#include <charconv>
#include <pillion/error.hpp>
#include <string_view>

#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::inbox {
namespace {

using postgres::execute;
using postgres::inSchema;
using postgres::integerOf;
using postgres::textOf;

std::string arrayOf(const Partitions& partitions) {
  std::string array = "{";
  for (const int partition : partitions) {
    if (array.size() > 1) array += ',';
    array += std::to_string(partition);
  }
  return array + '}';
}

/// Of the text form: `{1,2}`.
Partitions partitionsOf(const pqxx::field& field) {
  Partitions partitions;
  const std::string_view text(field.c_str(), field.size());
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at != end;) {
    int partition = 0;
    const auto [next, error] = std::from_chars(at, end, partition);
    if (error == std::errc()) partitions.insert(partition);
    at = next == at ? at + 1 : next;
  }
  return partitions;
}

Partitions joined(Partitions some, const Partitions& others) {
  some.insert(others.begin(), others.end());
  return some;
}

}  // namespace

Share sharePartitions(pqxx::transaction_base& tx, const std::string& schema, const Member& member,
                      int initial, std::chrono::milliseconds lease, const Assignment& had,
                      const Consumption& consumption) {
  const bool same = consumption.generation == had.generation;
  const Partitions has = same ? joined(had.wanted, consumption.consumed) : had.wanted;
  const auto row = execute(
      tx,
      inSchema("select total, generation, next_total, all_know, is_draining, want, is_settled from"
               " {schema}.share_partitions($1::text, $2::text::uuid, $3::text, $4::text::int,"
               " $5::text::int, $6::text::int[], $7::text::boolean, $8::text::bigint * interval '1"
               " millisecond', $9::text::int, $10::text::int, $11::text::int[])",
               schema),
      {member.consumer, member.instance, member.name, std::to_string(initial),
       std::to_string(had.generation), arrayOf(has), consumption.connected ? "t" : "f",
       textOf(lease), std::to_string(consumption.known), std::to_string(consumption.bound),
       same ? arrayOf(consumption.empty) : "{}"})[0];
  return {.assignment = {.generation = static_cast<int>(integerOf(row[1])),
                         .partitions = static_cast<int>(integerOf(row[0])),
                         .next = static_cast<int>(integerOf(row[2])),
                         .allKnow = textOf(row[3]) == "t",
                         .draining = textOf(row[4]) == "t",
                         .wanted = partitionsOf(row[5])},
          .isSettled = textOf(row[6]) == "t"};
}

void leaveGroup(pqxx::transaction_base& tx, const std::string& schema, const Member& member) {
  execute(tx,
          inSchema("delete from {schema}.inbox_instance where consumer = $1::text and instance ="
                   " $2::text::uuid",
                   schema),
          {member.consumer, member.instance});
}

void changePartitions(pqxx::transaction_base& tx, const std::string& schema,
                      const std::string& consumer, int partitions) {
  const auto group = execute(tx,
                             inSchema("select partitions, coalesce(next_partitions, 0) from"
                                      " {schema}.inbox_group where consumer = $1::text for update",
                                      schema),
                             {consumer});
  if (group.empty()) {
    throw ConfigError("no consumer '" + consumer +
                      "' with partitions has been started on this database");
  }
  const auto present = integerOf(group[0][0]);
  const auto next = integerOf(group[0][1]);
  if (next == partitions || (next == 0 && present == partitions)) return;
  if (next != 0) {
    throw ConfigError("consumer '" + consumer + "' is being changed from " +
                      std::to_string(present) + " to " + std::to_string(next) +
                      " partitions; wait until that is done");
  }
  execute(tx,
          inSchema("update {schema}.inbox_group set next_partitions = $2::text::int, bound_at ="
                   " null, drained = '{}' where consumer = $1::text",
                   schema),
          {consumer, std::to_string(partitions)});
}

std::vector<GroupStatus> readGroups(pqxx::transaction_base& tx, const std::string& schema) {
  const auto rows = tx.exec(inSchema(
      "select g.consumer, g.partitions, g.generation, coalesce(g.next_partitions, 0),"
      " cardinality(g.drained), coalesce(i.name, ''), coalesce(i.partitions, '{}'),"
      " coalesce(i.ready, false), coalesce(i.alive_until < pg_catalog.clock_timestamp(), false)"
      " from {schema}.inbox_group g left join {schema}.inbox_instance i on i.consumer = g.consumer"
      " order by g.consumer, i.joined_at, i.instance",
      schema));
  std::vector<GroupStatus> groups;
  for (const auto& row : rows) {
    const std::string consumer = textOf(row[0]);
    if (groups.empty() || groups.back().consumer != consumer) {
      groups.push_back({.consumer = consumer,
                        .partitions = static_cast<int>(integerOf(row[1])),
                        .generation = static_cast<int>(integerOf(row[2])),
                        .nextPartitions = static_cast<int>(integerOf(row[3])),
                        .drained = static_cast<int>(integerOf(row[4])),
                        .instances = {}});
    }
    const std::string name = textOf(row[5]);
    if (name.empty()) continue;
    const Partitions held = partitionsOf(row[6]);
    groups.back().instances.push_back({.name = name,
                                       .partitions = {held.begin(), held.end()},
                                       .ready = textOf(row[7]) == "t",
                                       .gone = textOf(row[8]) == "t"});
  }
  return groups;
}

}  // namespace pillion::inbox
