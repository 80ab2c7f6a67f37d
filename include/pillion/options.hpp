/// How Pillion reaches its two servers. Every field has a default that is right for most; empty
/// strings mean "from the environment".
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace pillion {

struct DatabaseOptions {
  /// libpq connection string or `postgresql://` URL
  /// (PostgreSQL manual, 34.1.1; several hosts are allowed). Empty: `PILLION_DATABASE_URL`, and
  /// what that leaves open comes from libpq's own `PG*` variables.
  std::string url = "";

  /// The schema that holds outbox, inbox and cursor; used as a quoted identifier, so any name of 1
  /// to 63 bytes works. Empty: `PILLION_SCHEMA`, else "pillion".
  std::string schema = "";

  /// Limit for making a connection. Whole seconds, as libpq counts.
  std::chrono::seconds connectTimeout{5};

  /// How long sent data may stay unacknowledged before the kernel gives the connection up
  /// (`tcp_user_timeout`). Makes a vanished server an error in place of a hang. Zero: the kernel's.
  std::chrono::milliseconds unackedTimeout{15'000};

  /// How long a relay, or a publisher's own connection, waits for an answer of PostgreSQL, in
  /// milliseconds, before it gives the connection up and opens another: a server process that hangs
  /// answers no keepalive question of this kind. Longer than the 10 s that a lock is waited for;
  /// raise it where reading a page of events takes longer.
  std::chrono::milliseconds answerTimeout{30'000};
};

struct BrokerOptions {
  /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS
  /// (RabbitMQ URI specification). Empty: `PILLION_AMQP_URL`, else amqp://guest:guest@localhost.
  /// Several nodes of a cluster: `amqp://user:password@host1:5672,host2:5673,[::1]:5674/vhost`, as
  /// in PostgreSQL's URLs; user, vhost and parameters are the same for all. They are tried in turn,
  /// beginning behind the one that failed last, and between two rounds comes one pause. What one
  /// host refuses is an error only when no other will do.
  /// TLS verifies peer and host name; query parameters `cacertfile`, `certfile`, `keyfile` name PEM
  /// files (without `cacertfile`: the system's certificates).
  std::string url = "";

  /// Topic exchange that events are published to and queues are bound to. Empty:
  /// `PILLION_EXCHANGE`, else "pillion.events".
  std::string exchange = "";

  /// Declare exchange, queue, bindings and dead-letter queue when they are missing. Off: an
  /// operator owns the topology, it is only checked.
  bool declareTopology = true;

  /// AMQP heartbeat. Both sides give up a silent peer after twice this. Below 5 s a busy machine
  /// looks dead; above 30 s a dead one looks busy.
  std::chrono::seconds heartbeat{10};

  /// Limit for connect and login together, of each host. A round of several ends after twice this;
  /// those that were not tried come first in the next.
  std::chrono::milliseconds connectTimeout{5'000};

  /// A send that hangs, or a confirm that does not come, for this long ends the connection, except
  /// while the broker says that it blocks publishers.
  std::chrono::milliseconds stallTimeout{30'000};

  /// Waits between attempts to reach a server that is away: doubled from the first to the second,
  /// each shortened by up to a third at random so that instances do not return in step. The same
  /// pace is kept for PostgreSQL.
  std::chrono::milliseconds reconnectFirst{100};
  std::chrono::milliseconds reconnectMost{5'000};
};

/// What a parked event (one that could not be published, or whose handler failed) means for the
/// later events of its key.
enum class ParkedPolicy {
  Continue,  ///< they go on; when the parked one follows, it comes late
  Hold,      ///< they wait behind it, in order; other keys go on
};

/// W3C Trace Context of the work that publishes.
struct TraceContext {
  std::string traceparent;
  std::string tracestate;
};

}  // namespace pillion
