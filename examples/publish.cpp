// Publishing in the transaction of the change: an order is paid, and the event that says so exists
// if and only if the payment does. Needs a database, and neither broker nor relay.
//
//   pillion migrate && publish 3      three orders; a fourth is rolled back and leaves no event
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <pillion/pillion.hpp>
#include <pqxx/pqxx>
#include <string>

namespace {

void createTable(pqxx::connection& connection) {
  pqxx::work tx{connection};
  tx.exec(
      "CREATE TABLE IF NOT EXISTS payment ("
      "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, cents int NOT NULL)");
  tx.commit();
}

// Writes the payment and its event into the caller's transaction; whether both come true is for the
// caller to say.
std::string pay(const pillion::EventPublisher& publisher, pqxx::work& tx, int cents) {
  const auto rows = tx.exec_params("INSERT INTO payment (cents) VALUES ($1) RETURNING id", cents);
  auto id = rows[0][0].as<std::string>();
  publisher.publish(tx, pillion::Event("payment.made", {{"id", id}, {"cents", cents}}).setKey(id));
  return id;
}

void run(int payments) {
  const char* url = std::getenv("PILLION_DATABASE_URL");
  pqxx::connection connection(url != nullptr ? url : "");
  createTable(connection);
  const auto publisher = pillion::EventPublisher::create("payment-service");

  for (int i = 1; i <= payments; ++i) {
    pqxx::work tx{connection};
    const auto id = pay(*publisher, tx, 100 * i);
    tx.commit();
    std::cout << "payment " << id << ": committed with its event\n";
  }

  pqxx::work tx{connection};
  const auto id = pay(*publisher, tx, 1);
  tx.abort();
  std::cout << "payment " << id << ": rolled back, and so was its event\n";

  std::cout << pillion::readOutboxStatus().pending << " events wait for a relay\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc > 1 ? std::atoi(argv[1]) : 3);
    return 0;
  } catch (const pillion::Error& error) {
    std::cerr << "publish: " << error.what() << '\n';
    return error.retryable() ? 1 : 2;
  } catch (const std::exception& error) {
    std::cerr << "publish: " << error.what() << '\n';
    return 1;
  }
}
