#include "server/process_setup.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace spillway::server {
namespace {

// Only what is allowed in a signal handler.
void OnBusError(int /*signal*/) {
  constexpr char kLine[] =
      "spillwayd: --model: the file was cut short while it was being read; replace model files by renaming a "
      "whole one "
      "over them\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kLine, sizeof(kLine) - 1);
  _exit(1);
}

}  // namespace

void RaiseOpenFileLimit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

int64_t MaxOpenFiles() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 1024;
  // Not infinite in practice, but the type could hold that.
  return static_cast<int64_t>(std::min<rlim_t>(files.rlim_cur, std::numeric_limits<int32_t>::max()));
}

void ExplainBusErrors() {
  struct sigaction action {};
  action.sa_handler = OnBusError;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace spillway::server
