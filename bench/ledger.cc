#include "bench/ledger.h"

#include <numeric>

#include "absl/strings/str_cat.h"

namespace spillway::bench {
namespace {

constexpr const char* kNames[kOutcomes] = {"ok", "cancelled", "rejected", "slow_reader", "failed"};

}  // namespace

int64_t Ledger::Sent() {
  has_ended_.push_back(false);
  return sent_++;
}

void Ledger::Ended(int64_t request, Outcome outcome, absl::string_view cause) {
  if (request < 0 || request >= sent_ || has_ended_[static_cast<size_t>(request)]) {
    ++book_errors_;
    return;
  }
  has_ended_[static_cast<size_t>(request)] = true;
  ++ends_[static_cast<size_t>(outcome)];
  if (outcome != Outcome::kOk && !cause.empty()) ++causes_[std::string(cause)];
}

void Ledger::ContractBroken(absl::string_view what) {
  if (contracts_broken_++ == 0) first_broken_contract_ = std::string(what);
}

void Ledger::Merge(const Ledger& other) {
  sent_ += other.sent_;
  has_ended_.insert(has_ended_.end(), other.has_ended_.begin(), other.has_ended_.end());
  for (int i = 0; i < kOutcomes; ++i) ends_[i] += other.ends_[i];
  book_errors_ += other.book_errors_;
  if (contracts_broken_ == 0) first_broken_contract_ = other.first_broken_contract_;
  contracts_broken_ += other.contracts_broken_;
  for (const auto& [cause, count] : other.causes_) causes_[cause] += count;
}

int64_t Ledger::ended() const { return std::accumulate(std::begin(ends_), std::end(ends_), int64_t{0}); }

bool Ledger::balanced() const { return ended() == sent_ && book_errors_ == 0 && contracts_broken_ == 0; }

std::string Ledger::Describe() const {
  std::string text = absl::StrCat(sent_, " sent = ");
  for (int i = 0; i < kOutcomes; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : " + ", ends_[i], " ", kNames[i]);
  }
  if (ended() != sent_) absl::StrAppend(&text, " + ", sent_ - ended(), " that never ended");
  if (book_errors_ > 0) absl::StrAppend(&text, "; ", book_errors_, " ended twice");
  if (contracts_broken_ > 0) {
    absl::StrAppend(&text, "; ", contracts_broken_, " broke the contract, first: ", first_broken_contract_);
  }
  return text;
}

nlohmann::json Ledger::ToJson() const {
  nlohmann::json json = {{"sent", sent_},
                         {"balanced", balanced()},
                         {"ended_twice", book_errors_},
                         {"contracts_broken", contracts_broken_},
                         {"causes", causes_}};
  for (int i = 0; i < kOutcomes; ++i) json[kNames[i]] = ends_[i];
  return json;
}

}  // namespace spillway::bench
