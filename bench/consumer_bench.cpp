#include "consumer_bench.hpp"

#include <algorithm>
#include <fstream>
#include <set>
#include <stdexcept>
#include <thread>

#include "amqp/connection.hpp"
#include "bare_consumer.hpp"
#include "bench_servers.hpp"

namespace pillion::bench {
namespace {

constexpr long kKeys = 10'000;
constexpr const char* kService = "bench-service";
constexpr int kRounds = 5;
constexpr std::chrono::milliseconds kNoConfirm{10'000};
constexpr const char* kUpdate = "update account set balance = balance + 1 where id = $1";

/// Ids of version 7, made now: `run` and `number` decide, so that they can be sent again.
std::string idOf(long run, long number) {
  static const auto made = std::chrono::duration_cast<std::chrono::milliseconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
  char id[64];
  std::snprintf(id, sizeof id, "%08llx-%04llx-7000-8%03lx-%012lx",
                static_cast<unsigned long long>(made >> 16),
                static_cast<unsigned long long>(made & 0xFFFF), static_cast<unsigned long>(run),
                static_cast<unsigned long>(number));
  return id;
}

amqp::Message messageOf(long run, long number) {
  amqp::Message message;
  message.routingKey = message.type = "bench.created";
  message.messageId = idOf(run, number);
  message.appId = "bench";
  message.contentType = "application/json";
  message.body = payload();
  message.attributes.emplace();
  message.attributes->time = "2026-01-31T23:59:59.123456Z";
  message.attributes->key = std::to_string(number % kKeys);
  return message;
}

/// Takes a confirm's tags out of those that are outstanding.
void take(std::set<std::uint64_t>& outstanding, const amqp::Confirm& confirm) {
  if (!confirm.positive) throw std::runtime_error("the broker refused a message");
  if (!confirm.multiple) {
    outstanding.erase(confirm.tag);
    return;
  }
  outstanding.erase(outstanding.begin(), outstanding.upper_bound(confirm.tag));
}

void handle(const Event& event, Transaction& tx) {
  tx.exec_params(kUpdate, event.key());
}

long peakRssKib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    long kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib;
  }
  return 0;
}

/// Events per second between the first hundredth and the last.
double untilApplied(const EventConsumer& consumer, long events) {
  const auto settled = [&] {
    const auto stats = consumer.stats();
    return static_cast<long>(stats.applied + stats.duplicates);
  };
  const long first = events / 100;
  while (settled() < first) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const long from = settled();
  const auto start = Steady::now();
  while (settled() < events) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return static_cast<double>(events - from) / secondsSince(start);
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
    report_.measure({"batch_gain"}, [&] {
      ConsumerOptions single;
      single.batchEvents = 1;
      report_.compare(
          "batch_gain", 3, [&] { return consume(++run_, report_.scaled(50'000), {}); },
          [&] { return consume(++run_, report_.scaled(20'000), single); });
    });
    report_.measure({"duplicates_vs_broker"}, [&] { duplicates(); });
    report_.measure({"single_latency"}, [&] { singleLatency(); });
    report_.measure({"consumer_rss_mib"}, [&] { memory(); });
    report_.finish();
  }

 private:
  [[nodiscard]] std::unique_ptr<EventConsumer> create(ConsumerOptions options) const {
    options.database = servers_.database(database_);
    options.broker = servers_.broker();
    auto consumer = EventConsumer::create(kService, {"#"}, options);
    consumer->onEvent("#", handle);
    return consumer;
  }

  void fillQueue(long run, long events) const {
    amqp::Connection connection(servers_.broker(), "bench filler");
    connection.selectConfirms(kExchange);
    std::set<std::uint64_t> outstanding;
    const auto settle = [&](std::chrono::milliseconds wait) {
      const auto incoming = connection.receive(wait);
      if (!incoming) return false;
      if (std::holds_alternative<amqp::Returned>(*incoming)) {
        throw std::runtime_error("the broker returned a message: is the queue bound?");
      }
      if (const auto* word = std::get_if<amqp::Confirm>(&*incoming)) take(outstanding, *word);
      return true;
    };
    for (long n = 0; n < events; ++n) {
      outstanding.insert(connection.publish(messageOf(run, n)));
      while (settle(std::chrono::milliseconds(outstanding.size() > 1'000 ? 100 : 0))) {
      }
    }
    while (!outstanding.empty()) {
      if (!settle(kNoConfirm)) throw std::runtime_error("the broker confirms no more messages");
    }
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

  void duplicates() {
    const long events = report_.scaled(100'000);
    const long known = ++run_;
    consume(known, events, {});
    report_.compare(
        "duplicates_vs_broker", kRounds, [&] { return consume(known, events, {}); },
        [&] {
          fillQueue(known, events);
          return consumeBare("127.0.0.1", servers_.rabbit.port(), queue_, events,
                             ConsumerOptions().prefetch);
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
    ConsumerOptions single;
    single.batchEvents = 1;
    report_.compare(
        "single_latency", kRounds, [&] { return oneAtATime({}); },
        [&] { return oneAtATime(single); }, " ms");
  }

  void memory() {
    const long events = report_.scaled(500'000);
    fillQueue(++run_, events);
    support::ProcessOptions options;
    options.command = {"/proc/self/exe", "consumer-child", std::to_string(events)};
    options.environment = {{"PILLION_DATABASE_URL", servers_.postgres.url(database_)},
                           {"PILLION_AMQP_URL", servers_.rabbit.url()},
                           {"PILLION_EXCHANGE", kExchange}};
    const auto child = support::run(options, std::chrono::seconds(600));
    const auto at = child.output.rfind("peak ");
    if (child.status != 0 || at == std::string::npos) throw std::runtime_error(child.output);
    report_.value("consumer_rss_mib", std::stod(child.output.substr(at + 5)) / 1024);
  }

  Report report_;
  BenchServers servers_;
  std::string database_;
  std::string queue_ = std::string(kService) + ".events";
  long run_ = 0;
};

}  // namespace

void runConsumerBench(const BenchOptions& options) {
  ConsumerBench(options).run();
}

void consumeInChild(long events) {
  const auto consumer = EventConsumer::create(kService, {"#"});
  consumer->onEvent("#", handle);
  consumer->start();
  untilApplied(*consumer, events);
  consumer->stop();
  std::printf("peak %ld\n", peakRssKib());
}

}  // namespace pillion::bench
