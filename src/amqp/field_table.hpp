#pragma once

#include <string_view>
#include <vector>

#include "amqp/reply.hpp"

namespace pillion::amqp {

/// Borrows both.
inline amqp_table_entry_t textEntry(std::string_view name, std::string_view value) {
  amqp_table_entry_t entry;
  entry.key = toBytes(name);
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = toBytes(value);
  return entry;
}

inline amqp_table_entry_t numberEntry(std::string_view name, std::int64_t value) {
  amqp_table_entry_t entry;
  entry.key = toBytes(name);
  entry.value.kind = AMQP_FIELD_KIND_I64;
  entry.value.value.i64 = value;
  return entry;
}

inline amqp_table_entry_t flagEntry(std::string_view name, bool value) {
  amqp_table_entry_t entry;
  entry.key = toBytes(name);
  entry.value.kind = AMQP_FIELD_KIND_BOOLEAN;
  entry.value.value.boolean = value ? 1 : 0;
  return entry;
}

inline amqp_table_t tableOf(std::vector<amqp_table_entry_t>& entries) {
  return {static_cast<int>(entries.size()), entries.data()};
}

}  // namespace pillion::amqp
