#define PILLION_TEST_MAIN
#include "fixture.hpp"
#include "support/ports.hpp"

// A broker that speaks TLS: verified, or not spoken to.

using namespace pillion;
using namespace pillion::test;

namespace {

/// An authority, and a certificate of its making for localhost.
class Certificates {
 public:
  explicit Certificates(const std::filesystem::path& directory) : directory_(directory) {
    std::filesystem::create_directories(directory_);
    openssl({"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
             "/CN=Test Authority", "-keyout", path("ca.key"), "-out", path("ca.pem")});
    openssl({"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
             "/CN=Other Authority", "-keyout", path("other.key"), "-out", path("other.pem")});
    openssl({"req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext",
             "subjectAltName=DNS:localhost", "-keyout", path("server.key"), "-out",
             path("server.csr")});
    openssl({"x509", "-req", "-in", path("server.csr"), "-CA", path("ca.pem"), "-CAkey",
             path("ca.key"), "-CAcreateserial", "-days", "2", "-copy_extensions", "copy", "-out",
             path("server.pem")});
  }

  [[nodiscard]] std::string path(const std::string& name) const { return directory_ / name; }

 private:
  static void openssl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "openssl");
    const auto result = support::run({.command = arguments});
    REQUIRE_MESSAGE(result.status == 0, result.output);
  }

  std::filesystem::path directory_;
};

struct TlsBroker {
  support::TemporaryDirectory directory;
  Certificates certificates{directory / "tls"};
  int port = support::freePort();
  support::RabbitServer server{
      directory / "rabbit",
      {.config = "listeners.ssl.1 = 127.0.0.1:" + std::to_string(port) +
                 "\nssl_options.cacertfile = " + certificates.path("ca.pem") +
                 "\nssl_options.certfile = " + certificates.path("server.pem") +
                 "\nssl_options.keyfile = " + certificates.path("server.key") + "\n",
       .nodeName = "tls"}};

  [[nodiscard]] BrokerOptions options(const std::string& host, const std::string& ca) const {
    BrokerOptions broker;
    broker.url = "amqps://guest:guest@" + host + ":" + std::to_string(port) +
                 "?cacertfile=" + certificates.path(ca);
    broker.exchange = "tls.events";
    return broker;
  }
};

}  // namespace

TEST_CASE(
    "TLS to the broker is verified: the right authority and name work, all else fails closed") {
  static const TlsBroker broker;  // one for all subcases: it takes seconds to start
  SUBCASE("an event travels through TLS") {
    TestDatabase database;
    amqp::Connection reader(broker.options("localhost", "ca.pem"), "test");
    reader.declareTopicExchange("tls.events");
    reader.declareQueue({.name = "tls"});
    reader.bindQueue("tls", "tls.events", "#");
    reader.consume("tls", 10);
    auto options = relayOptions(database, "tls.events");
    options.broker = broker.options("localhost", "ca.pem");
    const auto relay = Relay::create(options);
    relay->start();
    EventPublisher::create("tls", {.database = database.options()})
        ->publish(Event("a.b", {{"text", std::string(300'000, 'x')}}));
    std::optional<amqp::Incoming> incoming;
    REQUIRE(eventually(20s, [&] {
      incoming = reader.receive(100ms);
      return incoming && std::holds_alternative<amqp::Delivery>(*incoming);
    }));
    CHECK(std::get<amqp::Delivery>(*incoming).message.body.size() > 300'000);
  }
  SUBCASE("an unknown authority is refused") {
    CHECK_THROWS_AS(amqp::Connection(broker.options("localhost", "other.pem"), "test"),
                    ConfigError);
  }
  SUBCASE("another host name than the certificate's is refused") {
    CHECK_THROWS_AS(amqp::Connection(broker.options("127.0.0.1", "ca.pem"), "test"), ConfigError);
  }
  SUBCASE("a missing file of authorities is named") {
    CHECK_THROWS_WITH_AS(amqp::Connection(broker.options("localhost", "none.pem"), "test"),
                         doctest::Contains("none.pem"), ConfigError);
  }
}
