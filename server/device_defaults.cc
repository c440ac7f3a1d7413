#include "server/device_defaults.h"

#include "base/bytes.h"
#include "scheduler/prefill_queue.h"

namespace spillway::server {
namespace {

// A GPU reads all of a layer's weights for each visit, and expands those that are packed.
constexpr int64_t kChunkTokens = 256;
constexpr int64_t kChunkTokensOfGpu = 1024;
constexpr int64_t kLargeDeviceBytes = 8 * kGiB;  // on which the larger visit's scratch is a small part

}  // namespace

Settings SettingsOn(const device::DeviceInfo& info, const Settings& settings) {
  Settings settled = settings;
  if (settled.weights == "auto") settled.weights = info.multiplies_packed_weights ? "packed" : "expanded";
  if (settled.prefill_chunk_tokens == 0) {
    const bool large =
        !info.host_addressable && !info.emulated_link && info.memory_bytes >= kLargeDeviceBytes;
    settled.prefill_chunk_tokens = large ? kChunkTokensOfGpu : kChunkTokens;
  }
  if (settled.prefill_rows == 0) {
    settled.prefill_rows = settled.prefill_chunk_tokens * scheduler::PrefillQueue::kItems;
  }
  return settled;
}

}  // namespace spillway::server
