#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <pillion/options.hpp>
#include <string>
#include <type_traits>

#include "amqp/hosts.hpp"
#include "amqp/library.hpp"
#include "base/wake_event.hpp"
#include "base/watchdog.hpp"

namespace pillion::amqp {

/// rabbitmq-c's connection with what the library lacks: a limit for each call, waiting for the
/// socket and a wake event at once, and errors as exceptions. Knows no channel's state.
class Wire {
 public:
  /// Connects to one of the hosts, logs in and opens kChannel.
  Wire(const BrokerOptions& options, const std::string& role, base::WakeEvent* wake);
  ~Wire();
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;

  [[nodiscard]] amqp_connection_state_t get() const { return state_.get(); }
  [[nodiscard]] const BrokerOptions& options() const { return options_; }
  /// "host:port" of the node that it is connected to.
  [[nodiscard]] std::string where() const { return url_->address(); }

  /// Runs one request that the broker answers. When its failure closed only the channel, that is
  /// opened again before the exception is thrown.
  template <typename Request>
  void call(const std::string& doing, const Request& request, amqp_channel_t channel) {
    const base::Watchdog::Guard guard(*watchdog_, options_.connectTimeout * 2);
    request();
    finishCall(doing, channel);
  }

  /// Sends what has no answer, or one that is not waited for. `send` returns the library's status.
  template <typename Send>
  void send(const std::string& doing, const Send& send) {
    const base::Watchdog::Guard guard(*watchdog_, options_.stallTimeout);
    check(send(), doing);
  }
  void sendMethod(const std::string& doing, amqp_channel_t channel, amqp_method_number_t method,
                  void* decoded);

  void openChannel(amqp_channel_t channel);

  /// Throws BrokerError when the status is a failure.
  void check(int status, const std::string& doing) const;

  /// While it is on, small writes are held back to go out together.
  void cork(bool on) const;

  /// One frame if it is there already. It is valid until `release`.
  bool read(amqp_frame_t& frame);
  void release() const { amqp_maybe_release_buffers(get()); }

  /// Waits for bytes or the wake event; true when woken.
  [[nodiscard]] bool waitForInput(std::chrono::nanoseconds limit) const;

  /// In good order, within two seconds.
  void close() noexcept;

 private:
  void connect(const Url& url, const std::string& connectionName);
  void finishCall(const std::string& doing, amqp_channel_t channel);
  [[nodiscard]] std::string at(const std::string& doing) const { return doing + " at " + where(); }

  struct StateDeleter {
    void operator()(amqp_connection_state_t state) const { amqp_destroy_connection(state); }
  };
  std::unique_ptr<std::remove_pointer_t<amqp_connection_state_t>, StateDeleter> state_;
  BrokerOptions options_;
  base::WakeEvent* wake_;
  Hosts hosts_;
  const Url* url_ = nullptr;  // of hosts_
  bool closed_ = false;       // in good order
  std::optional<base::Watchdog> watchdog_;
};

}  // namespace pillion::amqp
