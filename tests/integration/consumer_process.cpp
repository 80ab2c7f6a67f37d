// A consuming service for tests that kill it: writes a journal row per event until SIGTERM, then
// prints its counters. Servers, schema and exchange come from the environment.
//
//   consumer_process <service> [prefetch [delivery limit]]
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <pillion/pillion.hpp>

namespace {

pillion::ConsumerOptions optionsFrom(int argc, char** argv) {
  pillion::ConsumerOptions options;
  options.broker.reconnectFirst = std::chrono::milliseconds(50);
  options.broker.reconnectMost = std::chrono::milliseconds(500);
  if (argc > 2) options.prefetch = static_cast<std::uint16_t>(std::atoi(argv[2]));
  if (argc > 3) options.deliveryLimit = std::atoi(argv[3]);
  return options;
}

void printCounters(const pillion::ConsumerStats& stats) {
  std::printf("counters delivered %llu applied %llu duplicates %llu ignored %llu failed %llu\n",
              static_cast<unsigned long long>(stats.delivered),
              static_cast<unsigned long long>(stats.applied),
              static_cast<unsigned long long>(stats.duplicates),
              static_cast<unsigned long long>(stats.ignored),
              static_cast<unsigned long long>(stats.failed));
}

void runUntilSignal(int argc, char** argv, const sigset_t& signals) {
  const std::string instance = std::to_string(::getpid());
  const auto consumer = pillion::EventConsumer::create(argv[1], {"#"}, optionsFrom(argc, argv));
  consumer->onEvent("#", [&](const pillion::Event& event, pillion::Transaction& tx) {
    tx.exec_params("insert into journal (event_id, key, number, note) values ($1, $2, $3, $4)",
                   event.id(), event.key(), event.data().value("number", 0), instance);
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
