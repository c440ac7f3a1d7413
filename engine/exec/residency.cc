#include "engine/exec/residency.h"

#include <cmath>
#include <limits>

namespace spillway::exec {
namespace {

using kv::Residence;

// What an item read counts until so many decode steps began after it: they read what goes on.
constexpr uint32_t kStepsOfLoad = 2;
constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

int64_t BlocksOf(double share, int64_t blocks) {
  // All of them: what nobody reads now may stay too, as long as there is room.
  if (share > 0.999) return kUnlimited;
  return static_cast<int64_t>(std::ceil(share * static_cast<double>(blocks) - 0.01));
}

}  // namespace

Residency::Residency(kv::DeviceCache& cache, const ResidencyTargets& targets, int64_t slots_max,
                     bool stores_x)
    : cache_(cache), targets_(targets), slots_max_(slots_max), stores_x_(stores_x) {
  cache_.SetLimits(LimitsOf(0));
}

size_t Residency::AddItem() {
  loads_.emplace_back();
  return loads_.size() - 1;
}

void Residency::OnBegin(size_t item, Phase phase, int64_t blocks, int32_t block_tokens,
                        const std::optional<ResidencyTargets>& targets) {
  if (targets.has_value()) targets_ = *targets;
  decode_steps_ += phase == Phase::kDecode ? 1 : 0;
  loads_[item] = {blocks, phase, /*running=*/true, 0};
  // Batches that take turns would each drop what the others left, were only those counted that run.
  const int64_t decode_blocks = (targets_.decode_load_tokens + block_tokens - 1) / block_tokens;
  int64_t all_blocks = decode_blocks;
  for (const Load& load : loads_) {
    if (decode_blocks > 0 && load.phase == Phase::kDecode) continue;
    if (load.running || decode_steps_ - load.ended < kStepsOfLoad) all_blocks += load.blocks;
  }
  cache_.SetLimits(LimitsOf(all_blocks));
}

void Residency::OnEnd(size_t item) {
  loads_[item].running = false;
  loads_[item].ended = decode_steps_;
  cache_.SetLimits(cache_.limits());
}

kv::ResidentLimits Residency::LimitsOf(int64_t blocks) const {
  return {BlocksOf(targets_.kv, blocks), stores_x_ ? BlocksOf(targets_.x, blocks) : 0, slots_max_};
}

double Residency::FilledShare(Residence as) const {
  const kv::ResidentLimits& limits = cache_.limits();
  const int64_t wanted = as == Residence::kX ? limits.x_blocks : limits.kv_blocks;
  if (wanted <= 0) return 1;
  return static_cast<double>(cache_.resident_blocks(as)) / static_cast<double>(wanted);
}

Residence Residency::ForSealed() const {
  if (cache_.limits().x_blocks > 0 && FilledShare(Residence::kX) < FilledShare(Residence::kKv)) {
    return Residence::kX;
  }
  if (cache_.limits().kv_blocks > 0) return Residence::kKv;
  return cache_.limits().x_blocks > 0 ? Residence::kX : Residence::kNone;
}

Residence Residency::ForCarried(bool as_x) const {
  const double x = as_x ? FilledShare(Residence::kX) : 1, kv = FilledShare(Residence::kKv);
  if (x < 1 && x <= kv) return Residence::kX;
  return kv < 1 ? Residence::kKv : Residence::kNone;
}

}  // namespace spillway::exec
