// What settings leave to the device.
#ifndef SPILLWAY_SERVER_DEVICE_DEFAULTS_H_
#define SPILLWAY_SERVER_DEVICE_DEFAULTS_H_

#include "engine/device/device.h"
#include "server/settings.h"

namespace spillway::server {

// The settings with a value for --prefill_chunk_tokens and --prefill_rows, where none was given.
Settings SettingsOn(const device::DeviceInfo& info, const Settings& settings);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_DEVICE_DEFAULTS_H_
