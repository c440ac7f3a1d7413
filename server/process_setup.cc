#include "server/process_setup.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>

#include "base/log.h"

namespace spillway::server {
namespace {

constexpr rlim_t kFewFiles = 4096;

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
  if (setrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur >= kFewFiles) return;
  Log(LogLevel::kWarning,
      "few files may be open at once, and every connection is one; raise the limit (ulimit -n)",
      {{"limit", static_cast<int64_t>(files.rlim_cur)}});
}

void ExplainBusErrors() {
  struct sigaction action {};
  action.sa_handler = OnBusError;
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace spillway::server
