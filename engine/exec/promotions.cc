#include "engine/exec/promotions.h"

#include <algorithm>

namespace spillway::exec {
namespace {

using kv::Residence;

// Of a step: each block is a copy a layer.
constexpr size_t kPromotionsMax = 32;
// A block that was not read for so many steps makes room.
constexpr uint32_t kStaleUses = 16;

}  // namespace

Promotions::Promotions(kv::DeviceCache& cache, int64_t max_blocks) : cache_(cache) {
  candidates_.reserve(static_cast<size_t>(max_blocks));
  chosen_.reserve(kPromotionsMax);
}

void Promotions::Choose(const CarryTables& carry, const Residency& residency) {
  chosen_.clear();
  candidates_.clear();
  const absl::Span<const CarriedBlock> carried = carry.carried();
  const auto as_x = [&](const CarriedBlock& block) {
    return carry.chunks()[static_cast<size_t>(block.chunk)].form == kv::Form::kX;
  };
  if (residency.ForCarried(true) == Residence::kNone && residency.ForCarried(false) == Residence::kNone)
    return;
  for (size_t i = 0; i < carried.size(); ++i) {
    if (cache_.StateOf(carried[i].block) == kv::DeviceCache::State::kAbsent &&
        residency.ForCarried(as_x(carried[i])) != Residence::kNone) {
      candidates_.push_back(static_cast<int32_t>(i));
    }
  }
  const size_t most = std::min(candidates_.size(), kPromotionsMax);
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(most),
                    candidates_.end(), [&](int32_t a, int32_t b) {
                      const CarriedBlock& one = carried[static_cast<size_t>(a)];
                      const CarriedBlock& other = carried[static_cast<size_t>(b)];
                      if (one.readers != other.readers) return one.readers > other.readers;
                      return one.position > other.position;
                    });
  for (size_t i = 0; i < most; ++i) {
    const CarriedBlock& block = carried[static_cast<size_t>(candidates_[i])];
    const Residence as = residency.ForCarried(as_x(block));
    if (as == Residence::kNone || !cache_.Reserve(block.block, as, kStaleUses)) continue;
    chosen_.push_back({block.block, block.chunk, block.place, as});
  }
  std::sort(chosen_.begin(), chosen_.end(),
            [](const Promotion& a, const Promotion& b) { return a.chunk < b.chunk; });
}

absl::Span<const Promotion> Promotions::OfChunk(int32_t chunk) const {
  const auto first = std::find_if(chosen_.begin(), chosen_.end(),
                                  [chunk](const Promotion& promotion) { return promotion.chunk == chunk; });
  const auto end = std::find_if(first, chosen_.end(),
                                [chunk](const Promotion& promotion) { return promotion.chunk != chunk; });
  return absl::MakeConstSpan(chosen_).subspan(static_cast<size_t>(first - chosen_.begin()),
                                              static_cast<size_t>(end - first));
}

void Promotions::Complete() {
  for (const Promotion& promotion : chosen_) {
    cache_.Arrive(promotion.block);
    cache_.Unpin(promotion.block);
  }
  chosen_.clear();
}

void Promotions::GiveUp() {
  for (const Promotion& promotion : chosen_) cache_.GiveUp(promotion.block);
  chosen_.clear();
}

}  // namespace spillway::exec
