// A spillwayd process of a test's own: started with flags, waited for, signalled, and its output kept.
#ifndef SPILLWAY_TESTS_E2E_SPAWNED_DAEMON_H_
#define SPILLWAY_TESTS_E2E_SPAWNED_DAEMON_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace spillway::e2e {

// How a process ended.
struct ExitResult {
  int code = -1;       // of exit; -1: it did not exit by itself
  int signal = 0;      // that killed it
  std::string output;  // stdout and stderr together
};

struct SpawnOptions {
  std::string binary = SPILLWAY_BIN_DIR "/spillwayd";
  uint64_t max_open_files = 0;  // 0: as the test's own
};

// Tests of one file use it from one thread. Kills the process in the end if it still runs.
class SpawnedDaemon {
 public:
  // Ports are picked by the daemon and --address_file is set; other flags are the caller's.
  SpawnedDaemon(std::vector<std::string> flags, std::vector<std::string> environment = {},
                const SpawnOptions& options = {});
  ~SpawnedDaemon();
  SpawnedDaemon(const SpawnedDaemon&) = delete;
  SpawnedDaemon& operator=(const SpawnedDaemon&) = delete;

  // Both wait for a bounded time; false when it passes or the daemon ends.
  bool WaitUntilListening();
  bool WaitUntilReady();

  std::string grpc_address() const { return grpc_address_; }
  std::string metrics_address() const { return metrics_address_; }
  const std::string& address_file() const { return address_file_; }
  std::shared_ptr<grpc::Channel> Connect() const;

  void Signal(int number);
  // Waits for the end.
  ExitResult Wait(std::chrono::seconds timeout = std::chrono::seconds(60));
  std::string output() const;
  pid_t pid() const { return pid_; }

 private:
  bool Ended();

  std::string address_file_;
  std::string output_file_;
  std::string grpc_address_;
  std::string metrics_address_;
  pid_t pid_ = -1;
  std::optional<int> status_;  // of waitpid
};

// Runs spillwayd to its end, with nothing but these flags.
ExitResult RunDaemon(const std::vector<std::string>& flags, const std::vector<std::string>& environment = {});

// A tiny model in the test's folder; written once.
std::string TinyModelPath();
// Of a daemon that serves it, and `more`. One thread: on a busy machine the tiny model would do little else
// than wait for its second one.
std::vector<std::string> ModelFlags(std::vector<std::string> more = {});

// With a deadline, so that a lost answer fails a test instead of hanging it.
std::unique_ptr<grpc::ClientContext> NewContext();

// GET over HTTP; the status code, 0 when there is no answer.
struct HttpAnswer {
  int code = 0;
  std::string body;
};
HttpAnswer Get(const std::string& address, const std::string& path);

}  // namespace spillway::e2e

#endif  // SPILLWAY_TESTS_E2E_SPAWNED_DAEMON_H_
