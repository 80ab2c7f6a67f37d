#include "consumer_fixture.hpp"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <set>
#include <sstream>
#include <stdexcept>

#include "postgres/identifier.hpp"

namespace pillion::test {
namespace {

std::string table(const World& world, const std::string& name) {
  return postgres::quoteIdentifier(world.database.options().schema) + "." + name;
}

/// Takes a confirm's tags out of those that are outstanding.
void settle(std::set<std::uint64_t>& outstanding, const amqp::Confirm& confirm) {
  if (!confirm.positive) throw std::runtime_error("the broker refused a message");
  if (!confirm.multiple) {
    outstanding.erase(confirm.tag);
    return;
  }
  outstanding.erase(outstanding.begin(), outstanding.upper_bound(confirm.tag));
}

}  // namespace

World::World(const std::string& schema) : database(schema) {
  database.execute(
      "create table public.journal (position bigserial, event_id uuid, key text, number int, note "
      "text,"
      " at timestamptz default clock_timestamp())");
}

World::~World() {
  // Hundreds of quorum queues would make the broker's end slow, and its restarts with it. The next
  // world may have a queue of the same name.
  try {
    Servers::mq().eval(
        "[catch rabbit_amqqueue:delete(Q, false, false, <<\"test\">>) || "
        "Q <- rabbit_amqqueue:list()], "
        "[catch rabbit_exchange:delete(X, false, <<\"test\">>) || "
        "X = {resource, _, exchange, N} <- rabbit_exchange:list_names(), "
        "binary:longest_common_suffix([N, <<\".inbox\">>]) =:= 6], ok");
  } catch (const std::exception&) {  // a test that failed may have left it stopped
  }
}

long World::inbox() const {
  return database.count("select count(*) from " + table(*this, "inbox"));
}

long World::parked() const {
  return database.count("select count(*) from " + table(*this, "inbox_parked"));
}

long World::letters() const {
  return database.count("select count(*) from " + table(*this, "inbox_dead"));
}

bool World::ordered() const {
  return database.count(
             "select count(*) from (select number, lag(number) over (partition by key order by"
             " position) as before from journal) j where number <= before") == 0;
}

long World::outbox() const {
  return database.count("select count(*) from " + table(*this, "outbox"));
}

ConsumerOptions World::consumerOptions() const {
  ConsumerOptions options;
  options.database = database.options();
  options.broker = brokerOptions(exchange);
  options.retry = {.maxAttempts = 3, .first = 10ms, .factor = 1.0, .most = 10ms};
  return options;
}

void writeJournal(const Event& event, Transaction& tx, const std::string& note) {
  const bool numbered = event.isJson() && event.data().is_object();
  const int number = numbered ? event.data().value("number", 0) : 0;
  tx.exec_params("insert into journal (event_id, key, number, note) values ($1, $2, $3, $4)",
                 event.id(), event.key(), number, note);
}

std::unique_ptr<EventConsumer> journalConsumer(const ConsumerOptions& options,
                                               const std::string& service) {
  auto consumer = EventConsumer::create(service, {"#"}, options);
  consumer->onEvent("#",
                    [](const Event& event, Transaction& tx) { writeJournal(event, tx, "here"); });
  return consumer;
}

std::unique_ptr<EventConsumer> journalConsumer(const World& world, const std::string& service) {
  return journalConsumer(world.consumerOptions(), service);
}

void declareOnly(const World& world, const std::string& service) {
  const auto consumer = journalConsumer(world, service);
  consumer->start();
  consumer->stop();
}

std::vector<Event> numberedEvents(std::size_t count, const std::string& key) {
  std::vector<Event> events;
  for (std::size_t i = 1; i <= count; ++i) {
    events.push_back(Event("order.placed", {{"number", i}}).setKey(key));
  }
  return events;
}

std::vector<Event> interleaved(int keys, int perKey, int first) {
  std::vector<Event> events;
  for (int number = first; number < first + perKey; ++number) {
    for (int key = 0; key < keys; ++key) {
      events.push_back(
          Event("order.placed", {{"number", number}}).setKey("key-" + std::to_string(key)));
    }
  }
  return events;
}

std::vector<amqp::Message> withLanes(const std::vector<Event>& events) {
  std::vector<amqp::Message> messages;
  for (const Event& event : events) {
    messages.push_back(messageOf(event));
    const auto lane = std::hash<std::string>()(event.key()) % amqp::kLanes;
    messages.back().headers.emplace_back(amqp::kLaneHeader, std::to_string(lane));
  }
  return messages;
}

amqp::Message messageOf(const Event& event) {
  amqp::Message message;
  message.routingKey = event.type();
  message.type = event.type();
  message.messageId = event.id();
  message.appId = "test";
  message.contentType = event.contentType();
  message.headers = {{"cloudEvents_specversion", "1.0"}};
  if (!event.key().empty()) message.headers.emplace_back("cloudEvents_partitionkey", event.key());
  message.body = event.bytes();
  return message;
}

void send(const std::string& exchange, std::span<const amqp::Message> messages) {
  amqp::Connection connection(brokerOptions(exchange), "test");
  connection.selectConfirms(exchange);
  std::set<std::uint64_t> outstanding;
  for (const amqp::Message& message : messages) outstanding.insert(connection.publish(message));
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!outstanding.empty()) {
    if (std::chrono::steady_clock::now() > end) throw std::runtime_error("no confirm from broker");
    const auto incoming = connection.receive(100ms);
    if (!incoming) continue;
    if (std::holds_alternative<amqp::Returned>(*incoming)) {
      throw std::runtime_error("no queue is bound to " + exchange);
    }
    if (const auto* confirm = std::get_if<amqp::Confirm>(&*incoming)) settle(outstanding, *confirm);
  }
  connection.close();
}

