// The copy of the products that inventory-service and order-service each keep in their own
// database.
#pragma once

#include <httplib.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <pillion/pillion.hpp>
#include <pqxx/pqxx>
#include <string>

#include "service.hpp"

namespace warehouse {

// Applies one event to the cache. Counting is what makes a lost or doubled run of this visible; the
// inbox row in the same transaction is what keeps it from happening. Instances that share a queue
// may see two events of one product in either order, therefore the older never replaces the newer.
inline void applyToCache(const pillion::Event& event, pillion::Transaction& tx) try {
  const auto& product = event.data();
  tx.exec_params(
      "INSERT INTO product_cache AS cache (sku, name, version, deleted, out_of_order) "
      "VALUES ($1, $2, $3::int, $4, CASE WHEN $3::int = 1 THEN 0 ELSE 1 END) "
      "ON CONFLICT (sku) DO UPDATE SET "
      "  name = CASE WHEN excluded.version > cache.version THEN excluded.name ELSE cache.name END, "
      "  deleted = CASE WHEN excluded.version > cache.version THEN excluded.deleted "
      "                 ELSE cache.deleted END, "
      "  version = greatest(cache.version, excluded.version), "
      "  events_applied = cache.events_applied + 1, "
      "  out_of_order = cache.out_of_order + "
      "                 CASE WHEN excluded.version = cache.version + 1 THEN 0 ELSE 1 END, "
      "  changed_at = now()",
      product.at("sku").get<std::string>(), product.at("name").get<std::string>(),
      product.at("version").get<int>(), event.type() == "product.deleted");
} catch (const nlohmann::json::exception& error) {
  throw pillion::RejectEvent(error.what());  // trying it again would not help
}

inline nlohmann::json toJson(const pqxx::row& row) {
  return {{"sku", row[0].as<std::string>()},
          {"name", row[1].as<std::string>()},
          {"version", row[2].as<int>()}};
}

inline nlohmann::json toJson(const pillion::ConsumerStats& stats) {
  return {{"delivered", stats.delivered},   {"applied", stats.applied},
          {"duplicates", stats.duplicates}, {"ignored", stats.ignored},
          {"failed", stats.failed},         {"deadLettered", stats.deadLettered}};
}

// The list comes in pages of 100; `?after=SKU` asks for the next one.
inline void addCacheRoutes(httplib::Server& server, Database& database) {
  server.Get("/api/v1/products", [&](const httplib::Request& request, httplib::Response& response) {
    pqxx::work tx{database.connection()};
    auto products = nlohmann::json::array();
    for (const auto& row : tx.exec_params("SELECT sku, name, version FROM product_cache "
                                          "WHERE sku > $1 AND NOT deleted ORDER BY sku LIMIT 100",
                                          request.get_param_value("after"))) {
      products.push_back(toJson(row));
    }
    sendJson(response, 200, products);
  });
  server.Get(
      "/api/v1/products/(.+)", [&](const httplib::Request& request, httplib::Response& response) {
        const std::string sku = request.matches[1];
        pqxx::work tx{database.connection()};
        const auto rows = tx.exec_params(
            "SELECT sku, name, version FROM product_cache WHERE sku = $1 AND NOT deleted", sku);
        if (rows.empty()) return sendError(response, 404, "no product " + sku);
        sendJson(response, 200, toJson(rows[0]));
      });
}

inline void addStatsRoute(httplib::Server& server, const pillion::EventConsumer& consumer) {
  server.Get("/api/v1/stats", [&](const httplib::Request&, httplib::Response& response) {
    sendJson(response, 200, toJson(consumer.stats()));
  });
}

}  // namespace warehouse
