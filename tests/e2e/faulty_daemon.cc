// spillwayd on a device that breaks when it is told to: the CPU's, until the file that FAULT_FILE names holds
// "stall" (the device never finishes again), "hold" (not while it says so), "error" (it fails) or "slow" (it
// takes its time). For failure_test, daemon_test and deploy/envoy_test.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/small_file.h"
#include "engine/device/cpu/cpu_device.h"
#include "server/configuration.h"
#include "server/daemon.h"
#include "server/grpc_log.h"
#include "server/signal_watch.h"
#include "tests/fakes/forwarding_device.h"

namespace spillway::e2e {
namespace {

class FaultyDevice final : public device::ForwardingDevice {
 public:
  FaultyDevice(std::unique_ptr<device::Device> device, std::string fault_file)
      : ForwardingDevice(*device), device_(std::move(device)), fault_file_(std::move(fault_file)) {}

  // The executor waits here for every visit. What the loading thread asks for is done.
  absl::Status Synchronize(device::EventId event) override {
    if (std::this_thread::get_id() == loader_) return ForwardingDevice::Synchronize(event);
    absl::StatusOr<std::string> fault = ReadSmallFile(fault_file_);
    while (fault.ok() && *fault == "hold") {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      fault = ReadSmallFile(fault_file_);
    }
    if (fault.ok() && *fault == "error") return absl::InternalError("the device fell off the bus");
    while (fault.ok() && *fault == "stall") pause();
    if (fault.ok() && *fault == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return ForwardingDevice::Synchronize(event);
  }

 private:
  const std::unique_ptr<device::Device> device_;
  const std::string fault_file_;
  const std::thread::id loader_ = std::this_thread::get_id();
};

int Main(int argc, char** argv) {
  server::BlockSignals();
  const char* const fault_file = std::getenv("FAULT_FILE");
  SPILLWAY_CHECK(fault_file != nullptr);
  const auto configuration = server::ReadConfiguration(std::vector<std::string>(argv + 1, argv + argc), {});
  SPILLWAY_CHECK_MSG(configuration.ok(), configuration.status().ToString().c_str());
  SetLogging(LogLevel::kInfo, LogFormat::kText);
  server::RouteGrpcLog();
  const absl::Status status =
      server::Serve(configuration->settings,
                    [fault_file](const server::Settings&) -> absl::StatusOr<std::unique_ptr<device::Device>> {
                      device::CpuDeviceOptions options;
                      options.threads = 1;
                      auto device = device::CreateCpuDevice(options);
                      if (!device.ok()) return device.status();
                      return std::make_unique<FaultyDevice>(*std::move(device), fault_file);
                    });
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "spillwayd: %s\n", std::string(status.message()).c_str());
  return EXIT_FAILURE;
}

}  // namespace
}  // namespace spillway::e2e

int main(int argc, char** argv) { return spillway::e2e::Main(argc, argv); }
