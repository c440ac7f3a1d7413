// The daemon's life: bind, load, warm up, serve, and stop - on a signal by draining, on a failed or stalled
// engine with an error. Everything but the choice of a device.
#ifndef SPILLWAY_SERVER_DAEMON_H_
#define SPILLWAY_SERVER_DAEMON_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "server/settings.h"

namespace spillway::server {

using DeviceFactory = std::function<absl::StatusOr<std::unique_ptr<device::Device>>(const Settings&)>;

// Serves until told to stop. OK after a drain; an error, one line with the cause and the remedy, when the
// daemon could not start or the engine failed (the caller exits 1). Does not return from a second signal.
absl::Status Serve(const Settings& settings, const DeviceFactory& create_device);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_DAEMON_H_
