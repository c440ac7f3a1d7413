// How benchmarks sample: greedily, without log probabilities.
#ifndef SPILLWAY_BENCH_GREEDY_ROW_H_
#define SPILLWAY_BENCH_GREEDY_ROW_H_

#include <cstdint>

#include "engine/device/ops.h"

namespace spillway::bench {

inline device::SampleRow GreedyRow(int32_t position) {
  device::SampleRow row{};
  row.top_p = 1;
  row.repetition_penalty = 1;
  row.n_logprobs = -1;
  row.position = position;
  return row;
}

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GREEDY_ROW_H_
