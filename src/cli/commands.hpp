#pragma once

#include <CLI/CLI.hpp>

// One function per verb: adds it to the command line, with what runs when it was chosen.

namespace pillion::cli {

void addRelayCommand(CLI::App& app);
void addMigrateCommand(CLI::App& app);
void addStatusCommand(CLI::App& app);
void addReplayCommand(CLI::App& app);
void addPartitionsCommand(CLI::App& app);
void addDeadCommand(CLI::App& app);      // list, show, redrive, discard
void addRestoreCommands(CLI::App& app);  // adopt and rebase

}  // namespace pillion::cli