void send(const std::string& exchange, std::span<const Event> events) {
  std::vector<amqp::Message> messages;
  for (const Event& event : events) messages.push_back(messageOf(event));
  send(exchange, std::span<const amqp::Message>(messages));
}

void send(const std::string& exchange, const Event& event) {
  send(exchange, std::span(&event, 1));
}

std::vector<amqp::Message> readDeadLetters(const std::string& queue, std::size_t count,
                                           std::chrono::milliseconds limit) {
  amqp::Connection connection(brokerOptions("unused"), "test");
  connection.consume(queue + ".dead", 100);
  std::vector<amqp::Message> messages;
  const auto end = std::chrono::steady_clock::now() + limit;
  while (messages.size() < count && std::chrono::steady_clock::now() < end) {
    auto incoming = connection.receive(50ms);
    if (!incoming) continue;
    if (auto* delivery = std::get_if<amqp::Delivery>(&*incoming)) {
      connection.ack(*delivery);
      messages.push_back(std::move(delivery->message));
    }
  }
  connection.close();
  return messages;
}

std::string header(const amqp::Message& message, const std::string& name) {
  for (const auto& [key, value] : message.headers) {
    if (key == name) return value;
  }
  return "(none)";
}

struct LogCapture::Store : spdlog::sinks::base_sink<std::mutex> {
  std::vector<std::string> copy() {
    const std::scoped_lock lock(mutex_);
    return kept;
  }

  std::vector<std::string> kept;

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    kept.emplace_back(message.payload.data(), message.payload.size());
  }
  void flush_() override {}
};

LogCapture::LogCapture() : store_(std::make_shared<Store>()) {
  const spdlog::sinks_init_list sinks{store_, std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  useLogger(std::make_shared<spdlog::logger>("captured", sinks));
}

LogCapture::~LogCapture() {
  useLogger(nullptr);
}

std::vector<std::string> LogCapture::lines() const {
  return store_->copy();
}

std::size_t LogCapture::count(const std::string& text) const {
  std::size_t found = 0;
  for (const std::string& line : lines()) found += line.find(text) != std::string::npos ? 1 : 0;
  return found;
}

std::string LogCapture::text() const {
  std::string all;
  for (const std::string& line : lines()) all += line + "\n";
  return all;
}

namespace {

support::ProcessOptions consumerProcessOptions(const World& world, const std::string& service,
                                               const std::string& failpoints,
                                               const std::vector<std::string>& arguments) {
  support::ProcessOptions options;
  options.command = {CONSUMER_PROCESS, service};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.environment = environmentFor(world.database, world.exchange);
  options.environment["PILLION_FAILPOINTS"] = failpoints;
  options.output = Servers::instance().directory / (uniqueName("consumer") + ".log");
  return options;
}

}  // namespace

ConsumerProcess::ConsumerProcess(const World& world, const std::string& service,
                                 const std::string& failpoints,
                                 const std::vector<std::string>& arguments)
    : process_(consumerProcessOptions(world, service, failpoints, arguments)) {}

void ConsumerProcess::awaitReady() const {
  const bool ready = eventually(20s, [&] {
    return process_.output().find("ready\n") != std::string::npos || !process_.running();
  });
  if (!ready || !process_.running()) {
    throw std::runtime_error("the consumer process did not start: " + process_.output());
  }
}

std::map<std::string, long> ConsumerProcess::stop() {
  const int status = process_.terminate(20s);
  const std::string output = process_.output();
  const auto at = output.rfind("counters ");
  if (status != 0 || at == std::string::npos) {
    throw std::runtime_error("the consumer process ended with " + std::to_string(status) + ": " +
                             output);
  }
  std::map<std::string, long> counters;
  std::istringstream words(output.substr(at + 9));
  for (std::string name, value; words >> name >> value;) counters[name] = std::stol(value);
  return counters;
}

}  // namespace pillion::test
