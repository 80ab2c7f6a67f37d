#pragma once

#include <libpq-fe.h>

#include <memory>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <vector>

namespace pillion::test {

/// The name of a private member may be used in an explicit instantiation: the one way to a
/// pqxx::result that no server has made.
template <typename Tag, typename Tag::Type kMember>
struct Reveal {
  friend typename Tag::Type memberOf(Tag) { return kMember; }
};

struct ResultData {
  using Type = std::shared_ptr<const pqxx::internal::pq::PGresult> pqxx::result::*;
  friend Type memberOf(ResultData);
};
template struct Reveal<ResultData, &pqxx::result::m_data>;

/// A result of one row with these values as the server would send them; nothing stands for NULL.
inline pqxx::result resultOf(const std::vector<std::optional<std::string>>& values) {
  PGresult* raw = PQmakeEmptyPGresult(nullptr, PGRES_TUPLES_OK);
  std::vector<PGresAttDesc> columns(values.size());
  std::string name = "column";
  for (PGresAttDesc& column : columns) column = {name.data(), 0, 0, 0, 25, -1, -1};
  PQsetResultAttrs(raw, static_cast<int>(columns.size()), columns.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::string value = values[i].value_or("");
    PQsetvalue(raw, 0, static_cast<int>(i), values[i] ? value.data() : nullptr,
               values[i] ? static_cast<int>(value.size()) : -1);
  }
  pqxx::result result;
  result.*memberOf(ResultData{}) = std::shared_ptr<const pqxx::internal::pq::PGresult>(
      raw, [](const auto* own) { PQclear(const_cast<pqxx::internal::pq::PGresult*>(own)); });
  return result;
}

}  // namespace pillion::test
