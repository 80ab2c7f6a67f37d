// The part of RabbitServer that talks to the running broker.

#include <mutex>
#include <stdexcept>

#include "support/eventually.hpp"
#include "support/rabbit_server.hpp"

namespace pillion::support {
namespace {

// An Erlang binary.
std::string binary(const std::string& text) {
  std::string result = "<<\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"/utf8>>";
}

std::string lookup(const std::string& queue) {
  return "rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, " + binary(queue) + "))";
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

}  // namespace

std::string RabbitServer::ctl(const std::vector<std::string>& arguments) const {
  std::vector<std::string> command{stock_.directory / "sbin/rabbitmqctl", "-n", node_};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const std::lock_guard lock(toolMutex_);
  auto result = run(nodeProcess(std::move(command)));
  if (result.status != 0) throw std::runtime_error("rabbitmqctl failed: " + result.output);
  return std::move(result.output);
}

std::string RabbitServer::eval(const std::string& expression) const {
  const auto program = findErlangProgram("erl_call");
  if (program.empty()) return trimmed(ctl({"eval", expression + "."}));
  return erlCall(program, expression);
}

std::string RabbitServer::erlCall(const std::string& program, const std::string& expression) const {
  auto options = nodeProcess({program, "-r", "-n", node_, "-c", cookie(), "-e"});
  options.input = expression + ".\n";
  const auto result = run(std::move(options));
  static const std::string begin = "{ok, ";
  const auto text = trimmed(result.output);
  if (result.status != 0 || !text.starts_with(begin) || !text.ends_with("}")) {
    throw std::runtime_error("the broker refused " + expression + ": " + text);
  }
  return text.substr(begin.size(), text.size() - begin.size() - 1);
}

void RabbitServer::addUser(const std::string& name, const std::string& password,
                           const std::string& configure, const std::string& write,
                           const std::string& read) const {
  const std::string module = "rabbit_auth_backend_internal:";
  const auto user = binary(name);
  const std::string account = "(" + user + ", " + binary(password) + ", <<\"test\">>)";
  const std::string change = module + "change_password" + account;
  const std::string add = module + "add_user" + account;
  eval("ok = case " + module + "exists(" + user + ") of true -> " + change + "; false -> " + add +
       " end, ok = " + module + "set_permissions(" + user + ", <<\"/\">>, " + binary(configure) +
       ", " + binary(write) + ", " + binary(read) + ", <<\"test\">>)");
}

void RabbitServer::setMemoryAlarm(bool on) const {
  // Raised by hand: the memory monitor only reports changes of what it measures itself.
  static const std::string source = "{resource_limit, memory, node()}";
  eval(on ? "rabbit_alarm:set_alarm({" + source + ", []})"
          : "rabbit_alarm:clear_alarm(" + source + ")");
  const std::string raised = on ? "true" : "false";
  const auto changed = [&] {
    return eval("lists:keymember(" + source + ", 1, rabbit_alarm:get_alarms())") == raised;
  };
  if (!eventually(std::chrono::seconds(5), changed)) {
    throw std::runtime_error("the memory alarm did not change");
  }
}

void RabbitServer::closeAllConnections() const {
  eval(
      "[catch rabbit_networking:close_connection(C, \"closed by a test\") || "
      "C <- rabbit_networking:connections()], ok");
}

bool RabbitServer::queueExists(const std::string& queue) const {
  return eval("element(1, " + lookup(queue) + ")") == "ok";
}

long RabbitServer::queueDepth(const std::string& queue) const {
  // A quorum queue's own figures are refreshed every five seconds; its leader knows better. While
  // it has none yet, as after a start, a query is lost: better to ask again than to wait long.
  const auto question =
      "{ok, Q} = " + lookup(queue) +
      ", case amqqueue:get_type(Q) of rabbit_quorum_queue -> case ra:leader_query("
      "amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1, 300) of "
      "{ok, {_, N}, _} -> N; _ -> -1 end; "
      "_ -> [{messages, N}] = rabbit_amqqueue:info(Q, [messages]), N end";
  long depth = -1;
  const auto answered = [&] {
    depth = std::stol(eval(question));
    return depth >= 0;
  };
  if (!eventually(std::chrono::seconds(15), answered)) {
    throw std::runtime_error("the queue " + queue + " has no leader");
  }
  return depth;
}

void RabbitServer::deleteQueue(const std::string& queue) const {
  eval("{ok, Q} = " + lookup(queue) +
       ", {ok, _} = rabbit_amqqueue:delete(Q, false, false, <<\"test\">>), ok");
}

void RabbitServer::deleteExchange(const std::string& exchange) const {
  eval("rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, " + binary(exchange) +
       "), false, <<\"test\">>), ok");
}

void RabbitServer::deleteBinding(const std::string& exchange, const std::string& key,
                                 const std::string& queue) const {
  const auto named = [](const std::string& kind, const std::string& name) {
    return "rabbit_misc:r(<<\"/\">>, " + kind + ", " + binary(name) + ")";
  };
  eval("rabbit_binding:remove({binding, " + named("exchange", exchange) + ", " + binary(key) +
       ", " + named("queue", queue) + ", []}, <<\"test\">>)");
}

void RabbitServer::suspendQueue(const std::string& queue, bool suspended) const {
  eval("{ok, Q} = " + lookup(queue) + ", sys:" + (suspended ? "suspend" : "resume") +
       "(amqqueue:get_pid(Q))");
}

}  // namespace pillion::support
