#include "hostile_settings.hpp"

namespace pillion::test {
namespace {

void addNumbers(std::vector<Setting>& settings, const pqxx::row& row) {
  const auto name = row[0].as<std::string>();
  const bool timeout = name.ends_with("_timeout");
  settings.push_back({name, timeout ? "1" : row[2].as<std::string>()});
  settings.push_back({name, row[3].as<std::string>()});
}

}  // namespace

std::vector<Setting> hostileSettings(const TestDatabase& database) {
  std::vector<Setting> settings{{"DateStyle", "German"},
                                {"DateStyle", "SQL, DMY"},
                                {"TimeZone", "Asia/Kathmandu"},
                                {"lc_messages", "C"},
                                {"lc_numeric", "C"},
                                {"search_path", "nowhere"},
                                {"default_tablespace", "nowhere"},
                                {"temp_tablespaces", "nowhere"},
                                {"default_table_access_method", "nothing"},
                                {"timezone_abbreviations", "India"}};
  auto connection = database.connect();
  pqxx::work tx{connection};
  const auto rows = tx.exec(
      "select name, vartype, min_val, max_val, boot_val, enumvals::text[] from pg_settings where"
      " context in ('user', 'superuser') and vartype <> 'string'"
      " and name not in ('transaction_isolation', 'transaction_read_only',"
      " 'transaction_deferrable', 'in_hot_standby') order by name");
  for (const auto& row : rows) {
    const auto name = row[0].as<std::string>();
    const auto type = row[1].as<std::string>();
    if (type == "bool") {
      settings.push_back({name, row[4].as<std::string>() == "on" ? "off" : "on"});
    } else if (type == "enum") {
      const auto values =
          tx.exec("select unnest(enumvals) from pg_settings where name = '" + name + "'");
      for (const auto& value : values) settings.push_back({name, value[0].as<std::string>()});
    } else {
      addNumbers(settings, row);
    }
  }
  return settings;
}

}  // namespace pillion::test
