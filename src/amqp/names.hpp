#pragma once

#include <string>
#include <string_view>

// What a consumer has at the broker is named after its queue.

namespace pillion::amqp {

[[nodiscard]] std::string deadLetterQueueOf(const std::string& queue);
/// Carries nothing: its alternate exchange, which is none, names the inbox that the queue belongs
/// to.
[[nodiscard]] std::string markerExchangeOf(const std::string& queue);
/// To which the queues of partitions are bound by their lanes, and what has no lane goes on to.
[[nodiscard]] std::string partitionExchangeOf(const std::string& queue);
[[nodiscard]] std::string unkeyedExchangeOf(const std::string& queue);
/// `<queue>.p3`; of the second generation `<queue>.p3.2`.
[[nodiscard]] std::string partitionQueueOf(const std::string& queue, int partition, int generation);

/// The queue that this one is a partition of; itself when it is none.
[[nodiscard]] std::string_view withoutPartition(std::string_view name);
/// The queue, or one of its partitions.
[[nodiscard]] bool isOneOf(std::string_view queue, std::string_view name);

}  // namespace pillion::amqp
