#include "inbox/stored_job.hpp"

#include <nlohmann/json.hpp>
#include <pillion/error.hpp>

namespace pillion::inbox {

using nlohmann::json;

std::string storedForm(const Job& job) {
  const amqp::Message& message = job.delivery.message;
  json headers = json::array();
  for (const auto& [name, value] : message.headers) headers.push_back({name, value});
  const json document{{"queue", job.delivery.queue},
                      {"exchange", job.delivery.exchange},
                      {"routing_key", message.routingKey},
                      {"message_id", message.messageId},
                      {"type", message.type},
                      {"app_id", message.appId},
                      {"content_type", message.contentType},
                      {"content_encoding", message.contentEncoding},
                      {"correlation_id", message.correlationId},
                      {"timestamp", message.timestamp},
                      {"headers", std::move(headers)},
                      {"body", message.body}};
  std::string bytes;
  json::to_cbor(document, bytes);
  return bytes;
}

Job jobFromStored(std::string_view bytes) {
  try {
    const json document = json::from_cbor(bytes);
    Job job;
    job.delivery.queue = document.at("queue");
    job.delivery.exchange = document.at("exchange");
    amqp::Message& message = job.delivery.message;
    message.routingKey = document.at("routing_key");
    message.messageId = document.at("message_id");
    message.type = document.at("type");
    message.appId = document.at("app_id");
    message.contentType = document.at("content_type");
    message.contentEncoding = document.value("content_encoding", "");  // older rows have none
    message.correlationId = document.at("correlation_id");
    message.timestamp = document.at("timestamp");
    for (const auto& header : document.at("headers")) {
      message.headers.emplace_back(header.at(0), header.at(1));
    }
    message.body = document.at("body");
    return job;
  } catch (const json::exception&) {
    throw Error("the message is not what a consumer stored");
  }
}

}  // namespace pillion::inbox
