// The heart of byte-pair encoding: join the two neighbours whose pair comes first in rank, the leftmost of
// equals, until no pair is left that may be joined.
#ifndef SPILLWAY_ENGINE_TEXT_PAIR_MERGER_H_
#define SPILLWAY_ENGINE_TEXT_PAIR_MERGER_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "engine/text/vocabulary.h"

namespace spillway::text {

// What two neighbours become, and how soon.
struct PairMerge {
  static constexpr uint32_t kNever = std::numeric_limits<uint32_t>::max();
  uint32_t rank = kNever;  // smaller goes first
  TokenId merged = -1;
};

struct Symbol {
  TokenId token;   // negative: no token of its own (a character left to byte fallback)
  uint32_t begin;  // offset in the word
  uint32_t bytes;
};

// Scratch space for one Encode call, reused from word to word.
class PairMerger {
 public:
  std::vector<Symbol> symbols;  // in: the word's smallest parts; out: its tokens

  // `pair_merge(const Symbol& left, const Symbol& right)` returns a PairMerge.
  template <typename PairMergeFn>
  void Run(const PairMergeFn& pair_merge) {
    if (symbols.size() < 2) return;
    if (symbols.size() <= kScanSymbols) {
      RunByScanning(pair_merge);
    } else {
      RunByHeap(pair_merge);
    }
  }

 private:
  // Up to this length looking through all pairs is faster than keeping a heap.
  static constexpr size_t kScanSymbols = 48;

  template <typename PairMergeFn>
  void RunByScanning(const PairMergeFn& pair_merge) {
    merges_.resize(symbols.size() - 1);
    for (size_t i = 0; i + 1 < symbols.size(); ++i) merges_[i] = pair_merge(symbols[i], symbols[i + 1]);
    while (!merges_.empty()) {
      size_t best = 0;
      for (size_t i = 1; i < merges_.size(); ++i) {
        if (merges_[i].rank < merges_[best].rank) best = i;
      }
      if (merges_[best].rank == PairMerge::kNever) return;
      symbols[best].token = merges_[best].merged;
      symbols[best].bytes += symbols[best + 1].bytes;
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
      merges_.erase(merges_.begin() + static_cast<ptrdiff_t>(best));
      if (best > 0) merges_[best - 1] = pair_merge(symbols[best - 1], symbols[best]);
      if (best < merges_.size()) merges_[best] = pair_merge(symbols[best], symbols[best + 1]);
    }
  }

  // O(n log n): every join adds at most two entries. Entries whose pair has changed since are skipped.
  template <typename PairMergeFn>
  void RunByHeap(const PairMergeFn& pair_merge) {
    const int32_t n = static_cast<int32_t>(symbols.size());
    merges_.assign(n, PairMerge{});
    previous_.resize(n);
    next_.resize(n);
    heap_.clear();
    for (int32_t i = 0; i < n; ++i) {
      previous_[i] = i - 1;
      next_[i] = i + 1 < n ? i + 1 : -1;
      if (i + 1 < n) merges_[i] = pair_merge(symbols[i], symbols[i + 1]);
      if (merges_[i].rank != PairMerge::kNever) heap_.push_back(Entry(merges_[i].rank, i));
    }
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    const auto refresh = [&](int32_t left) {
      merges_[left] = next_[left] >= 0 ? pair_merge(symbols[left], symbols[next_[left]]) : PairMerge{};
      if (merges_[left].rank == PairMerge::kNever) return;
      heap_.push_back(Entry(merges_[left].rank, left));
      std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    };
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const uint64_t entry = heap_.back();
      heap_.pop_back();
      const int32_t left = static_cast<int32_t>(entry & 0xFFFFFFFFu);
      if (entry != Entry(merges_[left].rank, left)) continue;
      const int32_t right = next_[left];
      symbols[left].token = merges_[left].merged;
      symbols[left].bytes += symbols[right].bytes;
      merges_[right] = PairMerge{};
      next_[left] = next_[right];
      if (next_[left] >= 0) previous_[next_[left]] = left;
      refresh(left);
      if (previous_[left] >= 0) refresh(previous_[left]);
    }
    int32_t kept = 0;
    for (int32_t i = 0; i >= 0; i = next_[i]) symbols[kept++] = symbols[i];
    symbols.resize(kept);
  }

  static uint64_t Entry(uint32_t rank, int32_t left) {
    return (uint64_t{rank} << 32) | static_cast<uint32_t>(left);
  }

  std::vector<PairMerge> merges_;  // [symbol]: with its right neighbour
  std::vector<int32_t> previous_, next_;
  std::vector<uint64_t> heap_;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_PAIR_MERGER_H_
