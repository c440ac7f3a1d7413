// Warp operations: each is a collective whose last lane computes the results of all.
#include <cstdint>
#include <string>

#include "cuda_fake/device_code.h"
#include "cuda_fake/simt.h"

namespace spillway::fakes::cuda {
namespace {

template <typename Argument>
Argument& At(void* const (&lanes)[kWarpThreads], unsigned lane) {
  return *static_cast<Argument*>(lanes[lane]);
}

template <typename Visit>
void ForEachLane(uint32_t mask, Visit visit) {
  for (unsigned lane = 0; lane < kWarpThreads; ++lane) {
    if ((mask >> lane & 1) != 0) visit(lane);
  }
}

struct ShuffleArgument {
  uint64_t value;
  unsigned source;
  uint64_t result = 0;
};

void CombineShuffle(void* const (&lanes)[kWarpThreads], uint32_t mask) {
  ForEachLane(mask, [&](unsigned lane) {
    auto& argument = At<ShuffleArgument>(lanes, lane);
    if ((mask >> argument.source & 1) == 0) {
      SetFault("in a shuffle lane " + std::to_string(lane) + " reads lane " +
               std::to_string(argument.source) + ", which the mask does not name");
      EndKernel();
    }
    argument.result = At<ShuffleArgument>(lanes, argument.source).value;
  });
}

struct BallotArgument {
  bool predicate;
  uint32_t result = 0;
};

void CombineBallot(void* const (&lanes)[kWarpThreads], uint32_t mask) {
  uint32_t votes = 0;
  ForEachLane(mask, [&](unsigned lane) {
    votes |= At<BallotArgument>(lanes, lane).predicate ? uint32_t{1} << lane : 0;
  });
  ForEachLane(mask, [&](unsigned lane) { At<BallotArgument>(lanes, lane).result = votes; });
}

struct MatchArgument {
  uint64_t value;
  uint32_t result = 0;
};

void CombineMatch(void* const (&lanes)[kWarpThreads], uint32_t mask) {
  ForEachLane(mask, [&](unsigned lane) {
    auto& argument = At<MatchArgument>(lanes, lane);
    ForEachLane(mask, [&](unsigned other) {
      if (At<MatchArgument>(lanes, other).value == argument.value) argument.result |= uint32_t{1} << other;
    });
  });
}

struct ReduceArgument {
  ReduceKind kind;
  bool is_signed;
  uint32_t value;
  uint32_t result = 0;
};

uint32_t ReduceTwo(ReduceKind kind, bool is_signed, uint32_t a, uint32_t b) {
  const bool less = is_signed ? static_cast<int32_t>(a) < static_cast<int32_t>(b) : a < b;
  switch (kind) {
    case ReduceKind::kAdd:
      return a + b;
    case ReduceKind::kMin:
      return less ? a : b;
    case ReduceKind::kMax:
      return less ? b : a;
    case ReduceKind::kAnd:
      return a & b;
    case ReduceKind::kOr:
      return a | b;
    case ReduceKind::kXor:
      return a ^ b;
  }
  return 0;
}

void CombineReduce(void* const (&lanes)[kWarpThreads], uint32_t mask) {
  bool first = true;
  uint32_t result = 0;
  ForEachLane(mask, [&](unsigned lane) {
    const auto& argument = At<ReduceArgument>(lanes, lane);
    result = first ? argument.value : ReduceTwo(argument.kind, argument.is_signed, result, argument.value);
    first = false;
  });
  ForEachLane(mask, [&](unsigned lane) { At<ReduceArgument>(lanes, lane).result = result; });
}

}  // namespace

uint64_t Shuffle(ShuffleKind kind, uint32_t mask, uint64_t value, int operand, int width,
                 const std::source_location& where) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    SetFault("the width of a shuffle at " + Describe(where) + " is " + std::to_string(width));
    EndKernel();
  }
  const int lane = static_cast<int>(Lane());
  const int first = lane & ~(width - 1);
  const int last = first + width - 1;
  int source = lane;
  switch (kind) {
    case ShuffleKind::kIndex:
      source = first + (operand & (width - 1));
      break;
    case ShuffleKind::kXor:
      source = (lane ^ operand) <= last ? lane ^ operand : lane;
      break;
    case ShuffleKind::kUp:
      source = lane - operand >= first ? lane - operand : lane;
      break;
    case ShuffleKind::kDown:
      source = lane + operand <= last ? lane + operand : lane;
      break;
  }
  static constexpr const char* kNames[] = {"__shfl_sync", "__shfl_xor_sync", "__shfl_up_sync",
                                           "__shfl_down_sync"};
  ShuffleArgument argument{value, static_cast<unsigned>(source) % kWarpThreads};
  Collective(kNames[static_cast<int>(kind)], mask, &argument, &CombineShuffle, where);
  return argument.result;
}

uint32_t Ballot(const char* name, uint32_t mask, bool predicate, const std::source_location& where) {
  BallotArgument argument{predicate};
  Collective(name, mask, &argument, &CombineBallot, where);
  return argument.result;
}

uint32_t Match(uint32_t mask, uint64_t value, const std::source_location& where) {
  MatchArgument argument{value};
  Collective("__match_any_sync", mask, &argument, &CombineMatch, where);
  return argument.result;
}

uint32_t Reduce(ReduceKind kind, bool is_signed, uint32_t mask, uint32_t value,
                const std::source_location& where) {
  ReduceArgument argument{kind, is_signed, value};
  Collective("__reduce_sync", mask, &argument, &CombineReduce, where);
  return argument.result;
}

}  // namespace spillway::fakes::cuda
