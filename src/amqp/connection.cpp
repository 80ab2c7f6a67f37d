#include "amqp/connection.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <pillion/error.hpp>

#include "amqp/frame_assembler.hpp"
#include "amqp/library.hpp"
#include "amqp/login.hpp"
#include "amqp/reply.hpp"
#include "amqp/watchdog.hpp"
#include "base/clock.hpp"
#include "base/environment.hpp"
#include "base/failpoint.hpp"

namespace pillion::amqp {
namespace {

using std::chrono::milliseconds;

struct StateDeleter {
  void operator()(amqp_connection_state_t state) const { amqp_destroy_connection(state); }
};
using State = std::unique_ptr<std::remove_pointer_t<amqp_connection_state_t>, StateDeleter>;

milliseconds since(base::Clock::Boot start) {
  return std::chrono::duration_cast<milliseconds>(base::systemClock().boot() - start);
}

amqp_table_entry_t textEntry(std::string_view name, std::string_view value) {
  amqp_table_entry_t entry;
  entry.key = toBytes(name);
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = toBytes(value);
  return entry;
}

std::vector<amqp_table_entry_t> entriesOf(const QueueSpec& queue) {
  std::vector<amqp_table_entry_t> entries;
  for (const auto& [name, value] : queue.textArguments) entries.push_back(textEntry(name, value));
  for (const auto& [name, value] : queue.numberArguments) {
    amqp_table_entry_t entry;
    entry.key = toBytes(name);
    entry.value.kind = AMQP_FIELD_KIND_I64;
    entry.value.value.i64 = value;
    entries.push_back(entry);
  }
  if (queue.singleActiveConsumer) {
    amqp_table_entry_t entry;
    entry.key = amqp_cstring_bytes("x-single-active-consumer");
    entry.value.kind = AMQP_FIELD_KIND_BOOLEAN;
    entry.value.value.boolean = 1;
    entries.push_back(entry);
  }
  return entries;
}

amqp_table_t tableOf(std::vector<amqp_table_entry_t>& entries) {
  return {static_cast<int>(entries.size()), entries.data()};
}

amqp_basic_properties_t propertiesOf(const Message& message,
                                     std::vector<amqp_table_entry_t>& headers) {
  amqp_basic_properties_t properties{};
  const auto set = [&](amqp_flags_t flag, amqp_bytes_t& field, const std::string& text) {
    if (text.empty()) return;
    properties._flags |= flag;
    field = toBytes(text);
  };
  set(AMQP_BASIC_MESSAGE_ID_FLAG, properties.message_id, message.messageId);
  set(AMQP_BASIC_TYPE_FLAG, properties.type, message.type);
  set(AMQP_BASIC_APP_ID_FLAG, properties.app_id, message.appId);
  set(AMQP_BASIC_CONTENT_TYPE_FLAG, properties.content_type, message.contentType);
  set(AMQP_BASIC_CONTENT_ENCODING_FLAG, properties.content_encoding, message.contentEncoding);
  set(AMQP_BASIC_CORRELATION_ID_FLAG, properties.correlation_id, message.correlationId);
  properties._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_HEADERS_FLAG;
  properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  properties.headers = tableOf(headers);
  if (message.timestamp != 0) {
    properties._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
    properties.timestamp = message.timestamp;
  }
  return properties;
}

}  // namespace

struct Connection::Library {
  State state{amqp_new_connection()};
  BrokerOptions options;
  base::WakeEvent* wake = nullptr;
  std::optional<Watchdog> watchdog;
  FrameAssembler assembler;
  std::string exchange;
  std::uint64_t published = 0;
  bool fenceChannelIsOpen = false;
  std::vector<HeaderView> headers;  // of the message that is being sent; kept for their memory
  std::vector<amqp_table_entry_t> entries;

  [[nodiscard]] amqp_connection_state_t get() const { return state.get(); }

