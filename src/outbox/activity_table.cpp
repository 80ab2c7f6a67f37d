#include "outbox/activity_table.hpp"

#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {

using postgres::integerOf;
using postgres::textOf;

std::vector<SpaceHolder> readSpaceHolders(pqxx::transaction_base& tx, const std::string& schema,
                                          std::chrono::seconds least) {
  // A lock on a child refuses its TRUNCATE. A running writer, with a lock or without one yet, keeps
  // the cursors' xmin, below which alone everything is known to be published.
  const auto result = postgres::execute(
      tx,
      "with locks as (select l.pid, count(distinct c.oid) as children from pg_locks l join pg_class"
      " c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace where n.nspname ="
      " $1::text and c.relname ~ '^outbox_[0-7]$' and l.granted and l.pid <> pg_backend_pid()"
      " group by l.pid)"
      " select a.pid, a.application_name, coalesce(a.usename, ''), coalesce(a.state, ''),"
      " extract(epoch from clock_timestamp() - a.xact_start)::bigint, coalesce(k.children, 0),"
      " a.backend_xid is not null, '' from pg_stat_activity a left join locks k on k.pid = a.pid"
      " where a.datname = current_database() and a.xact_start < clock_timestamp() -"
      " $2::text::float8 * interval '1 s' and a.pid <> pg_backend_pid()"
      " and (k.pid is not null or a.backend_xid is not null)"
      " union all select 0, '', owner, 'prepared', extract(epoch from clock_timestamp() -"
      " prepared)::bigint, 0, true, gid from pg_prepared_xacts where database = current_database()"
      " and prepared < clock_timestamp() - $2::text::float8 * interval '1 s' order by 5 desc limit"
      " 20",
      {schema, std::to_string(least.count())});
  std::vector<SpaceHolder> holders;
  for (const auto& row : result) {
    SpaceHolder holder;
    holder.pid = static_cast<int>(integerOf(row[0]));
    holder.application = textOf(row[1]);
    holder.user = textOf(row[2]);
    holder.state = textOf(row[3]);
    holder.age = std::chrono::seconds(integerOf(row[4]));
    holder.lockedChildren = static_cast<int>(integerOf(row[5]));
    holder.writes = row[6].as<bool>();
    holder.preparedAs = textOf(row[7]);
    holders.push_back(holder);
  }
  return holders;
}

}  // namespace pillion::outbox
