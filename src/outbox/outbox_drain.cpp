#include <pillion/error.hpp>
#include <pillion/testing.hpp>
#include <pqxx/pqxx>

#include "event/row.hpp"
#include "migrate/schema_check.hpp"
#include "outbox/outbox_table.hpp"
#include "postgres/connection.hpp"

namespace pillion::testing {
namespace {

constexpr std::size_t kMostEvents = 10'000;
constexpr std::size_t kMostBytes = std::size_t{1} << 30;

}  // namespace

struct OutboxDrain::State {
  explicit State(const DatabaseOptions& options)
      : schema(postgres::schemaOf(options)),
        connection(postgres::connect(options, "outbox drain")),
        reader(schema, kMostBytes) {}

  std::string schema;
  std::unique_ptr<postgres::Connection> connection;
  outbox::OutboxReader reader;
  outbox::Position position;
};

OutboxDrain::OutboxDrain(const DatabaseOptions& options)
    : state_(std::make_unique<State>(options)) {
  postgres::guarded("opening the outbox", [&] {
    pqxx::nontransaction tx{*state_->connection};
    migrate::requireCurrentSchema(tx, state_->schema);
    const auto now = tx.exec("select pg_current_snapshot()::text");
    state_->position.done = outbox::Snapshot::parse(now[0][0].c_str());
  });
}

OutboxDrain::~OutboxDrain() = default;

std::vector<Event> OutboxDrain::take() {
  std::vector<Event> events;
  postgres::guarded("reading the outbox", [&] {
    pqxx::nontransaction tx{*state_->connection};
    const auto live = state_->reader.fetchLive(tx, state_->position, kMostEvents);
    if (live.cut) {
      throw Error("more than " + std::to_string(kMostEvents) +
                  " events since the last call of take()");
    }
    for (const Row& row : live.rows) events.push_back(eventOf(row));
    state_->position.done = live.now;
  });
  return events;
}

}  // namespace pillion::testing