  /// Runs one request that the broker answers; its failure leaves a usable channel behind when only
  /// the channel was closed.
  template <typename Request>
  void call(const std::string& doing, const Request& request, amqp_channel_t channel = kChannel) {
    const Watchdog::Guard guard(*watchdog, options.connectTimeout * 2);
    request();
    const auto reply = amqp_get_rpc_reply(get());
    amqp_maybe_release_buffers(get());
    if (reply.reply_type == AMQP_RESPONSE_NORMAL) return;
    const bool channelClosed = reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
                               reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD;
    if (!channelClosed) throwReply(reply, doing);
    const CloseReason reason = closeReason(reply.reply);
    amqp_channel_close_ok_t closeOk{};
    amqp_send_method(get(), channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &closeOk);
    openChannel(get(), channel);
    throwClose(reason, doing);
  }

  void check(int status, const std::string& doing) const {
    if (status == AMQP_STATUS_OK) return;
    if (watchdog->fired()) {
      throw BrokerError("RabbitMQ took nothing for " +
                        std::to_string(options.stallTimeout.count()) + " ms while " + doing);
    }
    throwStatus(status, doing);
  }

  void cork(bool on) const {
    const int value = on ? 1 : 0;
    ::setsockopt(amqp_get_sockfd(get()), IPPROTO_TCP, TCP_CORK, &value, sizeof value);
  }

  /// One frame, complete or not, if it is there already.
  std::optional<Incoming> readFrame(bool& any) {
    amqp_frame_t frame;
    timeval now{0, 0};
    const Watchdog::Guard guard(*watchdog, options.stallTimeout);  // it may send a heartbeat
    const int status = amqp_simple_wait_frame_noblock(get(), &frame, &now);
    any = status == AMQP_STATUS_OK;
    if (status == AMQP_STATUS_TIMEOUT) return std::nullopt;
    check(status, "reading");
    auto incoming = assembler.add(frame);
    amqp_maybe_release_buffers(get());
    return incoming;
  }

