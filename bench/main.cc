// `spillway-bench`: Ctrl-C ends a run early, with its report; a second one ends the program.
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/engine.h"
#include "bench/gpu.h"
#include "bench/serve.h"
#include "bench/server_cpu.h"
#include "bench/split.h"
#include "client/console.h"
#include "client/flags.h"

namespace {

using spillway::client::Console;
using spillway::client::ExitCode;

struct Command {
  absl::string_view name;
  absl::string_view summary;
  ExitCode (*run)(absl::Span<const std::string> args, Console& console, const std::atomic<bool>& stop);
};

constexpr std::array<Command, 5> kCommands = {{
    {"serve", "load on a daemon: latencies, throughput, a ledger of every request",
     spillway::bench::RunServe},
    {"engine", "prefill and decode without a network, beside this machine's bounds",
     spillway::bench::RunEngine},
    {"split", "decode steps over an emulated link, by how cached tokens reach attention",
     spillway::bench::RunSplit},
    {"gpu", "what of a GPU's memory, link and matrix units the engine gets", spillway::bench::RunGpu},
    {"server_cpu", "what serving costs beside the engine: CPU per generated token",
     spillway::bench::RunServerCpu},
}};

std::string Usage() {
  std::string text =
      "spillway-bench measures Spillway.\n\n"
      "usage: spillway-bench COMMAND [flags]\n\n"
      "Commands:\n";
  for (const Command& command : kCommands) {
    absl::StrAppendFormat(&text, "  %-11s %s\n", command.name, command.summary);
  }
  return absl::StrCat(
      text,
      "\n`spillway-bench COMMAND --help` shows flags and examples. Every command takes --json=FILE\n"
      "(- is stdout). Exit codes: 0 ok, 1 failed, 2 wrong usage.\n");
}

void WatchInterrupts(std::atomic<bool>& stop) {
  sigset_t interrupts;
  sigemptyset(&interrupts);
  sigaddset(&interrupts, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupts, nullptr);  // inherited by every thread started from here on
  std::thread([interrupts, &stop] {
    int signal = 0;
    while (sigwait(&interrupts, &signal) == 0) {
      if (stop.exchange(true)) _exit(spillway::client::kExitInterrupted);
    }
  }).detach();
}

}  // namespace

int main(int argc, char** argv) {
  // Lives for ever: the watching thread outlasts main.
  static std::atomic<bool>* const stop = new std::atomic<bool>(false);
  WatchInterrupts(*stop);
  Console console{std::cin,
                  std::cout,
                  std::cerr,
                  isatty(STDIN_FILENO) != 0,
                  isatty(STDOUT_FILENO) != 0,
                  isatty(STDERR_FILENO) != 0};
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    (args.empty() ? std::cerr : std::cout) << Usage();
    return args.empty() ? spillway::client::kExitUsage : spillway::client::kExitOk;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (command.name == args[0]) return command.run(absl::MakeConstSpan(args).subspan(1), console, *stop);
    names.emplace_back(command.name);
  }
  const std::string nearest = spillway::client::NearestName(args[0], names);
  std::cerr << "spillway-bench: unknown command \"" << args[0] << "\""
            << (nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?"))
            << "\n  remedy: see `spillway-bench --help`\n";
  return spillway::client::kExitUsage;
}
