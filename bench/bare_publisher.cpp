#include "bare_publisher.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <stdexcept>
#include <vector>

#include "amqp/library.hpp"
#include "bench_servers.hpp"

namespace pillion::bench {
namespace {

void must(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("bare publisher: ") + what);
}

amqp_connection_state_t connect(const std::string& host, int port) {
  amqp_connection_state_t state = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(state);
  must(amqp_socket_open(socket, host.c_str(), port) == AMQP_STATUS_OK, "connect");
  must(amqp_login(state, "/", 0, 131072, 60, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type ==
           AMQP_RESPONSE_NORMAL,
       "login");
  amqp_channel_open(state, 1);
  must(amqp_get_rpc_reply(state).reply_type == AMQP_RESPONSE_NORMAL, "channel");
  amqp_confirm_select(state, 1);
  return state;
}

amqp_table_entry_t header(const char* name, const char* value) {
  amqp_table_entry_t entry;
  entry.key = amqp_cstring_bytes(name);
  entry.value.kind = AMQP_FIELD_KIND_UTF8;
  entry.value.value.bytes = amqp_cstring_bytes(value);
  return entry;
}

/// Which tags are confirmed, exactly: acks come singly and `multiple`, in any order.
class Acks {
 public:
  explicit Acks(long messages) : done_(static_cast<std::size_t>(messages) + 1, false) {}

  void add(const amqp_frame_t& frame) {
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD) {
      return;
    }
    const auto* ack = static_cast<const amqp_basic_ack_t*>(frame.payload.method.decoded);
    const auto tag = static_cast<std::size_t>(ack->delivery_tag);
    for (std::size_t t = ack->multiple != 0 ? from_ : tag; t <= tag; ++t) {
      if (!done_.at(t)) ++count_;
      done_[t] = true;
    }
    if (ack->multiple != 0) from_ = tag + 1;
  }

  [[nodiscard]] long count() const { return count_; }

 private:
  std::vector<bool> done_;
  std::size_t from_ = 1;
  long count_ = 0;
};

}  // namespace

double publishBare(const std::string& host, int port, const std::string& exchange, long messages,
                   long window) {
  amqp_connection_state_t state = connect(host, port);
  const std::string body = payload();
  std::array headers{header("cloudEvents_specversion", "1.0"),
                     header("cloudEvents_id", "018f0000-0000-7000-8000-000000000000"),
                     header("cloudEvents_type", "bench.created"),
                     header("cloudEvents_source", "bench"),
                     header("cloudEvents_time", "2026-01-01T00:00:00.000000Z"),
                     header("cloudEvents_partitionkey", "key-1234"),
                     header("pillion-lane", "12")};
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_APP_ID_FLAG |
                      AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
                      AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_HEADERS_FLAG;
  properties.message_id = amqp_cstring_bytes("018f0000-0000-7000-8000-000000000000");
  properties.type = amqp_cstring_bytes("bench.created");
  properties.app_id = amqp_cstring_bytes("bench");
  properties.content_type = amqp_cstring_bytes("application/json");
  properties.delivery_mode = 2;
  properties.timestamp = 1'767'225'600;
  properties.headers = {static_cast<int>(headers.size()), headers.data()};

  const int fd = amqp_get_sockfd(state);
  const auto cork = [&](int on) { ::setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on); };
  const auto start = Steady::now();
  long sent = 0;
  Acks acks(messages);
  while (acks.count() < messages) {
    while (sent < messages && sent - acks.count() < window) {
      cork(1);
      for (int i = 0; i < 64 && sent < messages && sent - acks.count() < window; ++i, ++sent) {
        must(amqp_basic_publish(state, 1, amqp_cstring_bytes(exchange.c_str()),
                                amqp_cstring_bytes("bench.created"), 1, 0, &properties,
                                {body.size(), const_cast<char*>(body.data())}) == AMQP_STATUS_OK,
             "publish");
      }
      cork(0);
    }
    amqp_frame_t frame;
    timeval wait{1, 0};
    int status = amqp_simple_wait_frame_noblock(state, &frame, &wait);
    while (status == AMQP_STATUS_OK) {
      acks.add(frame);
      amqp_maybe_release_buffers(state);
      timeval now{0, 0};
      status = amqp_simple_wait_frame_noblock(state, &frame, &now);
    }
    must(status == AMQP_STATUS_TIMEOUT, "read");
  }
  const double seconds = secondsSince(start);
  amqp_connection_close(state, AMQP_REPLY_SUCCESS);
  amqp_destroy_connection(state);
  return seconds;
}

struct QueueDepth::Connection {
  amqp_connection_state_t state;
};

QueueDepth::QueueDepth(const std::string& host, int port, std::string queue)
    : connection_(std::make_unique<Connection>(Connection{connect(host, port)})),
      queue_(std::move(queue)) {}

QueueDepth::~QueueDepth() {
  amqp_connection_close(connection_->state, AMQP_REPLY_SUCCESS);
  amqp_destroy_connection(connection_->state);
}

long QueueDepth::now() const {
  const auto* declared =
      amqp_queue_declare(connection_->state, 1, amqp_cstring_bytes(queue_.c_str()), /*passive=*/1,
                         0, 0, 0, amqp_empty_table);
  must(declared != nullptr, "queue depth");
  return declared->message_count;
}

}  // namespace pillion::bench
