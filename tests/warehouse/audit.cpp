#include "audit.hpp"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <map>
#include <pqxx/pqxx>

namespace pillion::warehouse {
namespace {

struct Product {
  std::int64_t events = 0;
  std::int64_t outOfOrder = 0;
  std::string name;
  bool deleted = false;
};

std::map<std::string, Product> products(const std::string& url, const std::string& sql) {
  std::map<std::string, Product> found;
  pqxx::connection connection(url);
  pqxx::work tx{connection};
  for (const auto& row : tx.exec(sql)) {
    found[row[0].as<std::string>()] = {row[1].as<std::int64_t>(), row[2].as<std::int64_t>(),
                                       row[3].as<std::string>(), row[4].as<bool>()};
  }
  return found;
}

std::int64_t number(const std::string& url, const std::string& sql) {
  pqxx::connection connection(url);
  pqxx::work tx{connection};
  return tx.exec(sql)[0][0].as<std::int64_t>();
}

ServiceAudit auditConsumer(const Fleet& fleet, const std::string& service,
                           const std::map<std::string, Product>& truth) {
  ServiceAudit result;
  result.service = service;
  auto cache = products(fleet.databaseUrl(service),
                        "SELECT sku, events_applied, out_of_order, name, deleted "
                        "FROM product_cache");
  for (const auto& [sku, product] : truth) {
    const auto& copy = cache[sku];
    if (copy.name != product.name || copy.deleted != product.deleted) ++result.different;
    result.lost += std::max<std::int64_t>(0, product.events - copy.events);
  }
  for (const auto& [sku, copy] : cache) {
    const auto original = truth.find(sku);
    const auto events = original == truth.end() ? 0 : original->second.events;
    result.appliedTwice += std::max<std::int64_t>(0, copy.events - events);
    result.applied += copy.events;
    result.outOfOrder += copy.outOfOrder;
  }
  auto stats = fleet.stats(service);
  result.delivered = stats["delivered"];
  result.duplicates = stats["duplicates"];
  result.deadLettered = stats["deadLettered"];
  return result;
}

}  // namespace

std::int64_t committedChanges(const Fleet& fleet) {
  return number(fleet.databaseUrl("product-service"),
                "SELECT coalesce(sum(version), 0) FROM product");
}

std::int64_t appliedEvents(const Fleet& fleet, const std::string& service) {
  return number(fleet.databaseUrl(service),
                "SELECT coalesce(sum(events_applied), 0) FROM product_cache");
}

Audit audit(const Fleet& fleet) {
  Audit result;
  const auto truth = products(fleet.databaseUrl("product-service"),
                              "SELECT sku, version, 0, name, deleted FROM product");
  for (const auto& [sku, product] : truth) result.committed += product.events;
  result.pending = fleet.outboxStatus().pending;
  for (const auto* service : {"inventory-service", "order-service"}) {
    result.consumers.push_back(auditConsumer(fleet, service, truth));
  }
  return result;
}

bool Audit::clean(std::int64_t acknowledged) const {
  const auto agrees = [this](const ServiceAudit& service) {
    return service.clean() && service.applied == committed;
  };
  return pending == 0 && committed == acknowledged &&
         std::all_of(consumers.begin(), consumers.end(), agrees);
}

std::string Audit::table() const {
  constexpr const char* kRow = "{:<17}  {:>9}  {:>7}  {:>9}  {:>19}  {:>13}  {:>4}  {:>12}\n";
  const auto row = [](const auto&... cells) { return fmt::format(fmt::runtime(kRow), cells...); };
  std::string text = row("", "committed", "pending", "delivered", "duplicates absorbed",
                         "applied twice", "lost", "out of order");
  text += row("product-service", committed, pending, "-", "-", "-", "-", "-");
  for (const auto& service : consumers) {
    text += row(service.service, service.applied, "-", service.delivered, service.duplicates,
                service.appliedTwice, service.lost, service.outOfOrder);
  }
  return text;
}

}  // namespace pillion::warehouse
