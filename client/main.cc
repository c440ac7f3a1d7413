// `spillway`: Ctrl-C cancels the call that runs, and ends the program when none does.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "client/connection.h"
#include "client/console.h"
#include "client/spillway.h"

namespace {

using spillway::client::ActiveCall;

// Waits for SIGINT on a thread of its own, where everything may be called that a signal handler may not.
void WatchInterrupts(ActiveCall& active) {
  sigset_t interrupts;
  sigemptyset(&interrupts);
  sigaddset(&interrupts, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupts, nullptr);  // inherited by every thread started from here on
  std::thread([interrupts, &active] {
    int signal = 0;
    while (sigwait(&interrupts, &signal) == 0) {
      if (active.Cancel()) continue;
      // Nothing to wait for: end as an interrupted program does, whatever the main thread is blocked in.
      if (isatty(STDERR_FILENO) != 0) (void)!write(STDERR_FILENO, "\n", 1);
      _exit(spillway::client::kExitInterrupted);
    }
  }).detach();
}

}  // namespace

int main(int argc, char** argv) {
  // Lives for ever: the watching thread outlasts main.
  static ActiveCall* const active = new ActiveCall;
  WatchInterrupts(*active);
  std::ios::sync_with_stdio(false);
  spillway::client::Console console{std::cin,
                                    std::cout,
                                    std::cerr,
                                    isatty(STDIN_FILENO) != 0,
                                    isatty(STDOUT_FILENO) != 0,
                                    isatty(STDERR_FILENO) != 0};
  const std::vector<std::string> args(argv + 1, argv + argc);
  int exit_code = spillway::client::RunSpillway(args, console, *active);
  std::cout.flush();
  if (!std::cout.good() && exit_code == spillway::client::kExitOk) {
    std::cerr << "spillway: cannot write to standard output\n";
    exit_code = spillway::client::kExitFailed;
  }
  return exit_code;
}
