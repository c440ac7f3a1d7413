// FormPolicy: in which forms blocks are stored on the host where X may be stored beside or instead of K and
// V.
//
// While what is in use leaves the pool room a block is stored in both forms, and every step chooses. Beyond
// that each block has one form, and under pressure blocks that have both lose one, so that the shares of the
// forms move towards what the planner wants: as nothing is ever converted, what is stored anew and what is
// dropped is all that steers.
//
// Cached blocks are room: a cache of prefixes fills every pool in time, and would else end all choice however
// small the load. What that costs them is bounded. They first lose their own second forms, so that a new
// block in both forms evicts no more blocks than one in one form does, once second forms come and go; what
// they have less of for good is the second forms of blocks in use, which are at most both_below of the slots.
//
// A value.
#ifndef SPILLWAY_ENGINE_KV_FORM_POLICY_H_
#define SPILLWAY_ENGINE_KV_FORM_POLICY_H_

#include <algorithm>
#include <cstdint>

#include "engine/kv/geometry.h"

namespace spillway::kv {

// Blocks by the form in which they are stored now.
struct FormCounts {
  int64_t kv_blocks = 0;  // as K and V alone
  int64_t x_blocks = 0;   // as X alone
  int64_t both_blocks = 0;

  int64_t total_blocks() const { return kv_blocks + x_blocks + both_blocks; }
  int64_t& Of(Form form) { return form == Form::kKv ? kv_blocks : form == Form::kX ? x_blocks : both_blocks; }
  FormCounts operator+(const FormCounts& other) const {
    return {kv_blocks + other.kv_blocks, x_blocks + other.x_blocks, both_blocks + other.both_blocks};
  }
  bool operator==(const FormCounts&) const = default;
};

struct FormPolicy {
  bool stores_x = false;  // false: K and V, always
  // New blocks are stored in both forms as long as blocks in use take no more than this share of the slots.
  double both_below = 0.7;
  // Of the blocks in one form, what is wanted as X.
  double x_share = 0.5;

  // Of a new block, with which `in_use_share` of the slots would be in use if it had both forms.
  bool WantsBoth(double in_use_share) const { return stores_x && in_use_share <= both_below; }
  // Of the blocks that join those of one form, beside `counts`: the share to be X. Once what there is has the
  // share that is wanted, so has what joins it; else more or less, as far as the other is off.
  double ShareOfNext(const FormCounts& counts) const {
    const double total = static_cast<double>(counts.kv_blocks + counts.x_blocks);
    if (total == 0) return x_share;
    return std::clamp(2 * x_share - static_cast<double>(counts.x_blocks) / total, 0.0, 1.0);
  }
};

// Says yes and no in turn so that at every moment the asked share of the answers was yes: each stretch of
// blocks, as of a sequence, has its part of either form.
class ShareInTurn {
 public:
  bool Next(double share) {
    due_ += share;
    if (due_ < 0.5) return false;
    due_ -= 1;
    return true;
  }

 private:
  double due_ = 0;  // in -0.5..0.5
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_FORM_POLICY_H_
