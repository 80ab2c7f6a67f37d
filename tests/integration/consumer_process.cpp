// A consuming service for tests that kill it: writes a journal row per event until SIGTERM, then
// prints its counters. Servers, schema and exchange come from the environment.
//
//   consumer_process <service> [name=value …]
//
// prefetch, deliveryLimit, batch, workers, partitions, heartbeat (s): as in ConsumerOptions. fail:
// the number of the events whose handler fails, `times` times (else always) in this process.
// attempts: RetryPolicy.
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <pillion/pillion.hpp>

namespace {

using Arguments = std::map<std::string, int>;

Arguments argumentsFrom(int argc, char** argv) {
  Arguments arguments;
  for (int i = 2; i < argc; ++i) {
    const std::string text = argv[i];
    const auto equals = text.find('=');
    arguments[text.substr(0, equals)] = std::stoi(text.substr(equals + 1));
  }
  return arguments;
}

pillion::ConsumerOptions optionsFrom(const Arguments& arguments) {
  const auto value = [&](const char* name, int otherwise) {
    const auto found = arguments.find(name);
    return found == arguments.end() ? otherwise : found->second;
  };
  pillion::ConsumerOptions options;
  options.broker.reconnectFirst = std::chrono::milliseconds(50);
  options.broker.reconnectMost = std::chrono::milliseconds(500);
  options.broker.heartbeat = std::chrono::seconds(value("heartbeat", 10));
  options.prefetch = static_cast<std::uint16_t>(value("prefetch", 100));
  options.deliveryLimit = value("deliveryLimit", 100);
  options.batchEvents = value("batch", options.batchEvents);
  options.workers = value("workers", 1);
  options.partitions = value("partitions", 0);
  options.retry.maxAttempts = value("attempts", 10);
  options.retry.first = options.retry.most = std::chrono::milliseconds(value("retry", 50));
  return options;
}

void printCounters(const pillion::ConsumerStats& stats) {
  std::printf(
      "counters delivered %llu applied %llu duplicates %llu ignored %llu failed %llu dead %llu\n",
      static_cast<unsigned long long>(stats.delivered),
      static_cast<unsigned long long>(stats.applied),
      static_cast<unsigned long long>(stats.duplicates),
      static_cast<unsigned long long>(stats.ignored), static_cast<unsigned long long>(stats.failed),
      static_cast<unsigned long long>(stats.deadLettered));
}

void runUntilSignal(int argc, char** argv, const sigset_t& signals) {
  const std::string instance = std::to_string(::getpid());
  const Arguments arguments = argumentsFrom(argc, argv);
  std::atomic<int> failures{arguments.contains("times") ? arguments.at("times") : 1'000'000'000};
  const auto consumer = pillion::EventConsumer::create(argv[1], {"#"}, optionsFrom(arguments));
  consumer->onEvent("#", [&](const pillion::Event& event, pillion::Transaction& tx) {
    const int number = event.data().value("number", 0);
    tx.exec_params("insert into journal (event_id, key, number, note) values ($1, $2, $3, $4)",
                   event.id(), event.key(), number, instance);
    if (arguments.contains("fail") && arguments.at("fail") == number && --failures >= 0) {
      throw std::runtime_error("told to fail");
    }
  });
  consumer->start();
  std::puts("ready");
  std::fflush(stdout);
  int signal = 0;
  sigwait(&signals, &signal);
  consumer->stop();
  printCounters(consumer->stats());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  try {
    runUntilSignal(argc, argv, signals);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
