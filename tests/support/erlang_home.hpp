#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace pillion::support {

struct RabbitHome {
  std::filesystem::path directory;  // holds sbin/, escript/ and plugins/
  int major = 0;
};

// The newest RabbitMQ below /usr/lib/rabbitmq/lib.
RabbitHome findRabbitHome();

// Builds in `target` a home with only those plugins that the broker itself needs, as links to
// the ones of `home`. A 3.x node loads the modules of every plugin directory when it boots, even of
// plugins that are off: without them it starts in half the time. nullopt when the installation does
// not look as expected.
std::optional<std::filesystem::path> buildSlimHome(const RabbitHome& home,
                                                   const std::filesystem::path& target);

// A tool of Erlang such as epmd; empty when it is not installed.
std::filesystem::path findErlangProgram(const std::string& name);

}  // namespace pillion::support
