// warehouse: runs the example of three services on private servers, for a demonstration that ends
// by itself or for trying things out.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "commands.hpp"
#include "interruption.hpp"

namespace {

using pillion::warehouse::FleetOptions;
using pillion::warehouse::kServices;
using pillion::warehouse::UsageError;

int toNumber(const std::string& text, int most, const std::string& what) {
  int value = 0;
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  if (error == std::errc() && end == last && value >= 1 && value <= most) return value;
  throw UsageError(what + " must be a number from 1 to " + std::to_string(most) + ", not '" + text +
                   "'");
}

std::map<std::string, int> toInstances(const std::vector<std::string>& scales) {
  std::map<std::string, int> instances;
  for (const auto& scale : scales) {
    const auto equals = scale.find('=');
    const auto service = scale.substr(0, equals);
    if (std::find(kServices.begin(), kServices.end(), service) == kServices.end()) {
      throw UsageError("--scale knows product-service, inventory-service and order-service, not '" +
                       service + "'");
    }
    const auto count = equals == std::string::npos ? std::string() : scale.substr(equals + 1);
    instances[service] = toNumber(count, 9, "--scale " + service + "=");
  }
  return instances;
}

std::vector<int> toPorts(const std::vector<std::string>& texts) {
  if (texts.size() != kServices.size()) throw UsageError("--ports takes three, such as 1,2,3");
  std::vector<int> ports;
  for (const auto& text : texts) ports.push_back(toNumber(text, 65535, "--ports"));
  return ports;
}

int run(int argc, char** argv) {
  CLI::App app("The warehouse example on private servers: PostgreSQL, RabbitMQ, three services.");
  app.require_subcommand(1);

  pillion::warehouse::DemoOptions demoOptions;
  auto* demo = app.add_subcommand("demo", "traffic, a killed relay, a killed broker, and the sums");
  demo->add_option("--products", demoOptions.products, "products to create")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();

  std::vector<std::string> scales;
  std::vector<std::string> ports = {"8081", "8082", "8083"};
  auto* up = app.add_subcommand("up", "leaves everything running until Ctrl-C");
  up->add_option("--scale", scales, "instances of a service, such as inventory-service=3");
  up->add_option("--ports", ports, "REST ports of product-, inventory- and order-service")
      ->delimiter(',')
      ->capture_default_str();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  pillion::warehouse::Terminal terminal;
  if (demo->parsed()) return pillion::warehouse::demo(demoOptions, terminal);
  FleetOptions options;
  options.instances = toInstances(scales);
  options.ports = toPorts(ports);
  return pillion::warehouse::up(options, terminal);
}

}  // namespace

int main(int argc, char** argv) {
  pillion::warehouse::catchInterruption();
  try {
    return run(argc, argv);
  } catch (const UsageError& error) {
    std::cerr << "warehouse: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "warehouse: " << error.what() << '\n';
    return 1;
  }
}
