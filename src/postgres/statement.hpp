#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <pqxx/pqxx>
#include <pqxx/version>
#include <string>
#include <string_view>
#include <vector>

// Parameters, execution and bytea in one shape for libpqxx 6.4 (Debian 12) and 7.10 (Debian 13).
// Nothing but this folder depends on the version of libpqxx.

namespace pillion::postgres {

/// Statement parameters whose number is known only at run time. All travel in PostgreSQL's binary
/// format, which for text and bytea is the bytes themselves: declare every parameter that is added
/// as a text as one of the two in the statement (`$1::text::bigint`). An empty text stands for NULL
/// where the statement says `nullif($n::text, '')`.
class Parameters {
 public:
  Parameters() = default;
  Parameters(std::initializer_list<std::string_view> values);

  void reserve(std::size_t count) { values_.reserve(count); }
  void add(std::string_view value) { values_.emplace_back(value); }
  /// For `$n::uuid` and `$n::timestamptz`, which spares the server an expression each: it would
  /// look up in its catalogue at every execution how to read them from a text. Needs isUuid(text).
  void addUuid(std::string_view text);
  void addTime(std::chrono::system_clock::time_point time);
  [[nodiscard]] const std::vector<std::string>& values() const { return values_; }

 private:
  std::vector<std::string> values_;
};

pqxx::result execute(pqxx::transaction_base& tx, const std::string& sql,
                     const Parameters& parameters);
pqxx::result executePrepared(pqxx::transaction_base& tx, const std::string& name,
                             const Parameters& parameters);

/// A transaction of which every statement sees the same snapshot, and which writes nothing.
#if PQXX_VERSION_MAJOR >= 7
using SnapshotTransaction =
    pqxx::transaction<pqxx::isolation_level::repeatable_read, pqxx::write_policy::read_only>;
#else
using SnapshotTransaction = pqxx::transaction<pqxx::repeatable_read, pqxx::read_only>;
#endif

/// Is a pooler between us and the server? Then libpq was given another pid than the session has.
bool sharesSession(pqxx::transaction_base& tx);

/// Makes sure that a savepoint is really there. libpqxx 6 sends SAVEPOINT with the first `exec` and
/// not with `exec_params` or `exec_prepared`, which then run outside of it. Costs a round trip
/// there, nothing with libpqxx 7.
void ensureBegun(pqxx::transaction_base& tx);

/// The bytes of a bytea column, which arrives as `\x` and hexadecimal digits.
std::string bytesOf(const pqxx::field& field);

std::string textOf(const pqxx::field& field);
/// As a parameter: `$n::text::bigint * interval '1 millisecond'`.
std::string textOf(std::chrono::milliseconds time);
std::int64_t integerOf(const pqxx::field& field);

}  // namespace pillion::postgres
