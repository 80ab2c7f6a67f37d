#include "amqp/consumers.hpp"

#include <atomic>
#include <utility>

#include "amqp/reply.hpp"

namespace pillion::amqp {
namespace {

/// Behind those of publishing and fences.
constexpr amqp_channel_t kFirst = 32;

/// In the whole process, so that a number is not mistaken for one of a connection before.
std::uint64_t nextId() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace

/// The lowest, since the library keeps memory for each number that was ever used.
amqp_channel_t Consumers::freeNumber() {
  amqp_channel_t number = kFirst;
  while (byNumber_.contains(number)) ++number;
  return number;
}

// The broker handles what comes on a channel in order, so nothing needs to wait in between.
std::uint64_t Consumers::open(const std::string& queue, std::uint16_t prefetch) {
  const amqp_channel_t number = freeNumber();
  const std::string doing = "consuming from queue '" + queue + "'";
  amqp_channel_open_t open{};
  wire_.sendMethod(doing, number, AMQP_CHANNEL_OPEN_METHOD, &open);
  amqp_basic_qos_t qos{};
  qos.prefetch_count = prefetch;
  wire_.sendMethod(doing, number, AMQP_BASIC_QOS_METHOD, &qos);
  amqp_basic_consume_t consume{};
  consume.queue = toBytes(queue);
  consume.consumer_tag = toBytes(queue);
  wire_.sendMethod(doing, number, AMQP_BASIC_CONSUME_METHOD, &consume);
  const std::uint64_t id = nextId();
  byNumber_[number] = {.id = id, .queue = queue};
  byId_[id] = number;
  return id;
}

void Consumers::ack(std::uint64_t consumer, std::uint64_t tag, bool multiple) {
  const auto number = byId_.find(consumer);
  if (number == byId_.end() || byNumber_[number->second].ending) return;  // given back already
  wire_.send("acking",
             [&] { return amqp_basic_ack(wire_.get(), number->second, tag, multiple ? 1 : 0); });
}

void Consumers::cancel(std::uint64_t consumer) {
  const auto number = byId_.find(consumer);
  if (number == byId_.end()) return;
  amqp_basic_cancel_t cancel{};
  cancel.consumer_tag = toBytes(byNumber_[number->second].queue);
  cancel.nowait = 1;
  wire_.sendMethod("cancelling a consumer", number->second, AMQP_BASIC_CANCEL_METHOD, &cancel);
}

void Consumers::end(std::uint64_t consumer) {
  const auto number = byId_.find(consumer);
  if (number == byId_.end() || std::exchange(byNumber_[number->second].ending, true)) return;
  amqp_channel_close_t close{};
  close.reply_code = AMQP_REPLY_SUCCESS;
  close.reply_text = amqp_cstring_bytes("given up");
  wire_.sendMethod("ending a consumer", number->second, AMQP_CHANNEL_CLOSE_METHOD, &close);
}

std::optional<Incoming> Consumers::add(const amqp_frame_t& frame) {
  Consumer& consumer = byNumber_.at(frame.channel);
  if (consumer.ending) return addOfEnding(frame);
  if (frame.frame_type == AMQP_FRAME_METHOD &&
      frame.payload.method.id == AMQP_BASIC_CONSUME_OK_METHOD) {
    return ConsumerOpened{consumer.id};
  }
  auto incoming = consumer.assembler.add(frame);
  if (!incoming) return std::nullopt;
  if (auto* delivery = std::get_if<Delivery>(&*incoming)) delivery->consumer = consumer.id;
  if (auto* cancelled = std::get_if<ConsumerCancelled>(&*incoming)) {
    cancelled->consumer = consumer.id;
  }
  if (auto* closed = std::get_if<ChannelClosed>(&*incoming)) {
    answerClose(frame.channel);
    ConsumerEnded ended = remove(frame.channel);
    ended.replyCode = closed->replyCode;
    ended.text = std::move(closed->text);
    return ended;
  }
  return incoming;
}

std::optional<Incoming> Consumers::addOfEnding(const amqp_frame_t& frame) {
  if (frame.frame_type != AMQP_FRAME_METHOD) return std::nullopt;
  // Both may close at once; then the broker still answers ours.
  if (frame.payload.method.id == AMQP_CHANNEL_CLOSE_METHOD) answerClose(frame.channel);
  if (frame.payload.method.id != AMQP_CHANNEL_CLOSE_OK_METHOD) return std::nullopt;
  return remove(frame.channel);
}

ConsumerEnded Consumers::remove(amqp_channel_t number) {
  const auto consumer = byNumber_.find(number);
  ConsumerEnded ended{
      .consumer = consumer->second.id, .queue = consumer->second.queue, .replyCode = 0, .text = {}};
  byId_.erase(consumer->second.id);
  byNumber_.erase(consumer);
  return ended;
}

void throwEnded(const ConsumerEnded& ended) {
  throwClose({ended.replyCode, ended.text}, "consuming from queue '" + ended.queue + "'");
}

void Consumers::answerClose(amqp_channel_t number) {
  amqp_channel_close_ok_t ok{};
  wire_.sendMethod("ending a consumer", number, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
}

}  // namespace pillion::amqp
