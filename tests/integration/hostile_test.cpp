// Messages made to hurt: they die with their reason, cost bounded memory, and the queue goes on.
#define PILLION_TEST_MAIN
#include <fstream>

#include "amqp/library.hpp"
#include "amqp/reply.hpp"
#include "consumer_fixture.hpp"
#include "support/sanitized.hpp"

namespace pillion::test {
namespace {

/// The most memory that the process has ever used.
long peakMib(const support::Process& process) {
  std::ifstream status("/proc/" + std::to_string(process.pid()) + "/status");
  for (std::string word; status >> word;) {
    long kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib / 1'024;
  }
  throw std::runtime_error("the consumer process has ended");
}

amqp::Message withBody(const std::string& body) {
  auto message = messageOf(numberedEvents(1)[0]);
  message.body = body;
  return message;
}

/// Publishes what Pillion's own connection cannot: an event with headers of any kind.
void sendWithHeaders(const std::string& exchange, const Event& event,
                     std::vector<amqp_table_entry_t> headers) {
  amqp_connection_state_t state = amqp_new_connection();
  amqp_socket_t* socket = amqp_tcp_socket_new(state);
  REQUIRE(amqp_socket_open(socket, "127.0.0.1", Servers::mq().port()) == AMQP_STATUS_OK);
  REQUIRE(
      amqp_login(state, "/", 0, 131'072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type ==
      AMQP_RESPONSE_NORMAL);
  amqp_channel_open(state, 1);
  const std::string id = event.id();
  const std::string type = event.type();
  const std::string body = event.bytes();
  amqp_basic_properties_t properties{};
  properties._flags = AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_APP_ID_FLAG |
                      AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_CONTENT_ENCODING_FLAG;
  properties.message_id = amqp::toBytes(id);
  properties.type = amqp::toBytes(type);
  properties.app_id = amqp_cstring_bytes("test");
  properties.content_encoding = amqp_cstring_bytes("identity");
  properties.headers = {static_cast<int>(headers.size()), headers.data()};
  REQUIRE(amqp_basic_publish(state, 1, amqp::toBytes(exchange), amqp::toBytes(type), 0, 0,
                             &properties, amqp::toBytes(body)) == AMQP_STATUS_OK);
  REQUIRE(amqp_channel_close(state, 1, AMQP_REPLY_SUCCESS).reply_type == AMQP_RESPONSE_NORMAL);
  amqp_destroy_connection(state);
}

amqp_table_entry_t entryOf(const char* name, std::uint8_t kind) {
  amqp_table_entry_t entry{};
  entry.key = amqp_cstring_bytes(name);
  entry.value.kind = kind;
  return entry;
}

}  // namespace

TEST_CASE("JSON bombs die with their reason, in bounded memory, and the queue goes on") {
  const World world;
  ConsumerProcess consumer(world, "bombed");
  consumer.awaitReady();
  std::string values = "[0";
  for (int i = 0; i < 3'000'000; ++i) values += ",0";
  auto headers = withBody("{}");
  for (int i = 0; i < 100; ++i) {
    headers.headers.emplace_back("name-" + std::to_string(i), std::string(900, 'h'));
  }
  const std::vector<amqp::Message> bombs{withBody(values + "]"),
                                         withBody(R"({"number":1,"number":2})"),
                                         withBody(R"([{"a":{"b":1,"c":2,"b":3}}])"), headers};
  send(world.exchange, bombs);
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(30s, [&] { return world.journal() == 1; }));
  CHECK_UNARY(peakMib(consumer.process()) < 150 || support::kSanitized);
  CHECK(consumer.stop()["dead"] == 4);
  const auto letters = readDeadLetters("bombed.events", 4);
  REQUIRE(letters.size() == 4);
  const std::vector<std::string> errors{"values", "twice", "twice", "headers of"};
  for (std::size_t i = 0; i < letters.size(); ++i) {
    CHECK(header(letters[i], "pillion-dead-reason") == "invalid-event");
    CAPTURE(header(letters[i], "pillion-dead-error"));
    CHECK(header(letters[i], "pillion-dead-error").find(errors[i]) != std::string::npos);
  }
  CHECK(world.inbox() == 1);
}

TEST_CASE("data larger than an event's may be dies with its size, and is not kept in memory") {
  // RabbitMQ 4 takes no such message by default; 3.10 does.
  MessageLimit::set(MessageLimit::kMost);
  const World world;
  ConsumerProcess consumer(world, "overfed");
  consumer.awaitReady();
  const std::vector<amqp::Message> meals(6, withBody(std::string(50U << 20, 'x')));
  send(world.exchange, meals);
  send(world.exchange, numberedEvents(1)[0]);
  CHECK(eventually(60s, [&] { return world.journal() == 1; }));
  CHECK_UNARY(peakMib(consumer.process()) < 100 || support::kSanitized);
  CHECK(consumer.stop()["dead"] == 6);

  const auto run = [&](const std::string& verb) {
    support::ProcessOptions options;
    options.command = {PILLION_PROGRAM, "dead", verb, "--service", "overfed", "--all"};
    options.environment = environmentFor(world.database, world.exchange);
    return support::run(options).output;
  };
  CHECK(run("redrive").find("0 of 6 dead letters were redriven") != std::string::npos);
  const auto letters = readDeadLetters("overfed.events", 6);
  REQUIRE(letters.size() == 6);
  CHECK(header(letters[0], "pillion-dead-reason") == "invalid-event");
  CHECK(header(letters[0], "pillion-dead-error").find("52428800 bytes") != std::string::npos);
  CHECK(header(letters[0], "pillion-body-missing") == "52428800");
  CHECK(letters[0].messageId == meals[0].messageId);
  CHECK(letters[0].body.empty());
}

TEST_CASE("headers that are no texts, or nested without end, neither harm nor get lost") {
  const World world;
  auto options = world.consumerOptions();
  options.deliveryLimit = 3;
  const auto consumer = EventConsumer::create("nested", {"#"}, options);
  std::atomic<bool> broken{false};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (broken) throw RejectEvent("broken");
    const auto found = event.headers().find("table");
    writeJournal(event, tx, found != event.headers().end() ? found->second : "");
  });
  consumer->start();

  std::vector<amqp_field_value_t> levels(20'000);  // five bytes each: a frame has no room for more
  for (std::size_t i = 0; i < levels.size(); ++i) {
    levels[i].kind = AMQP_FIELD_KIND_ARRAY;
    if (i + 1 < levels.size()) levels[i].value.array = {1, &levels[i + 1]};
  }
  auto deep = entryOf("deep", AMQP_FIELD_KIND_ARRAY);
  deep.value = levels[0];
  auto number = entryOf("number", AMQP_FIELD_KIND_F64);
  number.value.value.f64 = 2.5;
  auto table = entryOf("table", AMQP_FIELD_KIND_TABLE);
  table.value.value.table = {1, &number};
  auto copies = entryOf("CC", AMQP_FIELD_KIND_ARRAY);  // brokers route by it, and take arrays only
  sendWithHeaders(world.exchange, numberedEvents(1)[0], {deep});
  // rabbitmq-c 0.11 reads the deep one; 0.15 does not, and the broker takes it away in the end.
  const std::string dead = consumer->queue() + ".dead";
  CHECK(
      eventually(60s, [&] { return world.journal() == 1 || Servers::mq().queueDepth(dead) == 1; }));
  Servers::mq().ctl({"purge_queue", dead});
  sendWithHeaders(world.exchange, numberedEvents(1)[0], {table, number, copies});
  CHECK(eventually(60s, [&] {
    return world.database.query("select coalesce(max(note), '') from journal") ==
           "{\"number\":2.5}";
  }));

  broken = true;
  sendWithHeaders(world.exchange, numberedEvents(1)[0], {table, number, copies});
  const auto letters = readDeadLetters(consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  CHECK(header(letters[0], "table") == "{\"number\":2.5}");
  CHECK(header(letters[0], "number") == "2.5");
  CHECK(letters[0].contentEncoding == "identity");
}

TEST_CASE("an event with as many headers as one may have keeps all of them as a dead letter") {
  const World world;
  const auto consumer = EventConsumer::create("laden", {"#"}, world.consumerOptions());
  std::atomic<bool> broken{true};
  consumer->onEvent("#", [&](const Event& event, Transaction& tx) {
    if (broken) throw RejectEvent("broken");
    writeJournal(event, tx);
  });
  consumer->start();
  auto message = messageOf(numberedEvents(1, "")[0]);
  std::size_t room = amqp::kMostHeaders;
  const std::pair<std::string, std::string> last{"cloudEvents_partitionkey", "its key"};
  for (const auto& each : message.headers) room -= amqp::sizeOf(each);
  room -= amqp::sizeOf(last);
  for (int i = 0; room > 0; ++i) {
    std::pair<std::string, std::string> filler{"name-" + std::to_string(i), ""};
    const std::size_t most = std::min<std::size_t>(room - amqp::sizeOf(filler), 30'000);
    filler.second = std::string(most, 'h');
    room -= amqp::sizeOf(filler);
    message.headers.push_back(filler);
  }
  message.headers.push_back(last);
  send(world.exchange, std::vector<amqp::Message>{message});
  const auto letters = readDeadLetters(consumer->queue(), 1);
  REQUIRE(letters.size() == 1);
  for (const auto& [name, value] : message.headers) {
    CAPTURE(name);
    CHECK(header(letters[0], name).size() == value.size());
  }

  broken = false;  // and as one that was redriven it is an event still
  auto redriven = letters[0];
  redriven.headers.emplace_back("pillion-original-routing-key", std::string(250, 'r'));
  send(world.exchange, std::vector<amqp::Message>{redriven});
  CHECK(eventually(20s, [&] { return world.journal() == 1; }));
}

}  // namespace pillion::test
