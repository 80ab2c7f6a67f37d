#include "amqp/channel.hpp"

#include <doctest/doctest.h>

using namespace pillion::amqp;

TEST_CASE("a message is mentioned by its routing key in quotes or by the size of its body") {
  Message message;
  message.routingKey = "a.b";
  message.body = std::string(120, 'x');
  const auto mentioned = [&](const char* text) {
    return mentions(ChannelClosed{Road::Main, 0, text}, message);
  };
  CHECK(mentioned("ACCESS_REFUSED - access to topic 'a.b' in exchange 'x'"));
  CHECK(mentioned("PRECONDITION_FAILED - message size 120 is larger than configured max size 100"));
  CHECK(mentioned("1120, 1201, and then 120"));
  CHECK(mentioned("120"));
  CHECK_FALSE(mentioned("ACCESS_REFUSED - access to topic 'a.b.c' in exchange 'xa.b'"));
  CHECK_FALSE(mentioned("message size 1120 is larger than 1200"));
  CHECK_FALSE(mentioned(""));
  message.routingKey = "";
  CHECK_FALSE(mentioned("access to topic '' in exchange"));
}
