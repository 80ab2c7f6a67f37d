#include "amqp/hosts.hpp"

#include <doctest/doctest.h>

#include <pillion/error.hpp>

#include "support/thrown.hpp"

using namespace pillion;
using namespace pillion::amqp;
using pillion::test::has;
using pillion::test::textThrown;

namespace {

constexpr std::chrono::milliseconds kLong{10'000};

/// Tries the hosts; a host whose name begins with 'a' is away, one with 'w' refuses for good.
struct Round {
  explicit Round(const std::string& list) : hosts(Url::parse("amqp://u:hush@" + list)) {}

  std::string run(std::chrono::milliseconds limit = kLong) {
    tried.clear();
    return hosts.tryEach(limit, [&](const Url& url) { attempt(url); }).address();
  }

  void attempt(const Url& url) {
    tried += url.host + ' ';
    if (url.host.starts_with("a")) throw BrokerError("away at " + url.address());
    if (url.host.starts_with("w")) throw ConfigError("wrong at " + url.address());
  }

  Hosts hosts;
  std::string tried;
};

/// Where the rounds of a process begin is kept for all of them: brings it to the first of a list.
void beginWithFirst(const Hosts& hosts, std::size_t count) {
  for (std::size_t i = 0; i < 2 * count; ++i) {
    const Url& url = hosts.tryEach(kLong, [](const Url&) {});
    if (url.host == "one") return;
    hosts.failed(url);
  }
  FAIL("it is never the first one's turn");
}

}  // namespace

TEST_CASE("the next round begins with the host that was good, or behind it once it failed") {
  const Hosts hosts(Url::parse("amqp://one,two,three"));
  const auto next = [&] { return hosts.tryEach(kLong, [](const Url&) {}).host; };
  beginWithFirst(hosts, 3);
  CHECK(next() == "one");
  const Url& one = hosts.tryEach(kLong, [](const Url&) {});
  hosts.failed(one);
  CHECK(next() == "two");
  hosts.failed(one);  // another connection to it, which ended with it: nobody is passed by
  CHECK(next() == "two");
  hosts.failed(hosts.tryEach(kLong, [](const Url&) {}));
  CHECK(next() == "three");
  hosts.failed(hosts.tryEach(kLong, [](const Url&) {}));
  CHECK(next() == "one");
}

TEST_CASE("a host that is away or refuses is passed by, and nothing is said while another works") {
  Round round("away,wrong,one");
  CHECK(round.run() == "one:5672");
  CHECK(round.run() == "one:5672");
  CHECK(round.tried == "one ");
}

TEST_CASE("when none will do each is named with its trouble, in the URL's order, every round") {
  Round round("away1:1,away2:2,wrong:3");
  const auto first = textThrown<BrokerError>([&] { round.run(); });
  const auto second = textThrown<BrokerError>([&] { round.run(); });
  CHECK(first == "none of 3 hosts will do: away at away1:1; away at away2:2; wrong at wrong:3");
  CHECK(second == first);  // said once, not once a round
}

TEST_CASE("it is final only when it is final at every host, and one host speaks for itself") {
  CHECK(has(textThrown<ConfigError>([] { Round("wrong1,wrong2").run(); }), "wrong at wrong2:5672"));
  CHECK(textThrown<ConfigError>([] { Round("wrong").run(); }) == "wrong at wrong:5672");
  CHECK(textThrown<BrokerError>([] { Round("away").run(); }) == "away at away:5672");
  CHECK_THROWS_AS(Round("wrong,away").run(), BrokerError);
  CHECK_THROWS_AS(Round("away,wrong").run(), BrokerError);
}

TEST_CASE("a round ends at its limit, is not final then, and the next begins with the rest") {
  const Hosts hosts(Url::parse("amqp://one,two,three"));
  beginWithFirst(hosts, 3);
  std::string tried;
  const auto round = [&] {
    hosts.tryEach(std::chrono::milliseconds(-1), [&](const Url& url) {
      tried += url.host + ' ';
      throw ConfigError("wrong at " + url.host);
    });
  };
  for (int i = 0; i < 4; ++i) CHECK_THROWS_AS(round(), BrokerError);
  CHECK(tried == "one two three one ");
}
