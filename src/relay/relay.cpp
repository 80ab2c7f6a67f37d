#include <pillion/relay.hpp>

#include <pillion/error.hpp>
#include <pillion/event.hpp>
#include <thread>

#include "amqp/broker_check.hpp"
#include "base/environment.hpp"
#include "base/log_line.hpp"
#include "base/thread_safety.hpp"
#include "base/wake_event.hpp"
#include "postgres/connection.hpp"
#include "postgres/identifier.hpp"
#include "relay/supervisor.hpp"

namespace pillion {
namespace {

void requirePositive(bool positive, const char* field) {
  if (!positive) throw ConfigError(std::string("relay option ") + field + " must be above zero");
}

void validate(const RelayOptions& options) {
  using std::chrono::milliseconds;
  amqp::requireValid(options.broker);
  requirePositive(options.windowEvents > 0, "windowEvents");
  requirePositive(options.windowBytes > 0, "windowBytes");
  requirePositive(options.pageEvents > 0, "pageEvents");
  requirePositive(options.pageBytes > 0, "pageBytes");
  requirePositive(options.pollFirst > milliseconds(0), "pollFirst");
  requirePositive(options.checkpointEvery > milliseconds(0), "checkpointEvery");
  requirePositive(options.renewEvery > milliseconds(0), "renewEvery");
  requirePositive(options.probeFirst > milliseconds(0), "probeFirst");
  requirePositive(options.notifyPoll > milliseconds(0), "notifyPoll");
  requirePositive(options.refusedFirst > milliseconds(0), "refusedFirst");
  for (const std::string& pattern : options.holdTypes) {
    if (!pattern.empty() && pattern.size() <= EventLimits::kShortString) continue;
    throw ConfigError("relay option holdTypes has a pattern of " + std::to_string(pattern.size()) +
                      " bytes: 1 to 255 are needed");
  }
  if (options.lease < milliseconds(3'000) || options.lease < 3 * options.renewEvery) {
    throw ConfigError("relay option lease is " + std::to_string(options.lease.count()) +
                      " ms; at least 3000 and three times renewEvery are needed");
  }
}

}  // namespace

struct Relay::State {
  RelayOptions options;
  base::WakeEvent wake;
  relay::Counters counters;
  base::Mutex mutex;
  std::jthread thread PILLION_GUARDED_BY(mutex);

  void loop(const std::stop_token& stop, relay::Supervisor& supervisor) {
    try {
      supervisor.serve(stop);
    } catch (const std::exception& error) {
      base::log.critical("relay '{}' ended: {}", options.name, error.what());
    }
  }
};

Relay::Relay(std::unique_ptr<State> state) : state_(std::move(state)) {}

Relay::~Relay() {
  stop();
}

std::unique_ptr<Relay> Relay::create(RelayOptions options) {
  validate(options);
  if (options.name.empty()) options.name = base::processName();
  options.broker.exchange =
      base::configured(options.broker.exchange, "PILLION_EXCHANGE", "pillion.events");
  postgres::quoteIdentifier(postgres::schemaOf(options.database));
  auto state = std::make_unique<State>();
  state->options = std::move(options);
  return std::unique_ptr<Relay>(new Relay(std::move(state)));
}

void Relay::start() {
  const base::MutexLock lock(state_->mutex);
  if (state_->thread.joinable()) return;
  auto supervisor =
      std::make_shared<relay::Supervisor>(state_->options, state_->counters, state_->wake);
  supervisor->open();
  state_->thread = std::jthread([this, supervisor](const std::stop_token& stop) {
    const std::stop_callback wakeUp(stop, [this] { state_->wake.signal(); });
    state_->loop(stop, *supervisor);
  });
}

void Relay::stop() {
  const base::MutexLock lock(state_->mutex);
  if (!state_->thread.joinable()) return;
  state_->thread.request_stop();
  state_->thread.join();
  state_->thread = {};
}

void Relay::run(std::stop_token stop) {
  const std::stop_callback wakeUp(stop, [this] { state_->wake.signal(); });
  relay::Supervisor supervisor(state_->options, state_->counters, state_->wake);
  supervisor.open();
  supervisor.serve(stop);
}

void Relay::wake() noexcept {
  state_->wake.signal();
}

RelayStats Relay::stats() const {
  const relay::Counters& counters = state_->counters;
  RelayStats stats;
  stats.published = counters.published;
  stats.nacked = counters.nacked;
  stats.unroutable = counters.unroutable;
  stats.parked = counters.parked;
  stats.dropped = counters.dropped;
  stats.expired = counters.expired;
  stats.repeated = counters.repeated;
  stats.pages = counters.pages;
  stats.checkpoints = counters.checkpoints;
  return stats;
}

}  // namespace pillion
