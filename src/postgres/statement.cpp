#include "postgres/statement.hpp"

#include <pqxx/version>

#include <charconv>
#include <pillion/error.hpp>
#include <utility>

namespace pillion::postgres {
namespace {

#if PQXX_VERSION_MAJOR >= 7

pqxx::params forLibrary(const Parameters& parameters) {
  pqxx::params list;
  list.reserve(parameters.values().size());
  for (const std::string& value : parameters.values()) {
    list.append(pqxx::bytes_view(reinterpret_cast<const std::byte*>(value.data()), value.size()));
  }
  return list;
}

#else

std::vector<pqxx::binarystring> forLibrary(const Parameters& parameters) {
  std::vector<pqxx::binarystring> list;
  list.reserve(parameters.values().size());
  for (const std::string& value : parameters.values()) list.emplace_back(value);
  return list;
}

#endif

/// The value of a hexadecimal digit. Without a branch or a table, so that the compiler does many at
/// a time: the relay decodes every payload.
constexpr unsigned nibble(unsigned char digit) {
  return (digit & 15U) + (digit >> 6U) * 9U;
}

constexpr char byteOf(const unsigned char* digits) {
  return static_cast<char>((nibble(digits[0]) << 4U) | nibble(digits[1]));
}

}  // namespace

Parameters::Parameters(std::initializer_list<std::string_view> values) {
  values_.reserve(values.size());
  for (const std::string_view value : values) add(value);
}

void Parameters::addUuid(std::string_view text) {
  std::string bytes;
  for (std::size_t at = 0; at + 1 < text.size(); at += 2) {
    if (text[at] == '-') ++at;  // after an even number of digits
    bytes += byteOf(reinterpret_cast<const unsigned char*>(text.data()) + at);
  }
  values_.push_back(std::move(bytes));
}

void Parameters::addTime(std::chrono::system_clock::time_point time) {
  // Microseconds since 2000 (PostgreSQL's timestamp.h), in network order.
  using std::chrono::microseconds;
  constexpr std::chrono::sys_days kEpoch{std::chrono::year(2000) / 1 / 1};
  auto left = static_cast<std::uint64_t>(std::chrono::floor<microseconds>(time - kEpoch).count());
  std::string bytes(sizeof left, '\0');
  for (auto byte = bytes.rbegin(); byte != bytes.rend(); ++byte, left >>= 8U) {
    *byte = static_cast<char>(left & 0xFFU);
  }
  values_.push_back(std::move(bytes));
}

pqxx::result execute(pqxx::transaction_base& tx, const std::string& sql,
                     const Parameters& parameters) {
#if PQXX_VERSION_MAJOR >= 7
  return tx.exec(sql, forLibrary(parameters));
#else
  return tx.exec_params(sql, pqxx::prepare::make_dynamic_params(forLibrary(parameters)));
#endif
}

pqxx::result executePrepared(pqxx::transaction_base& tx, const std::string& name,
                             const Parameters& parameters) {
#if PQXX_VERSION_MAJOR >= 7
  return tx.exec(pqxx::prepped{name}, forLibrary(parameters));
#else
  return tx.exec_prepared(name, pqxx::prepare::make_dynamic_params(forLibrary(parameters)));
#endif
}

#if PQXX_VERSION_MAJOR >= 7
void ensureBegun(pqxx::transaction_base&) {}
#else
void ensureBegun(pqxx::transaction_base& tx) {
  if (dynamic_cast<pqxx::subtransaction*>(&tx) != nullptr) tx.exec("");
}
#endif

bool sharesSession(pqxx::transaction_base& tx) {
  return tx.exec("select pg_backend_pid()")[0][0].as<int>() != tx.conn().backendpid();
}

std::string bytesOf(const pqxx::field& field) {
  const std::string_view text(field.c_str(), field.size());
  if (!text.starts_with("\\x") || text.size() % 2 != 0) {
    throw Error("bytea in another output format than hex; set bytea_output = hex");
  }
  std::string bytes(text.size() / 2 - 1, '\0');
  const auto* digits = reinterpret_cast<const unsigned char*>(text.data()) + 2;
  char* to = bytes.data();
  for (std::size_t i = 0, count = bytes.size(); i < count; ++i) {
    to[i] = byteOf(digits + 2 * i);
  }
  return bytes;
}

std::string textOf(const pqxx::field& field) {
  return field.is_null() ? std::string() : std::string(field.c_str(), field.size());
}

std::string textOf(std::chrono::milliseconds time) {
  return std::to_string(time.count());
}

std::int64_t integerOf(const pqxx::field& field) {
  std::int64_t value = 0;
  std::from_chars(field.c_str(), field.c_str() + field.size(), value);
  return value;
}

}  // namespace pillion::postgres
