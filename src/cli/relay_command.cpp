#include <pthread.h>
#include <csignal>
#include <map>
#include <pillion/relay.hpp>
#include <thread>

#include "base/log_line.hpp"
#include "cli/broker_flags.hpp"
#include "cli/commands.hpp"
#include "cli/database_flags.hpp"

namespace pillion::cli {
namespace {

/// Waits for SIGTERM or SIGINT on a thread of its own, so that no work is done in a handler. Made
/// before any other thread, since they inherit the mask.
class StopOnSignal {
 public:
  StopOnSignal() {
    sigemptyset(&signals_);
    for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals_, signal);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    thread_ = std::thread([this] {
      int signal = 0;
      sigwait(&signals_, &signal);
      source_.request_stop();
    });
  }

  ~StopOnSignal() {
    pthread_kill(thread_.native_handle(), SIGUSR1);  // no-op when it has ended with a signal
    thread_.join();
  }

  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  [[nodiscard]] std::stop_token token() const { return source_.get_token(); }

 private:
  sigset_t signals_{};
  std::stop_source source_;
  std::thread thread_;
};

void addMilliseconds(CLI::App& command, const std::string& flag, std::chrono::milliseconds& value,
                     const std::string& help) {
  command
      .add_option_function<long>(
          flag, [&value](long count) { value = std::chrono::milliseconds(count); },
          help + " (" + std::to_string(value.count()) + ")")
      ->check(CLI::PositiveNumber);
}

void report(const RelayStats& stats) {
  base::log.info(
      "relay ended: {} published, {} repeated, {} nacked, {} parked, {} dropped, {} expired",
      stats.published, stats.repeated, stats.nacked, stats.parked, stats.dropped, stats.expired);
}

}  // namespace

void addRelayCommand(CLI::App& app) {
  auto options = std::make_shared<RelayOptions>();
  auto* command = app.add_subcommand(
      "relay",
      "Publish committed events to RabbitMQ until SIGTERM, which finishes what is in flight");
  addDatabaseFlags(*command, options->database);
  addBrokerUrl(*command, options->broker);
  command->add_option("--exchange", options->broker.exchange,
                      "Topic exchange; else PILLION_EXCHANGE, else pillion.events");
  command->add_option("--name", options->name, "Shown by status; else host and process id");
  command->add_option("--window", options->windowEvents, "Unconfirmed events in flight")
      ->capture_default_str();
  addMilliseconds(*command, "--lease-ms", options->lease,
                  "Lease of the lanes; a paused relay is replaced after it");
  addMilliseconds(*command, "--renew-ms", options->renewEvery, "Time between two renewals");
  command
      ->add_option_function<int>(
          "--heartbeat-s",
          [options](int seconds) { options->broker.heartbeat = std::chrono::seconds(seconds); },
          "AMQP heartbeat (10)")
      ->check(CLI::Range(1, 600));
  command
      ->add_option("--parked", options->parked,
                   "What a parked event means for later ones of its key")
      ->transform(CLI::CheckedTransformer(std::map<std::string, ParkedPolicy>{
          {"continue", ParkedPolicy::Continue}, {"hold", ParkedPolicy::Hold}}))
      ->default_str("continue");
  command->add_option(
      "--hold", options->holdTypes,
      "Types (topic patterns) that hold their key when parked, whatever --parked is");
  command
      ->add_option("--unroutable", options->unroutable, "What happens to an event without a queue")
      ->transform(CLI::CheckedTransformer(std::map<std::string, UnroutablePolicy>{
          {"park", UnroutablePolicy::Park}, {"drop", UnroutablePolicy::Drop}}))
      ->default_str("park");
  command
      ->add_option_function<long>(
          "--retention-h",
          [options](long hours) { options->retention = std::chrono::hours(hours); },
          "Keep published events so long, for replay (24)")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--notify", options->notify,
                    "Sleep when idle until a writer notifies (needs enable_notify())");
  command->add_flag("!--no-declare", options->broker.declareTopology,
                    "Only check that the exchange exists");
  command->add_flag("!--no-fence", options->fence,
                    "Do not hold the broker-side fence (a role without configure rights)");
  command->callback([options] {
    const StopOnSignal stop;
    const auto relay = Relay::create(*options);
    relay->run(stop.token());
    report(relay->stats());
  });
}

}  // namespace pillion::cli
