#include <pillion/publisher.hpp>

#include <algorithm>
#include <atomic>
#include <functional>
#include <pillion/error.hpp>
#include <unordered_map>
#include <utility>

#include "base/cause.hpp"
#include "base/log_line.hpp"
#include "base/thread_safety.hpp"
#include "event/event_check.hpp"
#include "outbox/outbox_table.hpp"
#include "outbox/scheduled_table.hpp"
#include "postgres/connection.hpp"

namespace pillion {
namespace {

/// Which of our statements a connection already has. Keyed by address and backend, since a new
/// connection may get the address of a dead one.
class PreparedNames {
 public:
  /// Statements of one name must be one text: behind a pooler that knows nothing of them, a session
  /// may have those of another schema or version of Pillion.
  explicit PreparedNames(const std::string& schema)
      : text_(std::to_string(
            std::hash<std::string>()(outbox::insertStatement(schema, 1, outbox::Columns::All)))) {}

  /// Do sessions keep what is prepared in them?
  [[nodiscard]] bool useful() const { return losses_ < kMostLosses; }

  /// The statement's name on this connection, prepared when it was not.
  template <typename Connection>
  std::string prepare(Connection& connection, const std::string& schema, std::size_t rows,
                      outbox::Columns columns) {
    const Key key{&connection, connection.backendpid(), rows, columns};
    const auto [name, known] = look(key);
    if (known) return name;
    // Outside of the lock, since it waits for the server; nobody else may use this connection.
    connection.prepare(name, outbox::insertStatement(schema, rows, columns));
    remember(key);
    return name;
  }

  /// A session had no such statement, or another connection's. New names follow, also since libpqxx
  /// 6 believes that the old one is prepared.
  void lost() {
    const base::MutexLock lock(mutex_);
    known_.clear();
    generation_ = nextGeneration();
    if (++losses_ != kMostLosses) return;
    base::log.warn(
        "publisher: a prepared statement was lost again, as when a pool resets its sessions by"
        " DISCARD ALL; none are used from now on, which costs the server a third more per event. "
        "Set"
        " PublisherOptions::preparedStatements to false");
  }

 private:
  struct Key {
    const void* connection;
    int backend;
    std::size_t rows;
    outbox::Columns columns;
    bool operator==(const Key&) const = default;
  };

  /// One may be a server that restarted in a container, where process ids return.
  static constexpr int kMostLosses = 2;

  std::pair<std::string, bool> look(const Key& key) {
    const base::MutexLock lock(mutex_);
    forgetWhenLarge();
    const auto onThis = known_.find(key.connection);
    const bool known =
        onThis != known_.end() && std::ranges::find(onThis->second, key) != onThis->second.end();
    const char* all = key.columns == outbox::Columns::All ? "_all" : "";
    return {"pillion_publish_" + text_ + '_' + std::to_string(generation_) + '_' +
                std::to_string(key.rows) + all,
            known};
  }

  void remember(const Key& key) {
    const base::MutexLock lock(mutex_);
    auto& onThis = known_[key.connection];
    std::erase_if(onThis, [&](const Key& other) { return other.backend != key.backend; });
    onThis.push_back(key);
  }

  /// Services that open a connection per request must not make the list grow for ever. New names
  /// follow, since a living connection would refuse a second statement of the same name.
  void forgetWhenLarge() PILLION_REQUIRES(mutex_) {
    if (known_.size() < 10'000) return;
    known_.clear();
    generation_ = nextGeneration();
  }

  static std::uint64_t nextGeneration() {
    static std::atomic<std::uint64_t> counter{0};
    return ++counter;
  }

  std::string text_;
  std::atomic<int> losses_{0};
  base::Mutex mutex_;
  std::unordered_map<const void*, std::vector<Key>> known_ PILLION_GUARDED_BY(mutex_);
  std::uint64_t generation_ PILLION_GUARDED_BY(mutex_) = nextGeneration();
};

}  // namespace

struct EventPublisher::State {
  State(std::string itsSource, PublisherOptions itsOptions)
      : source(std::move(itsSource)),
        options(std::move(itsOptions)),
        schema(postgres::schemaOf(options.database)),
        prepared(schema) {}

  std::string source;
  PublisherOptions options;
  std::string schema;
  PreparedNames prepared;

  base::Mutex ownMutex;
  std::unique_ptr<postgres::Connection> own PILLION_GUARDED_BY(ownMutex);

  /// Checks all before anything is sent. Returns the origins to be written.
  [[nodiscard]] std::vector<outbox::Origin> check(std::span<const Event> events) const {
    std::vector<outbox::Origin> origins;
    origins.reserve(events.size());
    for (const Event& event : events) {
      origins.push_back(originOf(event));
      checkEvent(event, origins.back().source, options.maxPayload);
      checkTrace(origins.back().trace.traceparent, origins.back().trace.tracestate);
    }
    return origins;
  }

