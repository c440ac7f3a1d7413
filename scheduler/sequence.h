// Sequence: one choice of a request on its way through the scheduler - its tokens, its blocks and the text
// that it becomes.
//
// Owned by its ActiveRequest. Step thread only.
#ifndef SPILLWAY_SCHEDULER_SEQUENCE_H_
#define SPILLWAY_SCHEDULER_SEQUENCE_H_

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "engine/text/vocabulary.h"
#include "scheduler/choice_output.h"
#include "scheduler/sequence_cache.h"

namespace spillway::scheduler {

class ActiveRequest;
class Batch;

constexpr MonotonicNs kNotYet = -1;

enum class SequenceState : uint8_t {
  kHeld,     // a further choice, until the first has put the prompt into the cache
  kWaiting,  // in the RequestQueue: no blocks
  kPrefill,  // has blocks and more than one row to compute
  kDecode,   // has blocks and one row to compute in each decode pass
  kParked,   // preempted while its reader did not keep up; waits for the reader, has no blocks
  kEnded,    // nothing more to do; in a running batch still where `batch` says so
};

struct Sequence {
  Sequence(ActiveRequest& owner, int32_t choice, const text::Tokenizer& tokenizer, text::StopMatcher matcher,
           const CacheRoom& room);

  // The order of admission, and the reverse of preemption: by priority, then arrival, then choice. Total, and
  // the same for a request's whole life: so of two sequences only one can ever push the other out.
  bool RunsBefore(const Sequence& other) const;

  int32_t n_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t n_generated() const;
  // Rows that must be computed before the next token can be drawn.
  int32_t rows_left() const { return n_tokens() - cache.computed_tokens(); }
  // It holds blocks and counts against max_sequences.
  bool running() const {
    return state == SequenceState::kPrefill || state == SequenceState::kDecode || batch != nullptr;
  }

  ActiveRequest& request;
  const int32_t index;
  SequenceState state = SequenceState::kHeld;
  Batch* batch = nullptr;       // the running batch that computes rows of it
  bool counted_reader = false;  // its full blocks are counted in the decode pass's shape

  // Prompt, then generated. Empty until first admitted; then with room for all, so that it never moves.
  std::vector<text::TokenId> tokens;
  SequenceCache cache;
  int32_t found_tokens = 0;  // of the computed ones, those found in the cache since it was last admitted
  ChoiceOutput output;
  MonotonicNs last_token_ns = kNotYet;
  double row_ns = 0;  // a prefill visit's cost per row, as last measured; 0: unknown
};

struct RunsBefore {
  bool operator()(const Sequence* a, const Sequence* b) const { return a->RunsBefore(*b); }
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_SEQUENCE_H_
