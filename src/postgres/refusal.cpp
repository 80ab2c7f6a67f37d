#include "postgres/refusal.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string>

namespace pillion::postgres {
namespace {

enum class Answer {
  Passing,  // or not known
  Away,     // nobody answered at that address
  Final,    // somebody must change a setting
};

/// A text that begins and ends so; between them is a name, which could hold any other text.
struct Form {
  std::string_view begin;
  std::string_view end = {};
};

// PostgreSQL's and PgBouncer's. That of a method which asks another server (LDAP, RADIUS, PAM) is
// not among them: that server may be away.
constexpr std::array kServerFinal = {Form{"password authentication failed"},
                                     Form{"Peer authentication failed"},
                                     Form{"Ident authentication failed"},
                                     Form{"certificate authentication failed"},
                                     Form{"SASL authentication failed"},
                                     Form{"authentication failed for user", "host rejected"},
                                     Form{"no pg_hba.conf entry"},
                                     Form{"pg_hba.conf rejects connection"},
                                     Form{"database \"", "\" does not exist"},
                                     Form{"role \"", "\" does not exist"},
                                     Form{"role \"", "\" is not permitted to log in"},
                                     Form{"permission denied for database"},
                                     Form{"no such database"},
                                     Form{"no such user"}};

constexpr std::array kClientFinal = {Form{"fe_sendauth: no password supplied"},
                                     Form{"could not translate host name"},
                                     Form{"invalid port number"},
                                     Form{"invalid integer value"},
                                     Form{"server does not support SSL, but SSL was required"},
                                     Form{"SSL error: certificate verify failed"},
                                     Form{"root certificate file \"", "\" does not exist"},
                                     Form{"server certificate for \"", ""}};

constexpr std::array kAway = {Form{"Connection refused"},
                              Form{"Connection timed out"},
                              Form{"timeout expired"},
                              Form{"No route to host"},
                              Form{"Network is unreachable"},
                              Form{"Cannot assign requested address"},
                              Form{"Address family not supported by protocol"}};

/// After "could not translate host name …": not that there is no such host.
constexpr std::string_view kResolverAway = "Temporary failure in name resolution";

/// Lines that explain the one before them.
constexpr std::array kExplaining = {Form{"\t"}, Form{"DETAIL:"}, Form{"HINT:"},
                                    Form{"Either provide the file"},
                                    Form{"password retrieved from file"}};

template <std::size_t N>
bool isOneOf(const std::array<Form, N>& forms, std::string_view text) {
  return std::ranges::any_of(forms, [text](const Form& form) {
    return text.starts_with(form.begin) && text.ends_with(form.end);
  });
}

Answer answerOf(std::string_view text) {
  static constexpr std::string_view kSeverity = "FATAL:  ";
  if (text.starts_with(kSeverity)) {
    text.remove_prefix(kSeverity.size());
    return isOneOf(kServerFinal, text) ? Answer::Final : Answer::Passing;
  }
  if (text.ends_with(kResolverAway)) return Answer::Passing;
  if (isOneOf(kAway, text)) return Answer::Away;
  return isOneOf(kClientFinal, text) ? Answer::Final : Answer::Passing;
}

/// One attempt: at which host and port, and what came of it.
struct Attempt {
  std::string host;
  Answer answer;
};

/// Lines are `connection to server at "host" (address), port 5432 failed: text`, where the address
/// is left out when the host is one; or `… on socket "path" failed: text`; or the text alone.
Attempt attemptOf(std::string_view line) {
  static constexpr std::string_view kFailed = " failed: ";
  const auto nameEnd = line.find("\", port ");
  const auto addressEnd = line.find("), port ");
  const auto failed = line.find(kFailed);
  if (!line.starts_with("connection to server ") || failed == std::string_view::npos) {
    return {std::string(line), answerOf(line)};
  }
  const Answer answer = answerOf(line.substr(failed + kFailed.size()));
  const auto portAt = std::min(nameEnd, addressEnd);
  if (portAt >= failed) return {std::string(line.substr(0, failed)), answer};
  const auto name = line.substr(0, std::min(line.find("\" ("), portAt));
  return {std::string(name) + std::string(line.substr(portAt + 1, failed - portAt - 1)), answer};
}

/// What the attempts at one host came to: at each of its addresses, with encryption and without.
struct Host {
  bool someFinal = false;
  bool somePassing = false;
};

}  // namespace

bool healsByWaiting(std::string_view message) {
  std::map<std::string, Host> hosts;
  while (!message.empty()) {
    const auto line = message.substr(0, message.find('\n'));
    message.remove_prefix(std::min(message.size(), line.size() + 1));
    if (line.empty() || isOneOf(kExplaining, line)) continue;
    const Attempt attempt = attemptOf(line);
    Host& host = hosts[attempt.host];
    if (attempt.answer == Answer::Final) host.someFinal = true;
    if (attempt.answer == Answer::Passing) host.somePassing = true;
  }
  // An address of a host where nobody listens (such as ::1 of localhost) says nothing against the
  // answer of another.
  return hosts.empty() || std::ranges::any_of(hosts, [](const auto& entry) {
           return entry.second.somePassing || !entry.second.someFinal;
         });
}

}  // namespace pillion::postgres
