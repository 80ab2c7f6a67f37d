// Pillion's logger: found or made without ever throwing, and nobody else's is touched.
#define PILLION_TEST_MAIN
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>
#include <thread>

#include "consumer_fixture.hpp"

namespace pillion::test {
namespace {

/// A logger that writes into a string.
struct TextLogger {
  explicit TextLogger(const std::string& name)
      : logger(std::make_shared<spdlog::logger>(
            name, std::make_shared<spdlog::sinks::ostream_sink_mt>(stream))) {}

  std::ostringstream stream;
  std::shared_ptr<spdlog::logger> logger;
};

/// spdlog as a fresh process has it, at the beginning and at the end of a test.
struct FreshSpdlog {
  FreshSpdlog() { forget(); }
  ~FreshSpdlog() { forget(); }
  FreshSpdlog(const FreshSpdlog&) = delete;
  FreshSpdlog& operator=(const FreshSpdlog&) = delete;

  static void forget() {
    useLogger(nullptr);
    spdlog::drop("pillion");
  }
};

/// Makes publisher and consumer, has one event travel to the journal, and writes a log line on the
/// way ("is subscribed to").
void roundTrip() {
  const World world;
  PublisherOptions options;
  options.database = world.database.options();
  const auto publisher = EventPublisher::create("publisher", options);
  const auto consumer = journalConsumer(world, uniqueName("logging"));
  consumer->start();
  publisher->publish(numberedEvents(1)[0]);
  const auto relay = Relay::create(relayOptions(world.database, world.exchange));
  relay->start();
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
  relay->stop();
  consumer->stop();
}

}  // namespace

// First in the file: later our own logger exists already, dropped or not.
TEST_CASE("our own logger is registered under its name when that is free, and stays the same") {
  const auto own = logger();
  CHECK(own->name() == "pillion");
  CHECK(spdlog::get("pillion") == own);
  CHECK(logger() == own);
}

TEST_CASE("publisher, relay and consumer may be created twice in one process") {
  const FreshSpdlog fresh;
  roundTrip();
  roundTrip();
}

TEST_CASE("two consumers and two publishers may live in one process at the same time") {
  const FreshSpdlog fresh;
  const World world;
  const auto first = journalConsumer(world, "first-of-two");
  const auto second = journalConsumer(world, "second-of-two");
  const auto one = EventPublisher::create("one");
  const auto two = EventPublisher::create("two");
  first->start();
  second->start();
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(20s, [&] { return world.journal() == 2; }));
}

TEST_CASE("a process that has registered a logger named pillion gets its lines there") {
  const FreshSpdlog fresh;
  TextLogger application("pillion");
  spdlog::register_logger(application.logger);
  roundTrip();
  roundTrip();
  CHECK(spdlog::get("pillion") == application.logger);
  CHECK(application.stream.str().find("is subscribed to") != std::string::npos);
}

TEST_CASE("a logger named pillion may be registered or dropped after ours was made") {
  const FreshSpdlog fresh;
  const auto own = logger();
  spdlog::drop("pillion");
  TextLogger application("pillion");
  CHECK_NOTHROW(spdlog::register_logger(application.logger));
  CHECK(logger() == application.logger);
  roundTrip();
  spdlog::drop("pillion");
  CHECK(logger() != nullptr);
  CHECK(logger() != application.logger);
  roundTrip();
}

TEST_CASE("a logger handed over by useLogger gets the lines, until null is handed over") {
  const FreshSpdlog fresh;
  TextLogger registered("pillion");
  spdlog::register_logger(registered.logger);
  TextLogger given("the application's");
  useLogger(given.logger);
  CHECK(logger() == given.logger);
  roundTrip();
  CHECK(given.stream.str().find("is subscribed to") != std::string::npos);
  CHECK(registered.stream.str().empty());
  useLogger(nullptr);
  CHECK(logger() == registered.logger);
}

TEST_CASE("the application's default logger is neither replaced nor written to") {
  const FreshSpdlog fresh;
  const auto original = spdlog::default_logger();
  TextLogger application("application");
  spdlog::set_default_logger(application.logger);
  roundTrip();
  CHECK(spdlog::default_logger() == application.logger);
  CHECK(application.stream.str().empty());
  spdlog::info("still works");
  CHECK(application.stream.str().find("still works") != std::string::npos);
  spdlog::set_default_logger(original);
}

TEST_CASE("a default logger that is itself named pillion stays what it is") {
  const FreshSpdlog fresh;
  const auto original = spdlog::default_logger();
  TextLogger application("pillion");
  spdlog::set_default_logger(application.logger);
  roundTrip();
  CHECK(spdlog::default_logger() == application.logger);
  CHECK(application.stream.str().find("is subscribed to") != std::string::npos);
  spdlog::set_default_logger(original);
}

TEST_CASE("many threads may ask for the logger while it is replaced") {
  const FreshSpdlog fresh;
  TextLogger given("given");
  std::atomic<bool> failed{false};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        for (int n = 0; n < 500; ++n) {
          if (i == 0) useLogger(n % 2 == 0 ? given.logger : nullptr);
          if (i == 1) spdlog::drop("pillion");
          if (logger() == nullptr) failed = true;
        }
      });
    }
  }
  CHECK_FALSE(failed);
}

}  // namespace pillion::test
