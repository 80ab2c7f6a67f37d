#include "consumer_bench.hpp"

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "bare_consumer.hpp"
#include "bench_servers.hpp"
#include "consumer_child.hpp"
#include "event_feed.hpp"
#include "group_bench.hpp"

namespace pillion::bench {
namespace {

constexpr int kRounds = 5;
constexpr std::size_t kLarge = 8U << 20;  // bytes

void handle(const Event& event, Transaction& tx) {
  tx.exec_params(kUpdate, event.key());
}

class ConsumerBench {
 public:
  explicit ConsumerBench(const BenchOptions& options) : report_(options) {
    database_ = servers_.createDatabase();
    servers_.postgres.execute(
        database_,
        "create table account (id int primary key, balance bigint not null) with (fillfactor = "
        "50);"
        "insert into account select g, 0 from generate_series(0, 9999) g; analyze account;");
    auto consumer = create({});
    consumer->start();  // declares
    consumer->stop();
  }

  void run() {
    report_.measure({"consume_vs_database"}, [&] {
      const long events = report_.scaled(100'000);
      report_.compare(
          "consume_vs_database", kRounds, [&] { return consume(++run_, events, {}); },
          [&] { return databaseAlone(++run_, events); });
    });
    report_.measure({"single_rate"}, [&] {
      const long events = report_.scaled(20'000);
      report_.compare(
          "single_rate", kRounds, [&] { return consume(++run_, events, single()); },
          [&] { return bareSingle(++run_, events); });
    });
    report_.measure({"batch_gain"}, [&] {
      report_.compare(
          "batch_gain", 3, [&] { return consume(++run_, report_.scaled(50'000), {}); },
          [&] { return consume(++run_, report_.scaled(20'000), single()); });
    });
    report_.measure({"duplicates_vs_broker"}, [&] { duplicates(); });
    report_.measure({"single_latency"}, [&] { singleLatency(); });
    measureGroups(report_, servers_);
    report_.measure({"consumer_rss_idle_mib"}, [&] { memory("consumer_rss_idle_mib", 1); });
    report_.measure({"consumer_rss_small_mib"},
                    [&] { memory("consumer_rss_small_mib", report_.scaled(500'000)); });
    report_.measure({"consumer_rss_mib"},
                    [&] { memory("consumer_rss_mib", report_.quick() ? 60 : 500, kLarge); });
    report_.finish();
  }

 private:
  static ConsumerOptions single() {
    ConsumerOptions options;
    options.batchEvents = 1;
    return options;
  }

  [[nodiscard]] BareQueue bareQueue() const {
    return {"127.0.0.1", servers_.rabbit.port(), std::string(kService) + ".events",
            ConsumerOptions().prefetch};
  }

  [[nodiscard]] std::unique_ptr<EventConsumer> create(ConsumerOptions options) const {
    options.database = servers_.database(database_);
    options.broker = servers_.broker();
    auto consumer = EventConsumer::create(kService, {"#"}, options);
    consumer->onEvent("#", handle);
    return consumer;
  }

  void fillQueue(long run, long events, std::size_t bytes = kPayload) const {
    feed(servers_.broker(), run, events, bytes);
    servers_.postgres.execute(database_, "checkpoint");
  }

  double consume(long run, long events, const ConsumerOptions& options) {
    fillQueue(run, events);
    const auto consumer = create(options);
    consumer->start();
    const double rate = untilApplied(*consumer, events);
    consumer->stop();
    return rate;
  }

  /// What the consumer does to the database, in the same batches, with nobody else about.
  double databaseAlone(long run, long events) {
    constexpr long kBatch = 100;
    pqxx::connection connection(servers_.postgres.url(database_));
    connection.prepare("claim",
                       "insert into pillion.inbox (consumer, event_id, source) select 'alone',"
                       " id, 'bench' from unnest($1::uuid[]) id on conflict do nothing");
    const auto start = Steady::now();
    for (long from = 0; from < events; from += kBatch) {
      std::string ids = "{";
      for (long n = from; n < from + kBatch; ++n) ids += (n > from ? "," : "") + idOf(run, n);
      pqxx::work tx{connection};
      tx.exec_prepared("claim", ids + "}");
      for (long n = from; n < from + kBatch; ++n) {
        tx.exec_params(kUpdate, std::to_string(n % kKeys));
      }
      tx.commit();
    }
    return static_cast<double>(events) / secondsSince(start);
  }

  /// What a service by hand does, with nothing but these libraries: the same two statements in a
  /// transaction for each event, and its ack after that.
  double bareSingle(long run, long events) {
    fillQueue(run, events);
    pqxx::connection connection(servers_.postgres.url(database_));
    connection.prepare("claim",
                       "insert into pillion.inbox (consumer, event_id, source) values"
                       " ('alone', $1, 'bench') on conflict do nothing");
    return consumeBare(bareQueue(), events, [&](std::string_view id, std::string_view key) {
      pqxx::work tx{connection};
      const auto claimed = tx.exec_prepared("claim", std::string(id));
      if (claimed.affected_rows() > 0) tx.exec_params(kUpdate, std::string(key));
      tx.commit();
    });
  }

  void duplicates() {
    const long events = report_.scaled(100'000);
    const long known = ++run_;
    consume(known, events, {});
    report_.compare(
        "duplicates_vs_broker", kRounds, [&] { return consume(known, events, {}); },
        [&] {
          fillQueue(known, events);
          return consumeBare(bareQueue(), events);
        });
  }

  /// Milliseconds, the median of many.
  double oneAtATime(const ConsumerOptions& options) {
    const long events = report_.scaled(2'000);
    const long run = ++run_;
    const auto consumer = create(options);
    consumer->start();
    amqp::Connection connection(servers_.broker(), "bench publisher");
    connection.selectConfirms(kExchange);
    std::vector<double> latencies;
    for (long n = 0; n < events; ++n) {
      const auto start = Steady::now();
      connection.publish(messageOf(run, n));
      while (consumer->stats().applied < static_cast<std::uint64_t>(n + 1)) {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
      latencies.push_back(secondsSince(start) * 1'000);
      while (connection.receive(std::chrono::milliseconds(0))) {
      }
    }
    consumer->stop();
    std::ranges::nth_element(latencies, latencies.begin() + events / 2);
    return latencies[static_cast<std::size_t>(events / 2)];
  }

  void singleLatency() {
    report_.compare(
        "single_latency", kRounds, [&] { return oneAtATime({}); },
        [&] { return oneAtATime(single()); }, " ms");
  }

  void memory(const std::string& name, long events, std::size_t bytes = kPayload) {
    fillQueue(++run_, events, bytes);
    const auto child = support::run(
        childOptions(servers_, database_, kExchange, {"consumer-child", std::to_string(events)}),
        std::chrono::seconds(600));
    const auto at = child.output.rfind("peak ");
    if (child.status != 0 || at == std::string::npos) throw std::runtime_error(child.output);
    report_.value(name, std::stod(child.output.substr(at + 5)));
  }

  Report report_;
  BenchServers servers_;
  std::string database_;
  long run_ = 0;
};

}  // namespace

void runConsumerBench(const BenchOptions& options) {
  ConsumerBench(options).run();
}

}  // namespace pillion::bench
