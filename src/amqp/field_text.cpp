#include "amqp/field_text.hpp"

#include <nlohmann/json.hpp>

#include "amqp/reply.hpp"

namespace pillion::amqp {
namespace {

using nlohmann::json;

constexpr int kMostLevels = 8;  // x-death has two

json documentOf(const amqp_field_value_t& value, int levels);

/// As a text, which no reader rounds.
std::string textOf(const amqp_decimal_t& decimal) {
  std::string digits = std::to_string(decimal.value);
  if (decimal.decimals == 0) return digits;
  const std::size_t least = std::size_t{decimal.decimals} + 1;
  if (digits.size() < least) digits.insert(0, least - digits.size(), '0');
  return digits.insert(digits.size() - decimal.decimals, 1, '.');
}

json arrayOf(const amqp_array_t& array, int levels) {
  json result = json::array();
  for (int i = 0; i < array.num_entries; ++i) {
    result.push_back(documentOf(array.entries[i], levels - 1));
  }
  return result;
}

json objectOf(const amqp_table_t& table, int levels) {
  json result = json::object();
  for (int i = 0; i < table.num_entries; ++i) {
    result[toText(table.entries[i].key)] = documentOf(table.entries[i].value, levels - 1);
  }
  return result;
}

/// The kinds of AMQP 0-9-1, section 4.2.1, as RabbitMQ has them.
json documentOf(const amqp_field_value_t& value, int levels) {
  switch (value.kind) {
    case AMQP_FIELD_KIND_UTF8:
    case AMQP_FIELD_KIND_BYTES:
      return toText(value.value.bytes);
    case AMQP_FIELD_KIND_BOOLEAN:
      return value.value.boolean != 0;
    case AMQP_FIELD_KIND_I8:
      return value.value.i8;
    case AMQP_FIELD_KIND_U8:
      return value.value.u8;
    case AMQP_FIELD_KIND_I16:
      return value.value.i16;
    case AMQP_FIELD_KIND_U16:
      return value.value.u16;
    case AMQP_FIELD_KIND_I32:
      return value.value.i32;
    case AMQP_FIELD_KIND_U32:
      return value.value.u32;
    case AMQP_FIELD_KIND_I64:
      return value.value.i64;
    case AMQP_FIELD_KIND_U64:
    case AMQP_FIELD_KIND_TIMESTAMP:
      return value.value.u64;
    case AMQP_FIELD_KIND_F32:
      return value.value.f32;
    case AMQP_FIELD_KIND_F64:
      return value.value.f64;
    case AMQP_FIELD_KIND_DECIMAL:
      return textOf(value.value.decimal);
    case AMQP_FIELD_KIND_ARRAY:
      return levels > 0 ? arrayOf(value.value.array, levels) : json();
    case AMQP_FIELD_KIND_TABLE:
      return levels > 0 ? objectOf(value.value.table, levels) : json();
    default:
      return {};  // void
  }
}

}  // namespace

std::string textOf(const amqp_field_value_t& value) {
  const json document = documentOf(value, kMostLevels);
  if (document.is_string()) return document.get<std::string>();
  // Whatever bytes a peer sent must not end the connection.
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace pillion::amqp
