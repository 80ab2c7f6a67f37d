#include "amqp/content.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/printable.hpp"
#include "event/event_check.hpp"

namespace pillion::amqp {
namespace {

std::string lowerCase(std::string_view text) {
  const auto isBlank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && isBlank(text.front())) text.remove_prefix(1);
  while (!text.empty() && isBlank(text.back())) text.remove_suffix(1);
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return lower;
}

bool meansNone(std::string_view encoding) {
  static constexpr std::array<std::string_view, 9> kNone{
      "", "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "8bit", "7bit"};
  return std::ranges::find(kNone, encoding) != kNone.end();
}

enum class Inflated { Whole, TooLarge, Broken };

/// One gzip member after the other (RFC 1952, 2.2), never more than an event's data may be.
Inflated inflate(std::string_view packed, std::string& room) {
  constexpr int kGzipOnly = 16 + MAX_WBITS;
  z_stream stream{};
  if (inflateInit2(&stream, kGzipOnly) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, int (*)(z_stream*)> ended(&stream, inflateEnd);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));  // it only reads
  stream.avail_in = static_cast<uInt>(packed.size());
  constexpr std::size_t kMost = EventLimits::kPayload + 1;
  std::size_t size = 0;
  int status = Z_OK;
  room.clear();
  while (size < kMost) {
    if (size == room.size()) room.resize(std::min(kMost, std::max<std::size_t>(4'096, 2 * size)));
    stream.next_out = reinterpret_cast<Bytef*>(room.data() + size);
    stream.avail_out = static_cast<uInt>(room.size() - size);
    status = ::inflate(&stream, Z_NO_FLUSH);
    size = room.size() - stream.avail_out;
    if (status == Z_STREAM_END && stream.avail_in > 0) {
      status = inflateReset(&stream);
    } else if (status != Z_OK) {
      break;
    }
  }
  room.resize(size);
  if (size == kMost) return Inflated::TooLarge;
  return status == Z_STREAM_END ? Inflated::Whole : Inflated::Broken;
}

}  // namespace

std::variant<std::string_view, Problem> contentOf(const Message& message, std::string& room) {
  if (message.contentEncoding.empty()) return message.body;
  const std::string encoding = lowerCase(message.contentEncoding);
  if (meansNone(encoding)) return message.body;
  const std::string named = "content encoding " + base::quoted(message.contentEncoding);
  if (encoding != "gzip" && encoding != "x-gzip") {
    return Problem{"invalid-event", named + " is not read, only gzip is"};
  }
  switch (inflate(message.body, room)) {
    case Inflated::Whole:
      return room;
    case Inflated::TooLarge:
      return Problem{"invalid-event", named + ": data of more than " +
                                          std::to_string(EventLimits::kPayload) +
                                          " bytes, which is the limit, when it is inflated"};
    case Inflated::Broken:
      break;
  }
  return Problem{"invalid-event", named + ", and its " + std::to_string(message.body.size()) +
                                      " bytes are no whole gzip data"};
}

std::string bareContentType(std::string_view contentType) {
  return lowerCase(contentType.substr(0, contentType.find(';')));
}

std::optional<Problem> problemOfJson(std::string_view json, std::string_view what) {
  if (isTooDeep(json)) {
    return Problem{"invalid-event", std::string(what) + " is JSON nested deeper than " +
                                        std::to_string(kJsonDepth) + " levels"};
  }
  const std::size_t values = shapeOf(json).values;
  if (values <= kJsonValues) return std::nullopt;
  return Problem{"invalid-event", std::string(what) + " is JSON of about " +
                                      std::to_string(values) + " values; the limit is " +
                                      std::to_string(kJsonValues)};
}

Problem notJson(std::string_view text, std::string_view what) {
  const std::string begin = std::string(what) + " is no JSON";
  if (text.empty()) return {"invalid-event", begin + ": it is empty"};
  try {
    // Where, and not what: the parser's own text quotes the data.
    const auto parsed = nlohmann::json::parse(text);
    return {"invalid-event", begin};
  } catch (const nlohmann::json::parse_error& error) {
    return {"invalid-event", begin + " at byte " + std::to_string(error.byte) + " of " +
                                 std::to_string(text.size())};
  } catch (const nlohmann::json::exception&) {
    return {"invalid-event", begin + " that can be read: a number is out of range"};
  }
}

}  // namespace pillion::amqp
