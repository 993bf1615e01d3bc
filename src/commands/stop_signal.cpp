#include "commands/stop_signal.hpp"

#include <csignal>

namespace apb {
namespace {

// A handler gets no argument, so what it sets must be here.
volatile std::sig_atomic_t arrived = 0;

void remember(int /*signal*/) { arrived = 1; }

}  // namespace

void remember_stop_signals() {
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;  // reading and writing go on undisturbed
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
}

bool stop_requested() { return arrived != 0; }

}  // namespace apb
