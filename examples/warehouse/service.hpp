// What the three services share besides Pillion: a stop on SIGTERM or Ctrl-C, a database connection
// per thread, and a web server that answers in JSON, errors included.
#pragma once

#include <httplib.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <pillion/pillion.hpp>
#include <pqxx/pqxx>
#include <stdexcept>
#include <string>
#include <thread>

namespace warehouse {

inline std::string environment(const char* name, const std::string& fallback = "") {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

// Keeps SIGTERM and SIGINT back until somebody waits for them. Threads inherit that, so make one
// before the first thread starts.
class StopSignals {
 public:
  StopSignals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }

  void wait() const {
    int number = 0;
    sigwait(&set_, &number);
  }

 private:
  sigset_t set_;
};

// The service's own tables, in the database that Pillion uses too.
class Database {
 public:
  // The connection of the calling thread. One that broke during an earlier call is replaced.
  pqxx::connection& connection() {
    thread_local std::optional<pqxx::connection> mine;
    if (!mine || !mine->is_open()) mine.emplace(url_);
    return *mine;
  }

  // Instances that start together take turns: CREATE TABLE IF NOT EXISTS alone can collide.
  void create(const char* table) {
    pqxx::work tx{connection()};
    tx.exec("SELECT pg_advisory_xact_lock(hashtext('warehouse tables'))");
    tx.exec(table);
    tx.commit();
  }

 private:
  std::string url_ = environment("PILLION_DATABASE_URL");
};

// The caller's mistake; answered with status 400 and this text.
class BadRequest : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void sendJson(httplib::Response& response, int status, const nlohmann::json& body) {
  response.status = status;
  const auto text = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  response.set_content(text + "\n", "application/json");
}

inline void sendError(httplib::Response& response, int status, const std::string& problem) {
  sendJson(response, status, {{"error", problem}});
}

// A member of the body, which must be a JSON object: 1 to 100 bytes of text without control
// characters.
inline std::string textField(const httplib::Request& request, const char* field) {
  const auto body = nlohmann::json::parse(request.body, nullptr, false);
  if (!body.is_object()) throw BadRequest("the body must be a JSON object");
  const auto found = body.find(field);
  const std::string name = std::string("\"") + field + "\"";
  if (found == body.end() || !found->is_string()) throw BadRequest(name + " must be a string");
  auto text = found->get<std::string>();
  if (text.empty() || text.size() > 100) throw BadRequest(name + " must have 1 to 100 bytes");
  for (const unsigned char c : text) {
    if (c < 0x20) throw BadRequest(name + " must not have control characters");
  }
  return text;
}

// Turns what a request handler threw into an answer.
inline void answerException(httplib::Response& response, const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const BadRequest& error) {
    sendError(response, 400, error.what());
  } catch (const pillion::InvalidEvent& error) {
    sendError(response, 400, error.what());
  } catch (const pqxx::data_exception&) {
    sendError(response, 400, "that is no valid text");
  } catch (const pqxx::in_doubt_error&) {
    sendError(response, 503, "the database was lost during the commit: look before you try again");
  } catch (const pqxx::broken_connection&) {
    sendError(response, 503, "the database is away; nothing was changed");
  } catch (const std::exception& error) {
    spdlog::error("request failed: {}", error.what());
    sendError(response, 500, "internal error");
  }
}

inline int portNumber(int fallback) {
  const std::string text = environment("PORT", std::to_string(fallback));
  const char* last = text.data() + text.size();
  int port = 0;
  const auto [end, error] = std::from_chars(text.data(), last, port);
  if (error != std::errc() || end != last || port < 1 || port > 65535) {
    throw pillion::ConfigError("PORT must be a number from 1 to 65535");
  }
  return port;
}

inline void prepare(httplib::Server& server, const std::string& service) {
  server.Get("/health", [service](const httplib::Request&, httplib::Response& response) {
    sendJson(response, 200, {{"service", service}, {"status", "up"}});
  });
  server.set_exception_handler(
      [](const httplib::Request&, httplib::Response& response, const std::exception_ptr& thrown) {
        answerException(response, thrown);
      });
  server.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (!response.body.empty()) return;
    const bool unknown = response.status == 404;
    sendError(response, response.status, unknown ? "nothing is here" : "bad request");
  });
  // cpp-httplib's default is SO_REUSEPORT: a second instance would share the port unnoticed.
  server.set_socket_options([](int socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_tcp_nodelay(true);
  server.set_payload_max_length(64 << 10);
  server.set_keep_alive_max_count(1000);
  server.set_keep_alive_timeout(1);  // a stop waits this long for idle connections
}

// Serves on $HOST and $PORT until one of the signals comes.
inline void serve(httplib::Server& server, const std::string& service, int defaultPort,
                  const StopSignals& signals) {
  prepare(server, service);
  const auto host = environment("HOST", "127.0.0.1");
  const int port = portNumber(defaultPort);
  if (!server.bind_to_port(host, port)) {
    throw pillion::ConfigError("cannot listen on " + host + ":" + std::to_string(port) +
                               "; is the port in use? PORT and HOST set others");
  }
  std::jthread http([&] { server.listen_after_bind(); });
  // A stop before the server runs would be lost.
  while (!server.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  spdlog::info("listening on http://{}:{}", host, port);
  signals.wait();
  spdlog::info("stopping");
  server.stop();
}

// The body of main: the exit code is 2 for what somebody has to put right first.
inline int run(const std::string& service, const std::function<void()>& body) {
  try {
    spdlog::set_default_logger(spdlog::stdout_color_mt(service));
    spdlog::flush_on(spdlog::level::info);
    body();
    return 0;
  } catch (const pillion::Error& error) {
    std::cerr << service << ": " << error.what() << '\n';
    return error.retryable() ? 1 : 2;
  } catch (const std::exception& error) {
    std::cerr << service << ": " << error.what() << '\n';
    return 1;
  }
}

}  // namespace warehouse
