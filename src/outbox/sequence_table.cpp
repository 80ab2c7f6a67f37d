#include "outbox/sequence_table.hpp"

#include <pillion/error.hpp>

#include "postgres/identifier.hpp"
#include "postgres/statement.hpp"

namespace pillion::outbox {

using postgres::execute;
using postgres::inSchema;
using postgres::textOf;

void requireSequences(pqxx::transaction_base& tx, const std::string& schema) {
  const auto behind = tx.exec(inSchema(
      "select sequence, last, highest from {schema}.sequences() where last < highest", schema));
  if (behind.empty()) return;
  throw SchemaError("sequence " + schema + '.' + textOf(behind[0][0]) + " is at " +
                    textOf(behind[0][1]) + ", behind the rows that it numbers, which go up to " +
                    textOf(behind[0][2]) +
                    " (copied without it, as logical replication does); run: pillion rebase");
}

void advanceSequences(pqxx::transaction_base& tx, const std::string& schema) {
  tx.exec(inSchema("lock table {schema}.relay in exclusive mode", schema));
  tx.exec(inSchema("lock table {schema}.scheduled in exclusive mode", schema));
  tx.exec(inSchema("lock table {schema}.inbox_parked in exclusive mode", schema));
  tx.exec(inSchema("lock table {schema}.inbox_dead in exclusive mode", schema));
  execute(tx,
          inSchema("select setval(format('%I.%I', $1::text, sequence)::regclass, highest) from"
                   " (select * from {schema}.sequences() union all"
                   " select * from {schema}.inbox_sequences()) s where last < highest",
                   schema),
          {schema});
}

}  // namespace pillion::outbox
