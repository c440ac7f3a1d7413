// A day in the scheduler's life, drawn from one seed: random machines, pools far too small, arrivals in
// bursts, priorities, shared prefixes, several choices, stop strings, cancellations, deadlines, readers that
// are slow or never come, now and then an engine that fails - and clients that check everything they are
// told.
#ifndef SPILLWAY_TESTS_SIM_SCHEDULER_SIM_H_
#define SPILLWAY_TESTS_SIM_SCHEDULER_SIM_H_

#include <cstdint>
#include <string>
#include <vector>

namespace spillway::scheduler {

struct SimResult {
  std::vector<std::string> faults;  // empty when all invariants held
  int64_t steps = 0;
  int64_t accepted = 0;
  int64_t ended_well = 0;
  int64_t preemptions = 0;
  int64_t forms_dropped = 0;
  int64_t prefix_hit_tokens = 0;
  int64_t tokens = 0;
  int64_t slow_readers = 0;  // given up
  int64_t engine_failures = 0;
};

// The same seed gives the same run.
SimResult Simulate(uint64_t seed);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_TESTS_SIM_SCHEDULER_SIM_H_
