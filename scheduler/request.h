// A request as the scheduler takes it: token ids and parameters, already validated and tokenised. The
// scheduler knows no gRPC and no protobuf; the server converts.
#ifndef SPILLWAY_SCHEDULER_REQUEST_H_
#define SPILLWAY_SCHEDULER_REQUEST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/text/vocabulary.h"

namespace spillway::scheduler {

enum class Objective : uint8_t { kAuto, kLatency, kThroughput };

// Neutral values; the server has already put the model's generation defaults in where the client set nothing.
struct SamplingParams {
  float temperature = 1;  // 0: greedy
  int32_t top_k = 0;      // 0: all
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  uint64_t seed = 0;
  int32_t n_logprobs = -1;  // -1: none, 0: the sampled token's, n: and the n most likely
};

struct Request {
  std::string label;   // request_id: a label, not a key
  std::string method;  // which call it came with, and from where: for logs
  std::string peer;
  std::string tenant;    // whose it is; empty where nobody was asked
  std::string trace_id;  // of its W3C trace context; empty: none
  std::string parent_span_id;
  std::vector<text::TokenId> prompt;  // at least one token
  int32_t n_choices = 1;
  int32_t max_tokens = 0;  // per choice, at least 1; prompt + max_tokens <= context
  int32_t min_tokens = 0;  // before, no stop id is drawn and no stop string is found
  SamplingParams sampling;
  std::vector<std::string> stop_strings;
  std::vector<text::TokenId> stop_ids;  // in addition to the model's
  bool ignore_eos = false;              // the model's own stop ids do not end generation
  bool include_stop = false;            // the matched stop string is part of the text
  bool skip_special = true;             // special tokens give no text
  int32_t priority = 0;                 // higher runs earlier
  Objective objective = Objective::kAuto;
  std::vector<uint8_t> cache_salt;  // prefixes are shared only within one salt
  MonotonicNs arrival_ns = 0;       // when the call came, before tokenising; 0: now
  MonotonicNs deadline_ns = 0;      // 0: none
  bool warm_up = false;             // the daemon's own: counts in no total of the prefix cache
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_REQUEST_H_
