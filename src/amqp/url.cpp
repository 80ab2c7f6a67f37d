#include "amqp/url.hpp"

#include <charconv>
#include <optional>
#include <pillion/error.hpp>
#include <string_view>

namespace pillion::amqp {
namespace {

[[noreturn]] void invalid(const std::string& what) {
  throw ConfigError("the broker URL is not valid (" + what +
                    "): PILLION_AMQP_URL (or the option) takes "
                    "amqp://user:password@host:port/vhost, several hosts as host:port,host:port, "
                    "special characters percent-encoded");
}

int hexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string decoded(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hexValue(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hexValue(text[i + 2]) : -1;
    if (high < 0 || low < 0) invalid("bad percent-encoding");
    result += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return result;
}

/// Splits off what follows the mark, when there is one.
std::optional<std::string_view> cut(std::string_view& text, char mark) {
  const auto at = text.find(mark);
  if (at == std::string_view::npos) return std::nullopt;
  const auto after = text.substr(at + 1);
  text = text.substr(0, at);
  return after;
}

int portFrom(std::string_view text) {
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size() || port < 1 || port > 65535) {
    invalid("the port is a number from 1 to 65535");
  }
  return port;
}

void readHost(Url& url, std::string_view authority) {
  std::optional<std::string_view> port;
  if (authority.starts_with('[')) {  // IPv6
    auto rest = cut(authority, ']');
    if (!rest) invalid("no ']' after an IPv6 address");
    url.host = authority.substr(1);
    if (url.host.empty() || !(rest->empty() || rest->starts_with(':'))) {
      invalid("after an IPv6 address in brackets comes nothing or a port");
    }
    if (!rest->empty()) port = rest->substr(1);
  } else {
    port = cut(authority, ':');
    if (!authority.empty()) url.host = decoded(authority);
  }
  if (port && !port->empty()) url.port = portFrom(*port);
}

void readQuery(Url& url, std::string_view query) {
  while (!query.empty()) {
    const auto rest = cut(query, '&');
    const auto value = cut(query, '=');
    if (!value) invalid("a query parameter without '='");
    if (query == "cacertfile") {
      url.caCertFile = decoded(*value);
    } else if (query == "certfile") {
      url.certFile = decoded(*value);
    } else if (query == "keyfile") {
      url.keyFile = decoded(*value);
    } else {
      invalid("known query parameters are cacertfile, certfile and keyfile");
    }
    query = rest.value_or("");
  }
}

/// The URL once for each host of the list.
std::vector<Url> withHosts(const Url& url, std::string_view list) {
  std::vector<Url> urls;
  const bool several = list.find(',') != std::string_view::npos;
  for (std::optional<std::string_view> rest = list; rest;) {
    std::string_view one = *rest;
    rest = cut(one, ',');
    if (several && one.empty()) invalid("a host is missing beside a comma");
    readHost(urls.emplace_back(url), one);
  }
  return urls;
}

}  // namespace

std::vector<Url> Url::parse(const std::string& text) {
  Url url;
  std::string_view rest = text;
  if (rest.starts_with("amqps://")) {
    url.tls = true;
    url.port = 5671;
    rest.remove_prefix(8);
  } else if (rest.starts_with("amqp://")) {
    rest.remove_prefix(7);
  } else {
    invalid("it begins with neither amqp:// nor amqps://");
  }
  const auto query = cut(rest, '?');
  const auto path = cut(rest, '/');
  if (const auto at = rest.rfind('@'); at != std::string_view::npos) {
    std::string_view user = rest.substr(0, at);
    const auto password = cut(user, ':');
    url.user = decoded(user);
    url.password = decoded(password.value_or(""));
    rest.remove_prefix(at + 1);
  }
  // "amqp://host/" is an empty vhost by the letter and the default one in everybody's mind.
  if (path && path->find('@') != std::string_view::npos) {
    invalid("an '@' behind the first slash; a slash in a password is written %2F");
  }
  if (path && !path->empty()) url.vhost = decoded(*path);
  if (query) readQuery(url, *query);
  return withHosts(url, rest);
}

std::string Url::address() const {
  const bool bracketed = host.find(':') != std::string::npos;
  return (bracketed ? '[' + host + ']' : host) + ':' + std::to_string(port);
}

std::string Url::display() const {
  return address() + " (vhost '" + vhost + "', user '" + user + "')";
}

}  // namespace pillion::amqp
