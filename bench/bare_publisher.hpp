#pragma once

#include <memory>
#include <string>

namespace pillion::bench {

/// The limit that the relay is measured against: rabbitmq-c alone, publishing the same bytes from
/// memory with confirms, mandatory, persistent, and the same window. Returns seconds until the last
/// confirm.
double publishBare(const std::string& host, int port, const std::string& exchange, long messages,
                   long window);

/// Counts a queue's ready messages over a connection of its own: asking costs the broker next to
/// nothing, unlike its command line.
class QueueDepth {
 public:
  QueueDepth(const std::string& host, int port, std::string queue);
  ~QueueDepth();
  QueueDepth(const QueueDepth&) = delete;
  QueueDepth& operator=(const QueueDepth&) = delete;

  [[nodiscard]] long now() const;

 private:
  struct Connection;
  std::unique_ptr<Connection> connection_;
  std::string queue_;
};

}  // namespace pillion::bench
