#include "tests/e2e/spawned_daemon.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "base/check.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/gguf_writer.h"

extern char** environ;

namespace spillway::e2e {
namespace {

constexpr std::chrono::milliseconds kPoll(5);
// Sanitized, beside compilers, on an emulated GPU, it measures for a minute.
constexpr std::chrono::seconds kStartTimeout(180);

std::string TempPath(const std::string& suffix) {
  static int next = 0;
  return testing::TempDir() + "spillwayd." + std::to_string(getpid()) + "." + std::to_string(next++) + suffix;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

pid_t Spawn(const std::vector<std::string>& flags, const std::vector<std::string>& environment,
            const std::string& output_file, const SpawnOptions& options) {
  const std::string& binary = options.binary;
  std::vector<std::string> arguments = {binary};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  std::vector<std::string> variables = environment;
  // The first of a name counts: nothing is left in the user's own cache.
  variables.push_back("XDG_CACHE_HOME=" + testing::TempDir() + "spillway_cache");
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!absl::StartsWith(*entry, "SPILLWAY_")) variables.emplace_back(*entry);
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::vector<char*> envp;
  for (std::string& variable : variables) envp.push_back(variable.data());
  envp.push_back(nullptr);
  const int output = open(output_file.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
  SPILLWAY_CHECK(output >= 0);
  const pid_t pid = fork();
  SPILLWAY_CHECK(pid >= 0);
  if (pid == 0) {
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    const rlimit files{options.max_open_files, options.max_open_files};
    if (options.max_open_files > 0) setrlimit(RLIMIT_NOFILE, &files);
    execve(binary.c_str(), argv.data(), envp.data());
    _exit(127);
  }
  close(output);
  return pid;
}

bool Eventually(std::chrono::seconds timeout, const std::function<bool()>& condition) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

}  // namespace

SpawnedDaemon::SpawnedDaemon(std::vector<std::string> flags, std::vector<std::string> environment,
                             const SpawnOptions& options)
    : address_file_(TempPath(".address")), output_file_(TempPath(".log")) {
  // An earlier process of this number may have left one: its daemon is not this one.
  std::remove(address_file_.c_str());
  // Nothing balances load here, so that nothing must notice before a daemon stops.
  flags.insert(flags.begin(), {"--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                               "--address_file=" + address_file_, "--lame_duck_ms=0"});
  pid_ = Spawn(flags, environment, output_file_, options);
}

SpawnedDaemon::~SpawnedDaemon() {
  if (Ended()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool SpawnedDaemon::Ended() {
  if (status_.has_value()) return true;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  status_ = status;
  return true;
}

bool SpawnedDaemon::WaitUntilListening() {
  const bool there =
      Eventually(kStartTimeout, [this] { return Ended() || access(address_file_.c_str(), R_OK) == 0; });
  if (!there || Ended()) return false;
  const auto json = nlohmann::json::parse(ReadFile(address_file_), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || json.value("schema_version", 0) != 1) return false;
  grpc_address_ = json.value("grpc", "");
  metrics_address_ = json.value("metrics", "");
  return true;
}

bool SpawnedDaemon::WaitUntilReady() {
  if (!WaitUntilListening()) return false;
  return Eventually(kStartTimeout,
                    [this] { return Ended() || Get(metrics_address_, "/readyz").code == 200; }) &&
         !Ended();
}

std::shared_ptr<grpc::Channel> SpawnedDaemon::Connect() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(grpc_address_, grpc::InsecureChannelCredentials(), arguments);
}

void SpawnedDaemon::Signal(int number) { kill(pid_, number); }

ExitResult SpawnedDaemon::Wait(std::chrono::seconds timeout) {
  ExitResult result;
  if (Eventually(timeout, [this] { return Ended(); })) {
    if (WIFEXITED(*status_)) result.code = WEXITSTATUS(*status_);
    if (WIFSIGNALED(*status_)) result.signal = WTERMSIG(*status_);
  }
  result.output = output();
  return result;
}

std::string SpawnedDaemon::output() const { return ReadFile(output_file_); }

ExitResult RunDaemon(const std::vector<std::string>& flags, const std::vector<std::string>& environment) {
  const std::string output_file = TempPath(".log");
  // Where the flags do not say it, ports that nobody else has: what is refused must not depend on who else
  // runs.
  std::vector<std::string> with_ports = {"SPILLWAY_LISTEN=127.0.0.1:0",
                                         "SPILLWAY_METRICS_LISTEN=127.0.0.1:0"};
  with_ports.insert(with_ports.end(), environment.begin(), environment.end());
  const pid_t pid = Spawn(flags, with_ports, output_file, {});
  int status = 0;
  ExitResult result;
  if (Eventually(kStartTimeout, [&] { return waitpid(pid, &status, WNOHANG) == pid; })) {
    if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  } else {
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
  }
  result.output = ReadFile(output_file);
  return result;
}

std::string TinyModelPath() {
  static const std::string path = [] {
    std::string out = TempPath(".gguf");
    const absl::Status written = fakes::WriteTinyLlama(out, {});
    SPILLWAY_CHECK_MSG(written.ok(), written.ToString().c_str());
    return out;
  }();
  return path;
}

HttpAnswer Get(const std::string& address, const std::string& path) {
  const size_t colon = address.rfind(':');
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(std::atoi(address.substr(colon + 1).c_str())));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &target.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  std::string text;
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n";
  if (connect(fd, reinterpret_cast<const sockaddr*>(&target), sizeof(target)) == 0 &&
      write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n = 0; (n = read(fd, buffer, sizeof(buffer))) > 0;)
      text.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  HttpAnswer answer;
  const size_t body = text.find("\r\n\r\n");
  if (body == std::string::npos || text.size() < 12) return answer;
  answer.code = std::atoi(text.substr(9, 3).c_str());
  answer.body = text.substr(body + 4);
  return answer;
}

std::unique_ptr<grpc::ClientContext> NewContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return context;
}

std::vector<std::string> ModelFlags(std::vector<std::string> more) {
  std::vector<std::string> flags = {"--model=" + TinyModelPath(), "--host_pool=64MiB", "--max_sequences=8",
                                    "--threads=1"};
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

}  // namespace spillway::e2e
