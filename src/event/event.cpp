#include <pillion/event.hpp>

#include <algorithm>
#include <pillion/error.hpp>

#include "event/event_check.hpp"
#include "event/event_id.hpp"

namespace pillion {

Event::Event(std::string type, nlohmann::json data)
    : id_(makeEventId()),
      madeId_(id_),
      type_(std::move(type)),
      time_(base::systemClock().wall()),
      contentType_("application/json"),
      data_(std::move(data)),
      isJson_(true) {
  checkJsonForm(data_);
  try {
    bytes_ = data_.dump();
  } catch (const nlohmann::json::exception&) {
    throw InvalidEvent("data", "holds text that is not UTF-8, so it has no JSON form");
  }
}

Event Event::ofBytes(std::string type, std::string bytes, std::string contentType) {
  Event event;
  event.id_ = makeEventId();
  event.madeId_ = event.id_;
  event.type_ = std::move(type);
  event.time_ = base::systemClock().wall();
  event.contentType_ = std::move(contentType);
  event.bytes_ = std::move(bytes);
  // A tree that is too deep would be copied level within level, with the event.
  if (isJsonContentType(event.contentType_) && !isTooDeep(event.bytes_)) {
    event.data_ = nlohmann::json::parse(event.bytes_, nullptr, /*allow_exceptions=*/false);
    event.isRounded_ = hasRoundedInteger(event.data_, event.bytes_);
    event.isJson_ = !event.data_.is_discarded() && !event.isRounded_;
  }
  return event;
}

const nlohmann::json& Event::data() const {
  if (isRounded_) {
    throw InvalidEvent("data",
                       "holds an integer of more than 64 bits, which data() would round; "
                       "read bytes() instead");
  }
  if (!isJson_) {
    throw InvalidEvent("data", "is " + std::to_string(bytes_.size()) + " bytes of content type '" +
                                   contentType_ + "' and no valid JSON; read bytes() instead");
  }
  return data_;
}

Event& Event::setId(std::string id) {
  id_ = isUuid(id) ? normalizedUuid(id) : std::move(id);
  madeId_.clear();
  return *this;
}

Event& Event::setSource(std::string source) {
  source_ = std::move(source);
  return *this;
}

Event& Event::setKey(std::string key) {
  key_ = std::move(key);
  return *this;
}

Event& Event::setTime(Time time) {
  time_ = time;
  return *this;
}

Event& Event::setCorrelationId(std::string id) {
  correlationId_ = std::move(id);
  return *this;
}

Event& Event::setCausationId(std::string id) {
  causationId_ = std::move(id);
  return *this;
}

Event& Event::setTrace(std::string traceparent, std::string tracestate) {
  traceparent_ = std::move(traceparent);
  tracestate_ = std::move(tracestate);
  return *this;
}

Event& Event::setDeliverAt(Time time) {
  deliverAt_ = time;
  if (!madeId_.empty()) id_ = isMadeLongBefore(madeId_, time) ? withTime(madeId_, time) : madeId_;
  return *this;
}

Event& Event::setExpiresAt(Time time) {
  expiresAt_ = time;
  return *this;
}

Event& Event::setHeader(std::string name, std::string value) {
  headers_[std::move(name)] = std::move(value);
  return *this;
}

bool isJsonContentType(std::string_view contentType) {
  std::string bare(contentType.substr(0, contentType.find(';')));
  while (!bare.empty() && bare.back() == ' ') bare.pop_back();
  std::ranges::transform(bare, bare.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return bare == "application/json" || bare == "text/json" || bare.ends_with("+json");
}

}  // namespace pillion