  /// Waits for bytes or the wake event; true when woken.
  bool waitForInput(std::chrono::nanoseconds limit) const {
    std::array<pollfd, 2> fds{pollfd{amqp_get_sockfd(get()), POLLIN, 0},
                              pollfd{wake != nullptr ? wake->fd() : -1, POLLIN, 0}};
    const auto whole = std::chrono::floor<std::chrono::seconds>(limit);
    const timespec time{whole.count(), (limit - whole).count()};
    ::ppoll(fds.data(), fds.size(), &time, nullptr);
    return (fds[1].revents & POLLIN) != 0;
  }
};

Connection::Connection(const BrokerOptions& options, const std::string& role, base::WakeEvent* wake)
    : library_(std::make_unique<Library>()) {
  const Url url = Url::parse(
      base::configured(options.url, "PILLION_AMQP_URL", "amqp://guest:guest@localhost:5672"));
  library_->options = options;
  library_->wake = wake;
  PILLION_FAILPOINT("amqp.connect");
  openSocket(library_->get(), url, options.connectTimeout);
  library_->watchdog.emplace(amqp_get_sockfd(library_->get()));
  const Watchdog::Guard guard(*library_->watchdog, options.connectTimeout * 2);
  login(library_->get(), url, options, "pillion " + role + " " + base::processName());
}

Connection::~Connection() {
  // Without good-byes: they would wait for a peer that may be gone. The broker takes an end of the
  // stream for the end of the connection.
  if (library_->watchdog) ::shutdown(amqp_get_sockfd(library_->get()), SHUT_RDWR);
}

void Connection::close() noexcept {
  const Watchdog::Guard guard(*library_->watchdog, std::chrono::seconds(2));
  amqp_connection_close(library_->get(), AMQP_REPLY_SUCCESS);
}

bool Connection::exchangeExists(const std::string& name) {
  try {
    library_->call("looking for exchange '" + name + "'", [&] {
      amqp_exchange_declare(library_->get(), kChannel, toBytes(name), amqp_cstring_bytes("topic"),
                            /*passive=*/1, /*durable=*/1, 0, 0, amqp_empty_table);
    });
    return true;
  } catch (const BrokerError& error) {
    if (error.replyCode() == AMQP_NOT_FOUND) return false;
    throw;
  }
}

void Connection::declareTopicExchange(const std::string& name) {
  library_->call("declaring exchange '" + name + "'", [&] {
    amqp_exchange_declare(library_->get(), kChannel, toBytes(name), amqp_cstring_bytes("topic"),
                          /*passive=*/0, /*durable=*/1, 0, 0, amqp_empty_table);
  });
}

void Connection::declareExchange(const std::string& name, const std::string& type,
                                 const std::string& alternate) {
  std::vector<amqp_table_entry_t> entries;
  if (!alternate.empty()) entries.push_back(textEntry("alternate-exchange", alternate));
  library_->call("declaring exchange '" + name + "'", [&] {
    amqp_exchange_declare(library_->get(), kChannel, toBytes(name), toBytes(type), /*passive=*/0,
                          /*durable=*/1, 0, 0, tableOf(entries));
  });
}

void Connection::bindExchange(const std::string& destination, const std::string& source,
                              const std::string& routingKey) {
  library_->call("binding exchange '" + destination + "' to '" + source + "'", [&] {
    amqp_exchange_bind(library_->get(), kChannel, toBytes(destination), toBytes(source),
                       toBytes(routingKey), amqp_empty_table);
  });
}

bool Connection::queueExists(const std::string& name) {
  return messageCount(name).has_value();
}

std::optional<std::uint32_t> Connection::messageCount(const std::string& queue) {
  std::uint32_t count = 0;
  try {
    library_->call("looking for queue '" + queue + "'", [&] {
      const auto* found = amqp_queue_declare(library_->get(), kChannel, toBytes(queue),
                                             /*passive=*/1, 1, 0, 0, amqp_empty_table);
      if (found != nullptr) count = found->message_count;
    });
    return count;
  } catch (const BrokerError& error) {
    if (error.replyCode() == AMQP_NOT_FOUND) return std::nullopt;
    throw;
  }
}

void Connection::declareQueue(const QueueSpec& queue) {
  auto entries = entriesOf(queue);
  library_->call("declaring queue '" + queue.name + "'", [&] {
    amqp_queue_declare(library_->get(), kChannel, toBytes(queue.name), /*passive=*/0,
                       /*durable=*/queue.exclusive ? 0 : 1, /*exclusive=*/queue.exclusive ? 1 : 0,
                       /*auto_delete=*/0, tableOf(entries));
  });
}

void Connection::bindQueue(const std::string& queue, const std::string& exchange,
                           const std::string& routingKey,
                           const std::vector<std::pair<std::string, std::string>>& headers) {
  std::vector<amqp_table_entry_t> entries;
  for (const auto& [name, value] : headers) entries.push_back(textEntry(name, value));
  library_->call("binding queue '" + queue + "' to '" + exchange + "'", [&] {
    amqp_queue_bind(library_->get(), kChannel, toBytes(queue), toBytes(exchange),
                    toBytes(routingKey), tableOf(entries));
  });
}

bool Connection::holdExclusiveQueue(const std::string& name) {
  if (!library_->fenceChannelIsOpen) {
    const Watchdog::Guard guard(*library_->watchdog, library_->options.connectTimeout);
    openChannel(library_->get(), kFenceChannel);
    library_->fenceChannelIsOpen = true;
  }
  try {
    library_->call(
        "declaring queue '" + name + "'",
        [&] {
          amqp_queue_declare(library_->get(), kFenceChannel, toBytes(name), /*passive=*/0,
                             /*durable=*/0, /*exclusive=*/1, /*auto_delete=*/0, amqp_empty_table);
        },
        kFenceChannel);
    return true;
  } catch (const BrokerError& error) {
    if (error.replyCode() == AMQP_RESOURCE_LOCKED) return false;
    throw;
  }
}

void Connection::dropExclusiveQueue(const std::string& name) {
  library_->call(
      "deleting queue '" + name + "'",
      [&] { amqp_queue_delete(library_->get(), kFenceChannel, toBytes(name), 0, 0); },
      kFenceChannel);
}

void Connection::selectConfirms(std::string exchange) {
  library_->exchange = std::move(exchange);
  library_->published = 0;
  library_->call("switching publisher confirms on",
                 [&] { amqp_confirm_select(library_->get(), kChannel); });
}

std::uint64_t Connection::publish(const Message& message) {
  auto& entries = library_->entries;
  headersOf(message, library_->headers);
  entries.clear();
  for (const auto& [name, value] : library_->headers) entries.push_back(textEntry(name, value));
  const auto properties = propertiesOf(message, entries);
  const Watchdog::Guard guard(*library_->watchdog, library_->options.stallTimeout);
  const int status = amqp_basic_publish(library_->get(), kChannel, toBytes(library_->exchange),
                                        toBytes(message.routingKey), /*mandatory=*/1,
                                        /*immediate=*/0, &properties, toBytes(message.body));
  if (status == AMQP_STATUS_TABLE_TOO_BIG || status == AMQP_STATUS_BAD_AMQP_DATA) {
    throw MessageUnsendable(std::string("RabbitMQ, publishing: ") + amqp_error_string2(status));
  }
  library_->check(status, "publishing");
  return ++library_->published;
}

void Connection::beginBurst() {
  library_->cork(true);
}
void Connection::endBurst() {
  library_->cork(false);
}

void Connection::consume(const std::string& queue, std::uint16_t prefetch) {
  library_->call("setting the prefetch",
                 [&] { amqp_basic_qos(library_->get(), kChannel, 0, prefetch, /*global=*/0); });
  library_->call("consuming from queue '" + queue + "'", [&] {
    amqp_basic_consume(library_->get(), kChannel, toBytes(queue), /*consumer_tag=*/toBytes(queue),
                       /*no_local=*/0, /*no_ack=*/0, /*exclusive=*/0, amqp_empty_table);
  });
}

void Connection::ack(std::uint64_t tag, bool multiple) {
  const Watchdog::Guard guard(*library_->watchdog, library_->options.stallTimeout);
  library_->check(amqp_basic_ack(library_->get(), kChannel, tag, multiple ? 1 : 0), "acking");
}

void Connection::giveBack() {
  const Watchdog::Guard guard(*library_->watchdog, library_->options.stallTimeout);
  library_->check(amqp_basic_nack(library_->get(), kChannel, /*delivery_tag=*/0, /*multiple=*/1,
                                  /*requeue=*/1),
                  "giving messages back");
}

void Connection::cancelConsumer(const std::string& queue) {
  const Watchdog::Guard guard(*library_->watchdog, library_->options.stallTimeout);
  amqp_basic_cancel_t cancel{};
  cancel.consumer_tag = toBytes(queue);
  cancel.nowait = 1;
  library_->check(amqp_send_method(library_->get(), kChannel, AMQP_BASIC_CANCEL_METHOD, &cancel),
                  "cancelling the consumer");
}

std::optional<Incoming> Connection::receive(std::chrono::microseconds wait) {
  const milliseconds slice =
      std::chrono::duration_cast<milliseconds>(library_->options.heartbeat) / 4;
  std::optional<base::Clock::Boot> until;  // most calls find a frame at once, and need no clock
  for (;;) {
    for (bool any = true; any;) {
      if (auto incoming = library_->readFrame(any)) return incoming;
    }
    if (wait.count() <= 0) return std::nullopt;
    const auto now = base::systemClock().boot();
    if (!until) until = now + wait;
    const std::chrono::nanoseconds left = *until - now;
    if (left.count() <= 0) return std::nullopt;
    if (library_->waitForInput(std::min<std::chrono::nanoseconds>(left, slice))) {
      return std::nullopt;
    }
  }
}

bool publishAndWait(Connection& connection, const Message& message, milliseconds limit) {
  const auto start = base::systemClock().boot();
  const std::uint64_t tag = connection.publish(message);
  bool returned = false;
  while (since(start) < limit) {
    const auto incoming = connection.receive(limit - since(start));
    if (!incoming) continue;
    if (const auto* blocked = std::get_if<Blocked>(&*incoming);
        blocked != nullptr && blocked->now) {
      throw PublishersBlocked("RabbitMQ blocks publishers (" + blocked->reason + ")");
    }
    if (const auto* back = std::get_if<Returned>(&*incoming)) {
      returned |= back->messageId == message.messageId;
    }
    const auto* confirm = std::get_if<Confirm>(&*incoming);
    if (confirm == nullptr || confirm->tag < tag) continue;
    return confirm->positive && !returned;
  }
  throw BrokerError("RabbitMQ gave no confirm within " + std::to_string(limit.count()) + " ms");
}

}  // namespace pillion::amqp
