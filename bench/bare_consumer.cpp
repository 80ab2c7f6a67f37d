#include "bare_consumer.hpp"

#include <stdexcept>

#include "amqp/library.hpp"
#include "bench_servers.hpp"

namespace pillion::bench {
namespace {

constexpr long kAckEvery = 100;

void must(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("bare consumer: ") + what);
}

}  // namespace

double consumeBare(const std::string& host, int port, const std::string& queue, long messages,
                   int prefetch) {
  amqp_connection_state_t state = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(state);
  must(amqp_socket_open(socket, host.c_str(), port) == AMQP_STATUS_OK, "connect");
  must(amqp_login(state, "/", 0, 131072, 60, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type ==
           AMQP_RESPONSE_NORMAL,
       "login");
  amqp_channel_open(state, 1);
  amqp_basic_qos(state, 1, 0, static_cast<std::uint16_t>(prefetch), 0);
  amqp_basic_consume(state, 1, amqp_cstring_bytes(queue.c_str()), amqp_empty_bytes, 0, 0, 0,
                     amqp_empty_table);
  must(amqp_get_rpc_reply(state).reply_type == AMQP_RESPONSE_NORMAL, "consume");
  Steady::time_point first;
  for (long n = 1; n <= messages; ++n) {
    amqp_maybe_release_buffers(state);
    amqp_envelope_t envelope;
    timeval wait{30, 0};
    must(amqp_consume_message(state, &envelope, &wait, 0).reply_type == AMQP_RESPONSE_NORMAL,
         "read");
    if (n == 1) first = Steady::now();
    if (n % kAckEvery == 0 || n == messages) amqp_basic_ack(state, 1, envelope.delivery_tag, 1);
    amqp_destroy_envelope(&envelope);
  }
  const double rate = static_cast<double>(messages) / secondsSince(first);
  amqp_connection_close(state, AMQP_REPLY_SUCCESS);
  amqp_destroy_connection(state);
  return rate;
}

}  // namespace pillion::bench
