#include <pillion/log.hpp>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "base/thread_safety.hpp"

namespace pillion {
namespace {

constexpr const char* kName = "pillion";

struct Chosen {
  base::Mutex mutex;
  std::shared_ptr<spdlog::logger> given PILLION_GUARDED_BY(mutex);
  std::shared_ptr<spdlog::logger> own PILLION_GUARDED_BY(mutex);
};

/// Never destroyed: threads that end after main() may still log.
Chosen& chosen() {
  static auto* instance = new Chosen;
  return *instance;
}

std::shared_ptr<spdlog::logger> makeOwn() {
  // Built by hand, not with spdlog's factory: the factory throws when the name is taken, and a
  // process that already has a logger of that name must not die of it.
  auto own = std::make_shared<spdlog::logger>(
      kName, std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  try {
    spdlog::register_logger(own);
  } catch (const spdlog::spdlog_ex&) {
    if (auto registered = spdlog::get(kName)) return registered;
  }
  return own;
}

}  // namespace

std::shared_ptr<spdlog::logger> logger() noexcept {
  try {
    Chosen& state = chosen();
    const base::MutexLock lock(state.mutex);
    if (state.given) return state.given;
    if (auto registered = spdlog::get(kName)) return registered;
    if (!state.own) state.own = makeOwn();
    return state.own;
  } catch (...) {
    // Out of memory or worse: a logger without sinks keeps callers alive.
    static const auto silent = std::make_shared<spdlog::logger>("pillion-silent");
    return silent;
  }
}

void useLogger(std::shared_ptr<spdlog::logger> logger) noexcept {
  Chosen& state = chosen();
  const base::MutexLock lock(state.mutex);
  state.given = std::move(logger);
}

}  // namespace pillion
