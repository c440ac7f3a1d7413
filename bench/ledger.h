// Ledger: every request that was sent ends exactly once, in one of five ways. A value; used by one thread.
#ifndef SPILLWAY_BENCH_LEDGER_H_
#define SPILLWAY_BENCH_LEDGER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

enum class Outcome : uint8_t {
  kOk,
  kCancelled,   // by us
  kRejected,    // by admission, before anything was computed
  kSlowReader,  // ended by the daemon, and we did read slowly
  kFailed,      // everything else
};
constexpr int kOutcomes = 5;

class Ledger {
 public:
  // A request goes out; returns its number.
  int64_t Sent();
  // It ended. `cause` ("UNAVAILABLE/DRAINING") is counted where the outcome is not kOk. A request that was
  // never sent or has ended before is an error of the books.
  void Ended(int64_t request, Outcome outcome, absl::string_view cause = "");
  // A stream broke the interface's contract, or its usage disagrees with what was delivered.
  void ContractBroken(absl::string_view what);
  void Merge(const Ledger& other);

  int64_t sent() const { return sent_; }
  int64_t count(Outcome outcome) const { return ends_[static_cast<size_t>(outcome)]; }
  int64_t ended() const;
  int64_t contracts_broken() const { return contracts_broken_; }
  const std::map<std::string, int64_t>& causes() const { return causes_; }
  const std::string& first_broken_contract() const { return first_broken_contract_; }

  // Everything sent has ended, nothing twice, and no contract was broken.
  bool balanced() const;
  // "200 sent = 178 ok + 20 cancelled + 2 rejected + 0 slow reader + 0 failed"
  std::string Describe() const;
  nlohmann::json ToJson() const;

 private:
  int64_t sent_ = 0;
  int64_t ends_[kOutcomes] = {};
  int64_t book_errors_ = 0;
  int64_t contracts_broken_ = 0;
  std::string first_broken_contract_;
  std::map<std::string, int64_t> causes_;
  std::vector<bool> has_ended_;  // [sent_]
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_LEDGER_H_
