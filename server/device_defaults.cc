#include "server/device_defaults.h"

#include <algorithm>

#include "base/bytes.h"
#include "scheduler/prefill_queue.h"

namespace spillway::server {
namespace {

constexpr int64_t kChunkTokens = 256;
constexpr int64_t kPrefillRows = 1024;  // at least

bool IsGpu(const device::DeviceInfo& info) { return !info.host_addressable && !info.emulated_link; }

// A GPU reads all of a layer's weights for each visit, and expands those that are packed. But the blocks that
// prompts under way write are reserved for them in every layer, so a small one visits oftener.
int64_t ChunkTokensOn(const device::DeviceInfo& info) {
  if (IsGpu(info) && info.memory_bytes >= 28 * kGiB) return 1024;
  if (IsGpu(info) && info.memory_bytes >= 10 * kGiB) return 512;
  return kChunkTokens;
}

}  // namespace

Settings SettingsOn(const device::DeviceInfo& info, const Settings& settings) {
  constexpr int64_t kItems = scheduler::PrefillQueue::kItems;
  Settings settled = settings;
  if (settled.prefill_chunk_tokens == 0) {
    settled.prefill_chunk_tokens = ChunkTokensOn(info);
    if (settled.prefill_rows > 0 && !info.host_addressable) {
      settled.prefill_chunk_tokens = std::min(
          settled.prefill_chunk_tokens, std::max(kPrefillChunkTokensMin, settled.prefill_rows / kItems));
    }
  }
  if (settled.prefill_rows == 0) {
    settled.prefill_rows = std::max(kPrefillRows, settled.prefill_chunk_tokens * kItems);
  }
  return settled;
}

}  // namespace spillway::server
