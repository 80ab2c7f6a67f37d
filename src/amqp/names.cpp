#include "amqp/names.hpp"

namespace pillion::amqp {
namespace {

constexpr std::size_t kLongestNumbers = 12;

/// Of a partition: `3`, or `3.2`.
bool areNumbers(std::string_view text) {
  return !text.empty() && text.size() <= kLongestNumbers && text.front() != '.' &&
         text.find_first_not_of(".0123456789") == std::string_view::npos;
}

}  // namespace

std::string deadLetterQueueOf(const std::string& queue) {
  return queue + ".dead";
}

std::string markerExchangeOf(const std::string& queue) {
  return queue + ".inbox";
}

std::string partitionExchangeOf(const std::string& queue) {
  return queue + ".partitions";
}

std::string unkeyedExchangeOf(const std::string& queue) {
  return queue + ".unkeyed";
}

std::string partitionQueueOf(const std::string& queue, int partition, int generation) {
  const std::string name = queue + ".p" + std::to_string(partition);
  return generation == 1 ? name : name + '.' + std::to_string(generation);
}

std::string_view withoutPartition(std::string_view name) {
  const auto dot = name.rfind(".p");
  if (dot == std::string_view::npos || !areNumbers(name.substr(dot + 2))) return name;
  return name.substr(0, dot);
}

bool isOneOf(std::string_view queue, std::string_view name) {
  return name == queue || (name.size() > queue.size() && withoutPartition(name) == queue);
}

}  // namespace pillion::amqp
