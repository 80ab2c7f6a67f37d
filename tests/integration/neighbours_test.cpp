// Events that share a transaction: what the handler of one does to it, and to the session, is not
// the others' trouble.
#define PILLION_TEST_MAIN
#include <amqp/message.hpp>
#include <set>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

constexpr std::size_t kTogether = 7;

/// A consumer of events with the keys k1, k2, … that are in the queue before it starts.
struct Together : World {
  using Body = std::function<void(const Event&, Transaction&)>;

  explicit Together(Body body) : body_(std::move(body)) {}

  /// What is in force where a handler begins, and was not when the session began.
  static std::string leftBehind(Transaction& tx) {
    return tx
        .exec(
            "select concat_ws(' ', (select string_agg(name, ' ') from pg_settings where source ="
            " 'session' and name not in ('client_encoding', 'transaction_isolation') and name !~"
            " '^tcp_'), "
            "nullif(current_setting('app.tenant',"
            " true), ''), nullif(current_user::text, session_user::text),"
            " (select string_agg(relname, ' ') from pg_class where relpersistence = 't' and"
            " pg_table_is_visible(oid)), (select string_agg(locktype, ' ') from pg_locks where"
            " locktype = 'advisory' and pid = pg_backend_pid()), nullif(pg_client_encoding(),"
            " 'UTF8'), nullif(current_setting('transaction_isolation'), 'read committed'))")[0][0]
        .c_str();
  }

  static std::string joined(const std::set<std::string>& texts) {
    std::string all;
    for (const std::string& text : texts) all += text.empty() ? "" : text + ", ";
    return all;
  }

  void run(int workers = 1, std::size_t count = kTogether) {
    const std::string service = uniqueName("together");
    declareOnly(*this, service);
    for (std::size_t i = 1; i <= count; ++i) {
      send(exchange, Event("order.placed", {{"number", i}}).setKey("k" + std::to_string(i)));
    }
    auto options = consumerOptions();
    options.workers = workers;
    consumer = EventConsumer::create(service, {"#"}, options);
    consumer->onEvent("#", body_);
    consumer->start();
  }
  /// All but one have had their effect once, and that one is a dead letter.
  void checkOneDied(const std::string& key) {
    CHECK(eventually(30s, [&] {
      const auto stats = consumer->stats();
      return stats.deadLettered == 1 && journal() == kTogether - 1 && parked() == 0;
    }));
    CHECK(journalIds() == kTogether - 1);
    CHECK(inbox() == kTogether - 1);
    CHECK(database.count("select count(*) from journal where key = '" + key + "'") == 0);
    CHECK(readDeadLetters(consumer->queue(), 1).size() == 1);
  }

  std::unique_ptr<EventConsumer> consumer;

 private:
  Body body_;
};

}  // namespace

TEST_CASE("no text by which a handler ends its transaction loses or repeats a neighbour") {
  for (const std::string text :
       {"commit", "commit; begin", "commit; begin; select 1; commit", "end", "COMMIT WORK",
        "/* so */ commit and chain", "rollback", "rollback; begin", "rollback and chain", "abort",
        "savepoint a; rollback; begin; savepoint a", "prepare transaction 'x'",
        "do $$ begin commit; end $$", "call public.committing()", "close all",
        "set constraints all immediate; commit", "rollback to savepoint others"}) {
    CAPTURE(text);
    Together world([&](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      if (event.key() == "k2") tx.exec("savepoint others");
      if (event.key() == "k3") tx.exec(text);
    });
    world.database.execute(
        "create procedure public.committing() language plpgsql as $$ begin commit; end $$");
    world.run();
    world.checkOneDied("k3");
  }
}

TEST_CASE("a handler that hides the end of its transaction has its neighbours applied once") {
  for (const std::string text : {"commit", "rollback"}) {
    CAPTURE(text);
    Together world([&](const Event& event, Transaction& tx) {
      writeJournal(event, tx);
      if (event.key() != "k3") return;
      try {
        tx.exec(text);
      } catch (const std::exception&) {  // as if all were well
      }
    });
    world.run();
    world.checkOneDied("k3");
  }
}

TEST_CASE(
    "a session lock that a handler took ends with its transaction, also when no other follows") {
  const World world;
  const auto consumer = EventConsumer::create("locks", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    tx.exec("select pg_advisory_lock(7)");
    writeJournal(event, tx);
  });
  consumer->start();
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  CHECK(world.database.count("select count(*) from pg_locks where locktype = 'advisory'") == 0);
}

TEST_CASE("PostgreSQL notices the end of a machine that says nothing, for each handler's session") {
  const World world;
  const auto consumer = EventConsumer::create("powerless", {"#"}, world.consumerOptions());
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    std::string said;
    for (const std::string name :
         {"keepalives_idle", "keepalives_interval", "keepalives_count", "user_timeout"}) {
      said += tx.exec("show tcp_" + name)[0][0].c_str() + std::string(" ");
    }
    writeJournal(event, tx, said);
    tx.exec("set tcp_keepalives_idle = 7200");
  });
  consumer->start();
  send(world.exchange, numberedEvents(5));
  CHECK(eventually(20s, [&] { return world.journal() == 5; }));
  CHECK(world.database.query("select distinct note from journal") == "10 5 3 25000 ");
}

