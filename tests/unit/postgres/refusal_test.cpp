#include "postgres/refusal.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using pillion::postgres::healsByWaiting;

namespace {

/// As libpq tells of an attempt at a host.
std::string at(const std::string& host, const std::string& text) {
  return "connection to server at \"" + host + "\" (10.0.0.1), port 5432 failed: " + text + "\n";
}

std::string fatal(const std::string& text) {
  return at("db", "FATAL:  " + text);
}

const std::string kRefused =
    "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?";
const std::string kWrongPassword = "FATAL:  password authentication failed for user \"u\"";

}  // namespace

TEST_CASE("what a server says of its load and of its state passes") {
  for (const std::string text :
       {"too many connections for role \"shop\"", "too many connections for database \"shop\"",
        "sorry, too many clients already",
        "remaining connection slots are reserved for non-replication superuser connections",
        "remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "the database system is starting up", "the database system is shutting down",
        "the database system is in recovery mode",
        "the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled.",
        "terminating connection due to administrator command",
        "database \"shop\" is not currently accepting connections",
        "server login has been failing, cached error: password authentication failed for user",
        "canceling authentication due to timeout", "LDAP authentication failed for user \"u\""}) {
    CAPTURE(text);
    CHECK(healsByWaiting(fatal(text)));
  }
}

TEST_CASE("what somebody must change at the server or in the URL is final") {
  for (const std::string text :
       {"password authentication failed for user \"shop\"",
        "password authentication failed for user \"u\"\npassword retrieved from file "
        "\"/x/.pgpass\"",
        "Peer authentication failed for user \"shop\"", "database \"shop\" does not exist",
        "database \"shop\" does not exist\nDETAIL:  The database subdirectory is missing.",
        "role \"shop\" does not exist", "role \"shop\" is not permitted to log in",
        "permission denied for database \"shop\"\nDETAIL:  User does not have CONNECT privilege.",
        "no pg_hba.conf entry for host \"10.0.0.2\", user \"u\", database \"d\", no encryption",
        "pg_hba.conf rejects connection for host \"10.0.0.2\", user \"u\", database \"d\"",
        "no such database: shop"}) {
    CAPTURE(text);
    CHECK_FALSE(healsByWaiting(fatal(text)));
  }
}

TEST_CASE("what the client finds wrong with the URL is final") {
  for (const std::string text :
       {"could not translate host name \"nowhere\" to address: Name or service not known\n",
        "invalid port number: \"99999\"\n",
        "invalid integer value \"x\" for connection option \"connect_timeout\"\n"}) {
    CAPTURE(text);
    CHECK_FALSE(healsByWaiting(text));
  }
  for (const std::string text :
       {"fe_sendauth: no password supplied", "SSL error: certificate verify failed",
        "server does not support SSL, but SSL was required",
        "root certificate file \"/x/root.crt\" does not exist\nEither provide the file or change "
        "sslmode to disable server certificate verification."}) {
    CAPTURE(text);
    CHECK_FALSE(healsByWaiting(at("db", text)));
  }
}

TEST_CASE("a server that is away, and a text that is not known or of another language, passes") {
  for (const std::string& text :
       {kRefused, std::string("timeout expired"), std::string("Connection timed out"),
        std::string("server closed the connection unexpectedly\n\tThis probably means the server "
                    "terminated abnormally\n\tbefore or while processing the request."),
        std::string("session is read-only"), std::string("server is in hot standby mode"),
        std::string("FATAL:  Passwort-Authentifizierung für Benutzer »u« fehlgeschlagen"),
        std::string("ВАЖНО:  база данных \"shop\" не существует")}) {
    CAPTURE(text);
    CHECK(healsByWaiting(at("db", text)));
  }
  CHECK(healsByWaiting(""));
  CHECK(
      healsByWaiting("could not translate host name \"db\" to address: "
                     "Temporary failure in name resolution\n"));
  CHECK(healsByWaiting("Verbindung zum Server auf »db«, Port 5432 fehlgeschlagen: FATAL:  x\n"));
  CHECK(
      healsByWaiting("connection to server on socket \"/run/.s.PGSQL.5432\" failed: No such file "
                     "or directory\n\tIs the server running locally?\n"));
}

TEST_CASE("a name that reads like a final answer makes none of a passing one") {
  CHECK(healsByWaiting(fatal("too many connections for role \"x\" does not exist\"")));
  CHECK(healsByWaiting(fatal("too many connections for database \"no pg_hba.conf entry\"")));
  CHECK(healsByWaiting(at("password authentication failed", kRefused)));
  CHECK(healsByWaiting(fatal("function \"login_hook\" does not exist")));
}

TEST_CASE("of several hosts, all must give a final answer") {
  const std::string final = kWrongPassword;
  CHECK(healsByWaiting(at("a", kRefused) + at("b", final)));
  CHECK(healsByWaiting(at("a", final) + at("b", "timeout expired")));
  CHECK(healsByWaiting(at("a", final) + at("b", "FATAL:  the database system is starting up")));
  CHECK(
      healsByWaiting("could not translate host name \"a\" to address: Name or service not known\n" +
                     at("b", kRefused)));
  CHECK_FALSE(healsByWaiting(at("a", final) + at("b", final)));
  CHECK_FALSE(
      healsByWaiting("could not translate host name \"a\" to address: Name or service not known\n" +
                     at("b", final)));
}

TEST_CASE("hosts of one name and two ports are two, addresses of one host and port are one") {
  const auto on = [](const std::string& address, const std::string& port, const std::string& text) {
    return "connection to server at \"localhost\" (" + address + "), port " + port +
           " failed: " + text + "\n";
  };
  CHECK_FALSE(
      healsByWaiting(on("::1", "5432", kRefused) + on("127.0.0.1", "5432", kWrongPassword)));
  CHECK(
      healsByWaiting(on("127.0.0.1", "5432", kRefused) + on("127.0.0.1", "5433", kWrongPassword)));
  CHECK(healsByWaiting("connection to server at \"10.0.0.1\", port 1 failed: " + kRefused + "\n" +
                       "connection to server at \"10.0.0.1\", port 2 failed: " + kWrongPassword));
}

TEST_CASE("a full server stays passing when the try without encryption has no entry") {
  const std::string noEntry =
      fatal("no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", no encryption");
  CHECK(healsByWaiting(fatal("too many connections for role \"u\"") + noEntry));
  CHECK_FALSE(healsByWaiting(fatal("password authentication failed for user \"u\"") + noEntry));
}
