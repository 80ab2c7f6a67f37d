#include "amqp/wire.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <pillion/error.hpp>

#include "amqp/login.hpp"
#include "amqp/reply.hpp"
#include "base/environment.hpp"
#include "base/failpoint.hpp"

namespace pillion::amqp {

Wire::Wire(const BrokerOptions& options, const std::string& role, base::WakeEvent* wake)
    : options_(options),
      wake_(wake),
      hosts_(Url::parse(
          base::configured(options.url, "PILLION_AMQP_URL", "amqp://guest:guest@localhost:5672"))) {
  PILLION_FAILPOINT("amqp.connect");
  const std::string name = "pillion " + role + " " + base::processName();
  url_ = &hosts_.tryEach(options.connectTimeout * 2, [&](const Url& url) { connect(url, name); });
}

void Wire::connect(const Url& url, const std::string& connectionName) {
  watchdog_.reset();  // of an attempt before, whose socket ends with its state
  state_.reset(amqp_new_connection());
  openSocket(get(), url, options_.connectTimeout);
  watchdog_.emplace(amqp_get_sockfd(get()));
  const base::Watchdog::Guard guard(*watchdog_, options_.connectTimeout * 2);
  login(get(), url, options_, connectionName);
}

Wire::~Wire() {
  if (!watchdog_) return;
  // Without good-byes: they would wait for a peer that may be gone. The broker takes an end of the
  // stream for the end of the connection.
  ::shutdown(amqp_get_sockfd(get()), SHUT_RDWR);
  if (!closed_) hosts_.failed(*url_);
}

void Wire::close() noexcept {
  const base::Watchdog::Guard guard(*watchdog_, std::chrono::seconds(2));
  amqp_connection_close(get(), AMQP_REPLY_SUCCESS);
  closed_ = true;
}

void Wire::finishCall(const std::string& doing, amqp_channel_t channel) {
  const auto reply = amqp_get_rpc_reply(get());
  release();
  if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
  const bool channelClosed = reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
                             reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD;
  if (!channelClosed) throwReply(reply, at(doing));
  const CloseReason reason = closeReason(reply.reply);
  amqp_channel_close_ok_t closeOk{};
  amqp_send_method(get(), channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &closeOk);
  amqp::openChannel(get(), channel);
  throwClose(reason, doing);
}

void Wire::sendMethod(const std::string& doing, amqp_channel_t channel, amqp_method_number_t method,
                      void* decoded) {
  send(doing, [&] { return amqp_send_method(get(), channel, method, decoded); });
}

void Wire::openChannel(amqp_channel_t channel) {
  const base::Watchdog::Guard guard(*watchdog_, options_.connectTimeout);
  amqp::openChannel(get(), channel);
}

void Wire::check(int status, const std::string& doing) const {
  if (status == AMQP_STATUS_OK) return;
  if (watchdog_->fired()) {
    throw BrokerError("RabbitMQ took nothing for " + std::to_string(options_.stallTimeout.count()) +
                      " ms while " + at(doing));
  }
  throwStatus(status, at(doing));
}

void Wire::cork(bool on) const {
  const int value = on ? 1 : 0;
  ::setsockopt(amqp_get_sockfd(get()), IPPROTO_TCP, TCP_CORK, &value, sizeof value);
}

bool Wire::read(amqp_frame_t& frame) {
  timeval now{0, 0};
  const base::Watchdog::Guard guard(*watchdog_, options_.stallTimeout);  // it may send a heartbeat
  const int status = amqp_simple_wait_frame_noblock(get(), &frame, &now);
  if (status == AMQP_STATUS_TIMEOUT) return false;
  check(status, "reading");
  if (frame.frame_type == AMQP_FRAME_METHOD &&
      frame.payload.method.id == AMQP_CONNECTION_CLOSE_METHOD) {
    const CloseReason reason = closeReason(frame.payload.method);
    throw BrokerError("RabbitMQ at " + where() + " closed the connection: " + reason.text,
                      reason.code);
  }
  return true;
}

bool Wire::waitForInput(std::chrono::nanoseconds limit) const {
  std::array<pollfd, 2> fds{pollfd{amqp_get_sockfd(get()), POLLIN, 0},
                            pollfd{wake_ != nullptr ? wake_->fd() : -1, POLLIN, 0}};
  const auto whole = std::chrono::floor<std::chrono::seconds>(limit);
  const timespec time{whole.count(), (limit - whole).count()};
  ::ppoll(fds.data(), fds.size(), &time, nullptr);
  return (fds[1].revents & POLLIN) != 0;
}

}  // namespace pillion::amqp
