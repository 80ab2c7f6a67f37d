#include "interruption.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "support/eventually.hpp"

namespace pillion::warehouse {
namespace {

std::atomic<bool> signalled{false};

[[noreturn]] void watch(sigset_t set) {
  for (;;) {
    int number = 0;
    if (sigwait(&set, &number) != 0) continue;
    if (signalled.exchange(true)) _exit(128 + number);
  }
}

}  // namespace

void catchInterruption() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread(watch, set).detach();
}

bool interrupted() {
  return signalled;
}

bool waitFor(std::chrono::milliseconds limit, const std::function<bool()>& condition) {
  return support::eventually(limit, [&] {
    if (interrupted()) throw Interrupted();
    return condition();
  });
}

}  // namespace pillion::warehouse
