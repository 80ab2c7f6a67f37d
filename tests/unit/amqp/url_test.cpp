#include "amqp/url.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

#include "support/thrown.hpp"

using pillion::ConfigError;
using pillion::amqp::Url;
using pillion::test::has;

namespace {

struct Case {
  const char* text;
  bool tls;
  const char* host;
  int port;
  const char* user;
  const char* password;
  const char* vhost;
};

}  // namespace

TEST_CASE("URLs are read as RabbitMQ's URI specification says, with its defaults") {
  const Case cases[] = {
      {"amqp://", false, "localhost", 5672, "guest", "guest", "/"},
      {"amqps://", true, "localhost", 5671, "guest", "guest", "/"},
      {"amqp://host", false, "host", 5672, "guest", "guest", "/"},
      {"amqp://host:", false, "host", 5672, "guest", "guest", "/"},
      {"amqp://:1234", false, "localhost", 1234, "guest", "guest", "/"},
      {"amqp://host/", false, "host", 5672, "guest", "guest", "/"},
      {"amqp://host/v", false, "host", 5672, "guest", "guest", "v"},
      {"amqp://host/%2f", false, "host", 5672, "guest", "guest", "/"},
      {"amqp://u:p@host:10/v", false, "host", 10, "u", "p", "v"},
      {"amqp://u@host", false, "host", 5672, "u", "", "/"},
      {"amqp://u:@host", false, "host", 5672, "u", "", "/"},
      {"amqp://us%65r%61:p%40%2Fss@ho%61st:10000/v%2Fhost", false, "hoast", 10000, "usera", "p@/ss",
       "v/host"},
      {"amqp://u:p:q@host", false, "host", 5672, "u", "p:q", "/"},
      {"amqp://u:p@q@host", false, "host", 5672, "u", "p@q", "/"},
      {"amqp://[::1]", false, "::1", 5672, "guest", "guest", "/"},
      {"amqp://u:p@[2001:db8::1]:5673/v", false, "2001:db8::1", 5673, "u", "p", "v"},
      {"amqps://host:65535", true, "host", 65535, "guest", "guest", "/"},
  };
  for (const Case& expected : cases) {
    CAPTURE(std::string(expected.text));
    const Url url = Url::parse(expected.text).front();
    CHECK(url.tls == expected.tls);
    CHECK(url.host == expected.host);
    CHECK(url.port == expected.port);
    CHECK(url.user == expected.user);
    CHECK(url.password == expected.password);
    CHECK(url.vhost == expected.vhost);
  }
}

TEST_CASE("the query names PEM files") {
  const Url url =
      Url::parse("amqps://host/v?cacertfile=/ca%20x.pem&certfile=c.pem&keyfile=k.pem").front();
  CHECK(url.vhost == "v");
  CHECK(url.caCertFile == "/ca x.pem");
  CHECK(url.certFile == "c.pem");
  CHECK(url.keyFile == "k.pem");
  CHECK(Url::parse("amqps://host?cacertfile=ca.pem").front().host == "host");
}

TEST_CASE("what is no broker URL is a ConfigError that shows the form and never the password") {
  for (const std::string text : {"",
                                 "host",
                                 "http://u:hush@host",
                                 "amqp:/u:hush@host",
                                 "u:hush@host",
                                 "AMQP://u:hush@host",
                                 "amqp://u:hush@host:x",
                                 "amqp://u:hush@host:0",
                                 "amqp://u:hush@host:65536",
                                 "amqp://u:hush@host:-1",
                                 "amqp://u:hush@host:1x",
                                 "amqp://u:hush%@host",
                                 "amqp://u:hush%4@host",
                                 "amqp://u:hush%zz@host",
                                 "amqp://u:hush@host/v%",
                                 "amqp://u:hush@[::1",
                                 "amqp://u:hush@host?verify=hush",
                                 "amqp://u:hush@host?cacertfile",
                                 "amqp://u:hush@host?&",
                                 "amqp://u:hu?sh@host"}) {
    CAPTURE(text);
    const auto message = pillion::test::textThrown<ConfigError>([&] { Url::parse(text); });
    CHECK(has(message, "amqp://user:password@host:port/vhost"));
    CHECK_FALSE(has(message, "hush"));
    CHECK_FALSE(has(message, "hu?sh"));
  }
}

TEST_CASE("a URL is displayed without its password") {
  const std::string text = Url::parse("amqp://user:hush@host:99/v").front().display();
  CHECK(has(text, "host:99"));
  CHECK(has(text, "'v'"));
  CHECK(has(text, "'user'"));
  CHECK_FALSE(has(text, "hush"));
}

TEST_CASE("a password with a bare slash is no host, port and vhost that messages would show") {
  for (const std::string text : {"amqp://user:123/hush@host", "amqp://user:/hush@host"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(Url::parse(text), ConfigError);
  }
}

TEST_CASE("text after an IPv6 address is refused, and so is an empty address") {
  for (const std::string text : {"amqp://[::1]x", "amqp://[::1]5672", "amqp://[]"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(Url::parse(text), ConfigError);
  }
}

namespace {

/// The addresses of all hosts; each must carry everything else that the URL says.
std::string addresses(const std::string& text) {
  std::string all;
  for (const Url& url : Url::parse(text)) {
    all += (all.empty() ? "" : " ") + url.address();
    CHECK(url.user == "u");
    CHECK(url.password == "p,q@r");
    CHECK(url.vhost == "v,w");
  }
  return all;
}

}  // namespace

TEST_CASE("several hosts are read in their order, each with its port, user and vhost for all") {
  CHECK(addresses("amqp://u:p%2Cq%40r@one/v,w") == "one:5672");
  CHECK(addresses("amqp://u:p,q@r@one:1,two:2,three:3/v,w") == "one:1 two:2 three:3");
  CHECK(addresses("amqp://u:p,q@r@one,two:2,[::1]:5674,[::2]/v%2Cw") ==
        "one:5672 two:2 [::1]:5674 [::2]:5672");
  CHECK(addresses("amqp://u:p,q@r@one,one/v,w") == "one:5672 one:5672");
  CHECK(addresses("amqps://u:p,q@r@one,two:2/v,w?cacertfile=a,b") == "one:5671 two:2");
  CHECK(Url::parse("amqps://a,b?cacertfile=c,d").back().caCertFile == "c,d");
  CHECK(Url::parse("amqp://on%2Ce").front().host == "on,e");
}

TEST_CASE("a list of hosts with a gap or a bad one is refused, without the password") {
  for (const std::string text :
       {"amqp://u:hush@one,", "amqp://u:hush@,one", "amqp://u:hush@one,,two", "amqp://u:hush@,",
        "amqp://u:hush@one:1,two:x", "amqp://u:hush@one,[::1", "amqp://u:hush@one:1:2,two",
        "amqp://u:hush@[::1]x,two", "amqp://u:hush@one,two%"}) {
    CAPTURE(text);
    const auto message = pillion::test::textThrown<ConfigError>([&] { Url::parse(text); });
    CHECK(has(message, "host:port,host:port"));
    CHECK_FALSE(has(message, "hush"));
  }
}
