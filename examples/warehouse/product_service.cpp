// product-service: owns the products. Every change of a row is published as an event in the same
// transaction, so that other services see all changes that were made and none that was not.
//
//   PILLION_DATABASE_URL=postgresql://… PORT=8081 product-service
//
// It needs no broker: a relay takes the events from the database (`pillion relay`).
#include <httplib.h>

#include <nlohmann/json.hpp>
#include <pillion/pillion.hpp>
#include <pqxx/pqxx>
#include <string>

#include "service.hpp"
#include "tables.hpp"

namespace {

using httplib::Request;
using httplib::Response;
using nlohmann::json;
using warehouse::sendError;
using warehouse::sendJson;
using warehouse::textField;

class ProductService {
 public:
  // A product that was deleted may be created again; its version goes on.
  void create(const Request& request, Response& response) {
    const auto sku = textField(request, "sku");
    const auto name = textField(request, "name");

    pqxx::work tx{database_.connection()};
    const auto rows = tx.exec_params(
        "INSERT INTO product (sku, name) VALUES ($1, $2) "
        "ON CONFLICT (sku) DO UPDATE SET name = excluded.name, version = product.version + 1, "
        "  deleted = false, changed_at = now() WHERE product.deleted "
        "RETURNING version",
        sku, name);
    if (rows.empty()) return sendError(response, 409, "product " + sku + " exists already");
    const json product = {{"sku", sku}, {"name", name}, {"version", rows[0][0].as<int>()}};
    publisher_->publish(tx, pillion::Event("product.created", product).setKey(sku));
    tx.commit();

    sendJson(response, 201, product);
  }

  void update(const Request& request, Response& response) {
    const std::string sku = request.matches[1];
    const auto name = textField(request, "name");

    pqxx::work tx{database_.connection()};
    const auto rows = tx.exec_params(
        "UPDATE product SET name = $2, version = version + 1, changed_at = now() "
        "WHERE sku = $1 AND NOT deleted RETURNING version",
        sku, name);
    if (rows.empty()) return sendError(response, 404, "no product " + sku);
    const json product = {{"sku", sku}, {"name", name}, {"version", rows[0][0].as<int>()}};
    publisher_->publish(tx, pillion::Event("product.updated", product).setKey(sku));
    tx.commit();

    sendJson(response, 200, product);
  }

  void remove(const Request& request, Response& response) {
    const std::string sku = request.matches[1];

    pqxx::work tx{database_.connection()};
    const auto rows = tx.exec_params(
        "UPDATE product SET deleted = true, version = version + 1, changed_at = now() "
        "WHERE sku = $1 AND NOT deleted RETURNING name, version",
        sku);
    if (rows.empty()) return sendError(response, 404, "no product " + sku);
    const json product = {
        {"sku", sku}, {"name", rows[0][0].as<std::string>()}, {"version", rows[0][1].as<int>()}};
    publisher_->publish(tx, pillion::Event("product.deleted", product).setKey(sku));
    tx.commit();

    sendJson(response, 200, product);
  }

  void read(const Request& request, Response& response) {
    const std::string sku = request.matches[1];
    pqxx::work tx{database_.connection()};
    const auto rows =
        tx.exec_params("SELECT name, version FROM product WHERE sku = $1 AND NOT deleted", sku);
    if (rows.empty()) return sendError(response, 404, "no product " + sku);
    sendJson(
        response, 200,
        {{"sku", sku}, {"name", rows[0][0].as<std::string>()}, {"version", rows[0][1].as<int>()}});
  }

  void run() {
    const warehouse::StopSignals signals;
    pillion::Migrator{}.migrate();
    database_.create(warehouse::kProductTable);

    httplib::Server server;
    const char* one = "/api/v1/products/(.+)";
    server.Post("/api/v1/products",
                [this](auto& request, auto& response) { create(request, response); });
    server.Get(one, [this](auto& request, auto& response) { read(request, response); });
    server.Put(one, [this](auto& request, auto& response) { update(request, response); });
    server.Delete(one, [this](auto& request, auto& response) { remove(request, response); });
    warehouse::serve(server, "product-service", 8081, signals);
  }

 private:
  warehouse::Database database_;
  std::unique_ptr<pillion::EventPublisher> publisher_ =
      pillion::EventPublisher::create("product-service");
};

}  // namespace

int main() {
  return warehouse::run("product-service", [] { ProductService{}.run(); });
}