TEST_CASE("a handler finds its session as it was, whatever the one before it has set") {
  for (const std::string text :
       {"set local search_path = pg_catalog", "set search_path = pg_catalog",
        "select set_config('app.tenant', 'a', true)", "select set_config('app.tenant', 'a', false)",
        "set local role tenant", "set role tenant", "set local statement_timeout = 12345",
        "set session characteristics as transaction isolation level repeatable read",
        "set default_transaction_isolation = serializable", "set client_encoding = latin1",
        "create temporary table mine (a int)",
        "create temporary table mine on commit drop as select 1", "select pg_advisory_lock(1)",
        "set local session authorization tenant", "insert into triggered values (1)",
        "insert into triggered select setting()"}) {
    CAPTURE(text);
    std::mutex mutex;
    std::set<std::string> left;
    Together world([&](const Event& event, Transaction& tx) {
      {
        const std::string now = Together::leftBehind(tx);
        const std::lock_guard lock(mutex);
        left.insert(now);
      }
      writeJournal(event, tx);
      if (event.key() < "k5") tx.exec(text);
    });
    world.database.execute(
        "do $$ begin create role tenant; exception when duplicate_object then null; end $$;"
        "grant tenant to current_user;"
        "create table public.triggered (a int);"
        "create function public.setting() returns int language plpgsql as $$ begin"
        " perform set_config('app.tenant', 'x', true); return 1; end $$;"
        "create function public.on_triggered() returns trigger language plpgsql as $$ begin"
        " set local statement_timeout = 4321; perform setting(); return new; end $$;"
        "create trigger t before insert on public.triggered for each row execute function"
        " public.on_triggered()");
    world.run(2);
    CHECK(eventually(30s, [&] { return world.journal() == kTogether; }));
    CHECK(world.journalIds() == kTogether);
    CHECK(world.consumer->stats().deadLettered == 0);
    CHECK(Together::joined(left) == "");
    // And in the transactions that come later on the same sessions.
    for (int i = 0; i < 4; ++i) {
      send(world.exchange, Event("order.placed", {{"number", 1}}).setKey("k9"));
      REQUIRE(
          eventually(20s, [&] { return world.journal() == static_cast<long>(kTogether) + i + 1; }));
    }
    CHECK(Together::joined(left) == "");
  }
}

TEST_CASE("a trigger that sets something is found out when rows are all that a handler changes") {
  std::mutex mutex;
  std::set<std::string> left;
  Together world([&](const Event& event, Transaction& tx) {
    // Read by the insert itself, so that no other command is there to be seen.
    tx.exec_params(
        "insert into journal (event_id, key, number, note) values ($1, $2, 1,"
        " current_setting('app.tenant', true))",
        event.id(), event.key());
  });
  world.database.execute(
      "create function public.on_journal() returns trigger language plpgsql as $$ begin perform"
      " set_config('app.tenant', new.key, true); return new; end $$;"
      "create trigger t after insert on public.journal for each row execute function"
      " public.on_journal()");
  world.run();
  CHECK(eventually(30s, [&] { return world.journal() == kTogether; }));
  CHECK(world.database.count("select count(*) from journal where note <> ''") == 0);
}

TEST_CASE("constraints that a handler defers are the next one's immediate ones") {
  Together world([&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (event.key() == "k1") tx.exec("set constraints all deferred");
    if (event.key() == "k2") {
      try {  // counts on being told at once
        pqxx::subtransaction inner{tx, "inner"};
        inner.exec("insert into once values (1), (1)");
      } catch (const pqxx::sql_error&) {
      }
    }
  });
  world.database.execute("create table public.once (a int unique deferrable initially immediate)");
  world.run();
  CHECK(eventually(30s, [&] { return world.journal() == kTogether; }));
  CHECK(world.consumer->stats().deadLettered == 0);
}

TEST_CASE(
    "a handler that closes its connection is an outage that ends as a failure, and no crash") {
  Together world([&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    if (event.key() != "k3") return;
#if PQXX_VERSION_MAJOR < 7
    tx.conn().disconnect();
#else
    tx.conn().close();
#endif
  });
  world.run();
  world.checkOneDied("k3");
}

TEST_CASE("cursors that a handler leaves open are not there for the next transaction") {
  Together world([&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    tx.exec("declare kept cursor with hold for select 1");
  });
  world.run(1, 1);
  for (int i = 2; i <= 4; ++i) {
    REQUIRE(eventually(20s, [&] { return world.journal() == i - 1; }));
    send(world.exchange, Event("order.placed", {{"number", 1}}).setKey("k" + std::to_string(i)));
  }
  CHECK(eventually(20s, [&] { return world.journal() == 4; }));
  CHECK(world.consumer->stats().failed == 0);
}

TEST_CASE("after SET LOCAL ROLE, a parked event is tried again and removed") {
  std::atomic<int> calls{0};
  Together world([&](const Event& event, Transaction& tx) {
    if (++calls < 3) throw std::runtime_error("not yet");
    writeJournal(event, tx);
    tx.exec("set local role tenant");
  });
  world.database.execute(
      "do $$ begin create role tenant; exception when duplicate_object then null; end $$;"
      "grant tenant to current_user");
  world.run(1, 1);
  CHECK(eventually(30s, [&] { return world.journal() == 1 && world.parked() == 0; }));
  CHECK(world.consumer->stats().deadLettered == 0);
}

TEST_CASE("an encoding that a handler sets makes the next id no other id") {
  Together world([&](const Event& event, Transaction& tx) {
    writeJournal(event, tx);
    tx.exec("set client_encoding = latin1");
  });
  world.run(1, 1);
  REQUIRE(eventually(20s, [&] { return world.journal() == 1; }));
  auto message = messageOf(Event("order.placed", {{"number", 1}}).setKey("k1"));
  message.appId = "d\xc3\xa9p\xc3\xb4t";
  for (int i = 0; i < 3; ++i) send(world.exchange, std::span(&message, 1));
  CHECK(eventually(20s, [&] { return world.consumer->stats().duplicates == 2; }));
  CHECK(world.journal() == 2);
  CHECK(world.database.count(
            "select count(*) from pillion.inbox where source = 'd\u00e9p\u00f4t'") == 1);
}

}  // namespace pillion::test
