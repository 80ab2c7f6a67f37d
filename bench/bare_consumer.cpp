#include "bare_consumer.hpp"

#include <stdexcept>

#include "amqp/library.hpp"
#include "bench_servers.hpp"

namespace pillion::bench {
namespace {

void must(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("bare consumer: ") + what);
}

std::string_view viewOf(const amqp_bytes_t& bytes) {
  return {static_cast<const char*>(bytes.bytes), bytes.len};
}

std::string_view keyOf(const amqp_basic_properties_t& properties) {
  for (int i = 0; i < properties.headers.num_entries; ++i) {
    const amqp_table_entry_t& entry = properties.headers.entries[i];
    if (viewOf(entry.key) == "cloudEvents_partitionkey") return viewOf(entry.value.value.bytes);
  }
  throw std::runtime_error("bare consumer: a message without a key");
}

/// One that logs in and subscribes in its constructor.
class BareConsumer {
 public:
  explicit BareConsumer(const BareQueue& queue) : state_(amqp_new_connection()) {
    amqp_socket_t* socket = amqp_tcp_socket_new(state_);
    must(amqp_socket_open(socket, queue.host.c_str(), queue.port) == AMQP_STATUS_OK, "connect");
    must(amqp_login(state_, "/", 0, 131072, 60, AMQP_SASL_METHOD_PLAIN, "guest", "guest")
                 .reply_type == AMQP_RESPONSE_NORMAL,
         "login");
    amqp_channel_open(state_, 1);
    amqp_basic_qos(state_, 1, 0, static_cast<std::uint16_t>(queue.prefetch), 0);
    amqp_basic_consume(state_, 1, amqp_cstring_bytes(queue.queue.c_str()), amqp_empty_bytes, 0, 0,
                       0, amqp_empty_table);
    must(amqp_get_rpc_reply(state_).reply_type == AMQP_RESPONSE_NORMAL, "consume");
  }
  ~BareConsumer() {
    amqp_connection_close(state_, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(state_);
  }
  BareConsumer(const BareConsumer&) = delete;
  BareConsumer& operator=(const BareConsumer&) = delete;

  double consume(long messages, long ackEvery, const BareWork& work) {
    Steady::time_point first;
    for (long n = 1; n <= messages; ++n) {
      amqp_maybe_release_buffers(state_);
      amqp_envelope_t envelope;
      timeval wait{30, 0};
      must(amqp_consume_message(state_, &envelope, &wait, 0).reply_type == AMQP_RESPONSE_NORMAL,
           "read");
      if (n == 1) first = Steady::now();
      const auto& properties = envelope.message.properties;
      if (work) work(viewOf(properties.message_id), keyOf(properties));
      if (n % ackEvery == 0 || n == messages) {
        amqp_basic_ack(state_, 1, envelope.delivery_tag, ackEvery > 1);
      }
      amqp_destroy_envelope(&envelope);
    }
    return static_cast<double>(messages) / secondsSince(first);
  }

 private:
  amqp_connection_state_t state_;
};

}  // namespace

double consumeBare(const BareQueue& queue, long messages) {
  return BareConsumer(queue).consume(messages, 100, nullptr);
}

double consumeBare(const BareQueue& queue, long messages, const BareWork& work) {
  return BareConsumer(queue).consume(messages, 1, work);
}

}  // namespace pillion::bench
