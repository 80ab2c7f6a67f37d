#include <cstdio>
#include <exception>
#include <pillion/error.hpp>

#include "base/printable.hpp"
#include "cli/commands.hpp"

namespace {

constexpr int kTryAgain = 1;   // a server is away
constexpr int kMendFirst = 2;  // usage, configuration, schema

int run(int argc, char** argv) {
  CLI::App app{
      "Pillion: events that ride on a database transaction.\n\n"
      "Environment: PILLION_DATABASE_URL (else PG*), PILLION_SCHEMA (pillion),\n"
      "             PILLION_AMQP_URL (amqp://guest:guest@localhost), PILLION_EXCHANGE "
      "(pillion.events)\n"
      "Exit status: 0 done, 1 a server is away, 2 something must be mended first"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "pillion " PILLION_VERSION);
  pillion::cli::addRelayCommand(app);
  pillion::cli::addMigrateCommand(app);
  pillion::cli::addStatusCommand(app);
  pillion::cli::addReplayCommand(app);
  pillion::cli::addDeadCommand(app);
  pillion::cli::addPartitionsCommand(app);
  pillion::cli::addRestoreCommands(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kMendFirst;
  }
  return 0;
}

/// What servers say is quoted in it.
void tell(const std::exception& error) {
  const std::string text =
      pillion::base::printable(error.what(), std::string::npos, pillion::base::Lines::Kept);
  std::fprintf(stderr, "pillion: %s\n", text.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const pillion::Error& error) {
    tell(error);
    return error.retryable() ? kTryAgain : kMendFirst;
  } catch (const std::exception& error) {
    tell(error);
    return kTryAgain;
  }
}