  /// What the event leaves open comes from the event whose handler runs, if one does.
  [[nodiscard]] outbox::Origin originOf(const Event& event) const {
    outbox::Origin origin{.source = event.source().empty() ? source : event.source(),
                          .correlationId = event.correlationId(),
                          .causationId = event.causationId(),
                          .trace = {event.traceparent(), event.tracestate()}};
    if (origin.trace.traceparent.empty() && options.traceContext) {
      origin.trace = options.traceContext();
    }
    const base::Cause* cause = base::currentCause();
    if (cause == nullptr) return origin;
    if (origin.causationId.empty()) origin.causationId = cause->eventId;
    if (origin.correlationId.empty()) origin.correlationId = cause->correlationId;
    if (origin.trace.traceparent.empty()) {
      origin.trace = {std::string(cause->traceparent), std::string(cause->tracestate)};
    }
    return origin;
  }

  void insert(Transaction& tx, std::span<const Event> events,
              std::span<const outbox::Origin> origins) {
    auto columns = outbox::Columns::Needed;
    for (std::size_t i = 0; i < events.size(); ++i) {
      columns = std::max(columns, outbox::columnsOf(events[i], origins[i]));
    }
    postgres::Parameters parameters;
    parameters.reserve(events.size() * outbox::eventColumnCount(columns));
    for (std::size_t i = 0; i < events.size(); ++i) {
      outbox::addEvent(parameters, events[i], origins[i], columns);
    }
    if (!options.preparedStatements || !prepared.useful()) {
      postgres::execute(tx, outbox::insertStatement(schema, events.size(), columns), parameters);
      return;
    }
    try {
      const std::string name = prepared.prepare(tx.conn(), schema, events.size(), columns);
      postgres::executePrepared(tx, name, parameters);
    } catch (const pqxx::sql_error& error) {
      if (postgres::isLostStatement(error)) prepared.lost();
      throw;
    }
  }

  /// Runs of events that are due now, and single ones that are due later.
  void writeAll(Transaction& tx, std::span<const Event> events,
                std::span<const outbox::Origin> origins) {
    while (!events.empty()) {
      const auto later = std::ranges::find_if(
          events, [](const Event& event) { return event.deliverAt().has_value(); });
      const auto now = static_cast<std::size_t>(later - events.begin());
      insertAll(tx, events.first(now), origins.first(now));
      if (later == events.end()) return;
      outbox::schedule(tx, schema, *later, origins[now]);
      events = events.subspan(now + 1);
      origins = origins.subspan(now + 1);
    }
  }

  /// Pieces in the prepared sizes, greedily.
  void insertAll(Transaction& tx, std::span<const Event> events,
                 std::span<const outbox::Origin> origins) {
    for (const std::size_t size : outbox::kInsertSizes) {
      while (events.size() >= size) {
        insert(tx, events.first(size), origins.first(size));
        events = events.subspan(size);
        origins = origins.subspan(size);
      }
    }
  }

  void publishAlone(const Event& event, std::span<const outbox::Origin> origin)
      PILLION_REQUIRES(ownMutex) {
    if (!own) own = postgres::connect(options.database, "publisher");
    postgres::Connection& connection = *own;
    postgres::guarded(connection, "writing an event", [&] {
      pqxx::work tx{connection};
      writeAll(tx, std::span(&event, 1), origin);
      tx.commit();
    });
  }
};

EventPublisher::EventPublisher(std::unique_ptr<State> state) : state_(std::move(state)) {}
EventPublisher::~EventPublisher() = default;

std::unique_ptr<EventPublisher> EventPublisher::create(std::string source,
                                                       PublisherOptions options) {
  if (source.empty() || source.size() > EventLimits::kShortString || !isUtf8Text(source)) {
    throw ConfigError("publisher source of " + std::to_string(source.size()) +
                      " bytes: 1 to 255 bytes of UTF-8 are needed");
  }
  if (options.maxPayload > EventLimits::kPayload) {
    throw ConfigError("maxPayload of " + std::to_string(options.maxPayload) +
                      " bytes: the limit is " + std::to_string(EventLimits::kPayload));
  }
  return std::unique_ptr<EventPublisher>(
      new EventPublisher(std::make_unique<State>(std::move(source), std::move(options))));
}

void EventPublisher::publish(Transaction& tx, const Event& event) const {
  publish(tx, std::span(&event, 1));
}

void EventPublisher::publish(Transaction& tx, std::span<const Event> events) const {
  const auto origins = state_->check(events);
  state_->writeAll(tx, events, origins);
}

void EventPublisher::publish(const Event& event) const {
  const auto origin = state_->check(std::span(&event, 1));
  {
    const base::MutexLock lock(state_->ownMutex);
    const bool mayBeStale = state_->own != nullptr;
    try {
      state_->publishAlone(event, origin);
    } catch (const Error& error) {
      if (error.connectionLost()) state_->own.reset();
      // A connection that idled may have died long ago: that says nothing about the server now.
      // What is in doubt is the caller's to decide.
      if (!mayBeStale || !error.connectionLost() || error.outcomeInDoubt()) throw;
      state_->publishAlone(event, origin);
    }
  }
  if (state_->options.onCommitted) state_->options.onCommitted();
}

}  // namespace pillion
