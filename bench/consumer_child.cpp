#include "consumer_child.hpp"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "event_feed.hpp"
#include "process_time.hpp"

namespace pillion::bench {

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

support::ProcessOptions childOptions(const BenchServers& servers, const std::string& database,
                                     const std::string& exchange,
                                     const std::vector<std::string>& arguments) {
  support::ProcessOptions options;
  options.command = {"/proc/self/exe"};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  options.environment = {{"PILLION_DATABASE_URL", servers.postgres.url(database)},
                         {"PILLION_AMQP_URL", servers.rabbit.url()},
                         {"PILLION_EXCHANGE", exchange}};
  return options;
}

void consumeInChild(long events) {
  const auto consumer = EventConsumer::create(kService, {"#"});
  consumer->onEvent(
      "#", [](const Event& event, Transaction& tx) { tx.exec_params(kUpdate, event.key()); });
  consumer->start();
  untilApplied(*consumer, events);
  consumer->stop();
  std::printf("peak %.3f\n", peakRssMib(::getpid()));
}

void consumeInGroup(const std::string& service) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // in the threads to come, too
  ConsumerOptions options;
  options.partitions = kPartitions;
  const auto consumer = EventConsumer::create(service, {"#"}, options);
  consumer->onEvent("#", [](const Event& event, Transaction& tx) {
    tx.exec_params("insert into journal (partition) values ($1)",
                   laneOf(event.key()) % kPartitions);
  });
  consumer->start();
  int signal = 0;
  sigwait(&signals, &signal);
  consumer->stop();
}

}  // namespace pillion::bench
