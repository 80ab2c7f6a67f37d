#include "amqp/cause.hpp"

#include <doctest/doctest.h>

#include "amqp/channel.hpp"

using namespace pillion::amqp;

// The texts are RabbitMQ's own, of 3.10 and of later versions.

TEST_CASE("what passes by itself, what somebody must set, and what right is missing") {
  struct Case {
    Cause cause;
    int code;
    const char* text;
  };
  const Case cases[] = {
      {Cause::Passing, 530,
       "NOT_ALLOWED - access to vhost '/' refused for user 'u': connection "
       "limit (1) is reached"},
      {Cause::Passing, 530,
       "NOT_ALLOWED - access to vhost '/' refused for user 'u': vhost connection limit (1) is "
       "reached"},
      {Cause::Passing, 530,
       "NOT_ALLOWED - Connection refused for user 'u': user connection limit (1) is reached"},
      {Cause::Passing, 530,
       "NOT_ALLOWED - connection refused: node connection limit (10) is reached"},
      {Cause::Passing, 530,
       "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user "
       "limit of (1)"},
      {Cause::Passing, 530,
       "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"},
      {Cause::Passing, 530, "NOT_ALLOWED - too many connections"},
      {Cause::Passing, 406,
       "PRECONDITION_FAILED - cannot declare queue 'q' in vhost '/': queue limit in vhost '/' "
       "(1) is reached"},
      {Cause::Passing, 320,
       "CONNECTION_FORCED - broker forced connection closure with reason "
       "'shutdown'"},
      {Cause::Passing, 541, "INTERNAL_ERROR - Cannot connect to vhost 'v': vhost is down"},
      {Cause::Passing, 404,
       "NOT_FOUND - home node 'r@h' of durable queue 'q' in vhost '/' is "
       "down or inaccessible"},
      {Cause::Passing, 405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue"},
      {Cause::Passing, 506, "RESOURCE_ERROR"},
      {Cause::Passing, 0, ""},
      {Cause::Final, 530, "NOT_ALLOWED - vhost v not found"},
      {Cause::Final, 530, "NOT_ALLOWED - access to vhost '/' refused for user 'u'"},
      {Cause::Final, 406,
       "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in "
       "vhost '/': received none but current is the value 'quorum'"},
      {Cause::Final, 402, "INVALID_PATH"},
      {Cause::NoRight, 403,
       "ACCESS_REFUSED - access to queue 'pillion.fence.1' in vhost '/' refused for user 'u'"},
      {Cause::NoRight, 403,
       "ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for "
       "user 'u'"},
  };
  for (const Case& expected : cases) {
    CAPTURE(std::string(expected.text));
    CHECK(causeOf(expected.code, expected.text) == expected.cause);
  }
}

TEST_CASE("a refused login is final, a login beyond a limit is not") {
  CHECK(causeOfRefusedLogin(403,
                            "ACCESS_REFUSED - Login was refused using authentication "
                            "mechanism PLAIN.") == Cause::Final);
  CHECK(causeOfRefusedLogin(530, "NOT_ALLOWED - vhost v not found") == Cause::Final);
  CHECK(causeOfRefusedLogin(530, "NOT_ALLOWED - user connection limit (0) is reached") ==
        Cause::Passing);
}

TEST_CASE("which closes of a channel are over a message, and which over more than one") {
  CHECK(isAboutMessage(406, "PRECONDITION_FAILED - message size 11 is larger than 10"));
  CHECK(isAboutMessage(311, "CONTENT_TOO_LARGE"));
  CHECK(isAboutMessage(403,
                       "ACCESS_REFUSED - access to topic 'a.b' in exchange 'x' in vhost '/' "
                       "refused for user 'u'"));
  CHECK_FALSE(isAboutMessage(403,
                             "ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused "
                             "for user 'u'"));
  CHECK_FALSE(isAboutMessage(404, "NOT_FOUND - no exchange 'x' in vhost '/'"));
  CHECK_FALSE(isAboutMessage(541, "INTERNAL_ERROR"));
  CHECK_FALSE(isAboutMessage(0, ""));
}
