// Promotions: blocks of a step that come over the link and become resident on the way. Chosen at the step's
// beginning, so that their slots take every layer; each layer's planes are copied within the device from
// where attention reads them.
//
// Step thread only. Nothing is allocated after construction.
#ifndef SPILLWAY_ENGINE_EXEC_PROMOTIONS_H_
#define SPILLWAY_ENGINE_EXEC_PROMOTIONS_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/span.h"
#include "engine/exec/carry_tables.h"
#include "engine/exec/residency.h"
#include "engine/kv/device_cache.h"

namespace spillway::exec {

struct Promotion {
  kv::BlockId block = kv::kNoBlock;
  int32_t chunk = 0;
  int32_t place = 0;  // in the chunk
  kv::Residence as = kv::Residence::kKv;
};

class Promotions {
 public:
  // `cache` must outlive this; a step carries at most `max_blocks` blocks.
  Promotions(kv::DeviceCache& cache, int64_t max_blocks);

  // Reserves slots for carried blocks as far as `residency` wants them and there is room: those with most
  // readers first, then the newest.
  void Choose(const CarryTables& carry, const Residency& residency);
  absl::Span<const Promotion> OfChunk(int32_t chunk) const;
  // With blocks that were chosen.
  int32_t first_chunk() const {
    return chosen_.empty() ? std::numeric_limits<int32_t>::max() : chosen_.front().chunk;
  }
  int64_t blocks() const { return static_cast<int64_t>(chosen_.size()); }

  // All layers of the chosen blocks are on the device; or they will never be, and nothing enqueued touches
  // their slots.
  void Complete();
  void GiveUp();

 private:
  kv::DeviceCache& cache_;
  std::vector<int32_t> candidates_;  // into the tables' carried blocks
  std::vector<Promotion> chosen_;    // by chunk
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_PROMOTIONS_H_
