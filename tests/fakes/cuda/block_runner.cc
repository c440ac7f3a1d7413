#include "tests/fakes/cuda/block_runner.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <source_location>
#include <utility>

#include "cuda_fake/device_code.h"
#include "cuda_fake/simt.h"
#include "tests/fakes/cuda/random.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace spillway::fakes::cuda {
namespace {

Block* running = nullptr;  // the block whose threads run; the runtime lets one run at a time

enum class State : uint8_t { kNew, kRunnable, kAtBarrier, kAtCollective, kAtEarlierKernels, kReturned };

constexpr size_t kCopyBytesMax = 16;
struct PendingCopy {
  void* shared;
  const void* global;
  size_t size_bytes;
  size_t valid_bytes;
  char early[kCopyBytesMax];  // what was read when it was issued, in blocks that read so
};

struct Thread {
  uint3 index;
  State state = State::kNew;
  std::source_location where;                    // of the barrier or collective that it waits at
  BarrierKind kind = BarrierKind::kPlain;        // kAtBarrier
  const char* operation = "";                    // kAtCollective
  uint32_t mask = 0;                             // kAtCollective
  uint8_t turn = 0;                              // which of `orders` the last __syncwarp released
  uint32_t turns_of_others = 0;                  // the same of those that met there, a bit each
  char orders[2] = {};                           // addresses for ThreadSanitizer
  bool waited = false;                           // for earlier kernels
  std::vector<PendingCopy> open_copies;          // issued, not committed
  std::vector<std::vector<PendingCopy>> copies;  // committed groups, oldest first
};

struct Warp {
  std::array<void*, kWarpThreads> arguments{};
  uint32_t waiting = 0;
  uint32_t returned = 0;
};

// In which order threads that may run do so; a block draws one.
enum class Order : uint8_t { kAny, kAscending, kDescending, kStayInWarp, kStarveWarp, kCount };

// A set of threads, with the next member found quickly from any place.
class ThreadSet {
 public:
  void Insert(unsigned thread) { words_[thread / 64] |= uint64_t{1} << (thread % 64); }
  void Erase(unsigned thread) { words_[thread / 64] &= ~(uint64_t{1} << (thread % 64)); }
  // The first member at or after `from`, else the first of all; -1: empty.
  int Next(unsigned from) const {
    const int found = FirstIn(from, kBlockThreadsMax);
    return found >= 0 ? found : FirstIn(0, from);
  }
  int Last() const {
    for (size_t word = words_.size(); word-- > 0;) {
      if (words_[word] != 0) return static_cast<int>(word * 64 + 63 - __builtin_clzll(words_[word]));
    }
    return -1;
  }

 private:
  int FirstIn(unsigned from, unsigned end) const {
    for (unsigned word = from / 64; word * 64 < end; ++word) {
      uint64_t bits = words_[word];
      if (word == from / 64) bits &= ~uint64_t{0} << (from % 64);
      if (bits == 0) continue;
      const unsigned found = word * 64 + static_cast<unsigned>(__builtin_ctzll(bits));
      return found < end ? static_cast<int>(found) : -1;
    }
    return -1;
  }

  std::array<uint64_t, kBlockThreadsMax / 64> words_{};
};

const char* NameOf(BarrierKind kind) {
  switch (kind) {
    case BarrierKind::kPlain:
      return "__syncthreads";
    case BarrierKind::kOr:
      return "__syncthreads_or";
    case BarrierKind::kAnd:
      return "__syncthreads_and";
    case BarrierKind::kCount:
      return "__syncthreads_count";
  }
  return "?";
}

std::string Hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

// "threads 0-31, 40" of ascending numbers.
std::string Ranges(const std::vector<unsigned>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (end - i > 1) text += "-" + std::to_string(numbers[end - 1]);
    i = end;
  }
  return (numbers.size() == 1 ? "thread " : "threads ") + text;
}

bool SamePlace(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

}  // namespace

class Block {
 public:
  Block(BlockRunner& runner, const LaunchGeometry& launch, uint3 index, const std::function<void()>& body,
        uint64_t seed)
      : runner_(runner), launch_(launch), index_(index), body_(body), random_(seed) {
    const unsigned n = launch.block.x * launch.block.y * launch.block.z;
    threads_.resize(n);
    warps_.resize((n + kWarpThreads - 1) / kWarpThreads);
    if (n % kWarpThreads != 0) warps_.back().returned = ~uint32_t{0} << (n % kWarpThreads);
    for (unsigned t = 0; t < n; ++t) {
      threads_[t].index = {t % launch.block.x, t / launch.block.x % launch.block.y,
                           t / launch.block.x / launch.block.y};
      runnable_.Insert(t);
    }
    if (launch.shared_bytes > 0) shared_ = runner.NewShared(launch.shared_bytes);
    order_ = static_cast<Order>(random_.Below(static_cast<uint32_t>(Order::kCount)));
    starved_ = random_.Below(static_cast<uint32_t>(warps_.size()));
    copies_read_early_ = random_.Below(2) == 0;
  }
  ~Block() {
    TsanAcquire(&end_);
    GiveUpFibers();
    runner_.FreeShared(shared_);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Runs until all threads have ended, one has failed or, with `early`, none can go on before earlier kernels
  // have ended.
  std::string Run(bool early) {
    early_ = early;
    Continue();
    return fault_;
  }

  // Earlier kernels have ended.
  std::string Finish() {
    early_ = false;
    TsanRelease(&earlier_kernels_);
    for (unsigned t = 0; t < threads_.size(); ++t) {
      if (threads_[t].state == State::kAtEarlierKernels) MayRun(t);
    }
    if (!fault_.empty() || n_returned_ == threads_.size()) return fault_;
    if (runnable_.Next(0) < 0) {
      SetStuck();
    } else {
      Continue();
    }
    return fault_;
  }

  void RunThread() {
    TsanAcquire(&runner_.begin_);
    TsanAcquire(runner_.enqueued_);
    threads_[current_].state = State::kRunnable;
    body_();
    Thread& me = threads_[current_];
    if (launch_.overlaps && !me.waited) {
      SetFault(Ranges({current_}) +
               " ended without having waited for earlier kernels, before whose end it was launched to begin");
      Abandon();
    }
    if (!me.open_copies.empty() || !me.copies.empty()) {
      SetFault(Ranges({current_}) + " returned with asynchronous copies that it never awaited");
      Abandon();
    }
    const unsigned lane = current_ % kWarpThreads;
    Warp& warp = warps_[current_ / kWarpThreads];
    for (unsigned l = 0; l < kWarpThreads; ++l) {
      const unsigned other = current_ - lane + l;
      if ((warp.waiting >> l & 1) != 0 && (threads_[other].mask >> lane & 1) != 0) {
        SetFault(Ranges({current_}) + " returned while " + Waiting(other) + ", whose mask names it");
        Abandon();
      }
    }
    me.state = State::kReturned;
    warp.returned |= uint32_t{1} << lane;
    ++n_returned_;
    SwitchAway();
  }

  void AtEarlierKernels() {
    if (!launch_.code_can_wait) return;
    Thread& me = threads_[current_];
    me.waited = true;
    if (!early_) return;
    me.state = State::kAtEarlierKernels;
    SwitchAway();
    TsanAcquire(&earlier_kernels_);
  }

  int AtBarrier(BarrierKind kind, int predicate, const std::source_location& where) {
    Thread& me = threads_[current_];
    me.state = State::kAtBarrier;
    me.kind = kind;
    me.where = where;
    if (n_at_barrier_ == 0) combined_ = kind == BarrierKind::kAnd ? 1 : 0;
    ++n_at_barrier_;
    switch (kind) {
      case BarrierKind::kPlain:
        break;
      case BarrierKind::kOr:
        combined_ |= predicate != 0 ? 1 : 0;
        break;
      case BarrierKind::kAnd:
        combined_ &= predicate != 0 ? 1 : 0;
        break;
      case BarrierKind::kCount:
        combined_ += predicate != 0 ? 1 : 0;
        break;
    }
    // Two in turn: who waits here is not to be ordered behind what the quick do before the next barrier.
    char* const order = &barriers_[n_barriers_ % 2];
    TsanRelease(order);
    if (n_at_barrier_ == threads_.size()) OpenBarrier();
    SwitchAway();
    TsanAcquire(order);
    return result_;
  }

  void AtCollective(const char* name, uint32_t mask, void* lane_argument, Combine combine,
                    const std::source_location& where) {
    const unsigned lane = current_ % kWarpThreads;
    const unsigned first = current_ - lane;
    Warp& warp = warps_[current_ / kWarpThreads];
    Thread& me = threads_[current_];
    if ((mask >> lane & 1) == 0) {
      SetFault(Ranges({current_}) + " (lane " + std::to_string(lane) + ") calls " + name + " at " +
               Describe(where) + " with mask " + Hex(mask) + ", which does not name it");
      Abandon();
    }
    if ((mask & warp.returned) != 0) {
      SetFault(
          Ranges({current_}) + " calls " + name + " at " + Describe(where) + " with mask " + Hex(mask) +
          ", but of these lanes some have returned or are none of the block's: " + Hex(mask & warp.returned));
      Abandon();
    }
    me.operation = name;
    me.mask = mask;
    me.where = where;
    me.state = State::kAtCollective;
    // Of all collectives __syncwarp alone orders memory.
    const bool orders = std::strcmp(name, "__syncwarp") == 0;
    if (orders) {
      me.turn ^= 1;
      TsanRelease(&me.orders[me.turn]);
    }
    warp.arguments[lane] = lane_argument;
    warp.waiting |= uint32_t{1} << lane;
    if ((warp.waiting & mask) == mask) {
      for (unsigned l = 0; l < kWarpThreads; ++l) {
        if ((mask >> l & 1) == 0) continue;
        const Thread& other = threads_[first + l];
        if (std::strcmp(other.operation, name) != 0 || other.mask != mask || !SamePlace(other.where, where)) {
          SetFault("lanes of one warp meet at different operations: " + Waiting(current_) + "; " +
                   Waiting(first + l));
          Abandon();
        }
      }
      combine(*reinterpret_cast<void* const(*)[kWarpThreads]>(warp.arguments.data()), mask);
      warp.waiting &= ~mask;
      uint32_t turns = 0;
      for (unsigned l = 0; l < kWarpThreads; ++l) {
        if ((mask >> l & 1) != 0) turns |= uint32_t{threads_[first + l].turn} << l;
      }
      for (unsigned l = 0; l < kWarpThreads; ++l) {
        if ((mask >> l & 1) == 0) continue;
        threads_[first + l].turns_of_others = turns;
        MayRun(first + l);
      }
    }
    SwitchAway();
    for (unsigned l = 0; orders && l < kWarpThreads; ++l) {
      if ((mask >> l & 1) != 0) TsanAcquire(&threads_[first + l].orders[me.turns_of_others >> l & 1]);
    }
  }

  void Yield() {
    if (random_.Below(4) != 0) return;
    MayRun(current_);
    // Any order but a random one could pick a waiting loop for ever.
    SwitchTo(PickAny());
  }

  // Says what is wrong; Abandon() follows. Two calls, because what lies on an abandoned stack is never
  // destroyed: the message must be gone by then.
  void SetFault(const std::string& message) {
    char place[64];
    std::snprintf(place, sizeof place, "block (%u, %u, %u): ", index_.x, index_.y, index_.z);
    fault_ = place + message;
  }
  [[noreturn]] void Abandon() {
    TsanRelease(&end_);
    FiberOf(current_).SwitchTo(runner_.host_);
    std::abort();  // nobody switches back
  }

  bool copies_read_early() const { return copies_read_early_; }
  Thread& me() { return threads_[current_]; }
  unsigned current() const { return current_; }
  const LaunchGeometry& launch() const { return launch_; }
  void* shared() const { return shared_; }

 private:
  // Lets one of the threads run that can, until one of them switches back.
  void Continue() {
    running = this;
    blockIdx = index_;
    blockDim = launch_.block;
    gridDim = launch_.grid;
    current_ = Pick();
    threadIdx = threads_[current_].index;
    runner_.host_.SwitchTo(FiberOf(current_));
    running = nullptr;
    // Not of a block that stands still: what earlier kernels do is not ordered behind it.
    if (!fault_.empty() || n_returned_ == threads_.size()) TsanAcquire(&end_);
  }

  // Threads in the middle of a kernel that failed, or is given up, cannot be ended: their fibers are given
  // up.
  void GiveUpFibers() {
    for (unsigned t = 0; t < threads_.size(); ++t) {
      const bool parked = threads_[t].state == State::kReturned || threads_[t].state == State::kNew;
      if (!parked || (!fault_.empty() && t == current_)) runner_.slots_[t]->fiber = nullptr;
    }
  }

  Fiber& FiberOf(unsigned thread) { return *runner_.slots_[thread]->fiber; }

  void MayRun(unsigned thread) {
    threads_[thread].state = State::kRunnable;
    runnable_.Insert(thread);
  }

  unsigned PickAny() {
    const int next = runnable_.Next(random_.Below(static_cast<uint32_t>(threads_.size())));
    runnable_.Erase(static_cast<unsigned>(next));
    return static_cast<unsigned>(next);
  }

  // The next thread to run, taken out of the runnable ones. REQUIRES: there is one.
  unsigned Pick() {
    const auto n = static_cast<uint32_t>(threads_.size());
    int next = -1;
    switch (order_) {
      case Order::kAscending:
        next = runnable_.Next(0);
        break;
      case Order::kDescending:
        next = runnable_.Last();
        break;
      case Order::kStayInWarp:
        next = runnable_.Next(current_ / kWarpThreads * kWarpThreads);
        break;
      case Order::kStarveWarp:
        // One warp runs only when no other can.
        next = runnable_.Next(random_.Below(n));
        if (static_cast<unsigned>(next) / kWarpThreads == starved_) {
          next = runnable_.Next(std::min((starved_ + 1) * kWarpThreads, n) % n);
        }
        break;
      default:
        next = runnable_.Next(random_.Below(n));
        break;
    }
    runnable_.Erase(static_cast<unsigned>(next));
    return static_cast<unsigned>(next);
  }

  // Lets another thread run; returns when this one may go on.
  void SwitchAway() {
    TsanRelease(&end_);  // of the block, should it be now
    if (runnable_.Next(0) >= 0) {
      SwitchTo(Pick());
    } else if (n_returned_ == threads_.size()) {
      FiberOf(current_).SwitchTo(runner_.host_);
    } else if (early_) {
      FiberOf(current_).SwitchTo(runner_.host_);  // until Finish; or stuck, which shows then
    } else {
      FailStuck();
    }
  }

  void SwitchTo(unsigned next) {
    const unsigned self = current_;
    if (next == self) return;
    current_ = next;
    threadIdx = threads_[next].index;
    FiberOf(self).SwitchTo(FiberOf(next));
  }

  void OpenBarrier() {
    for (const Thread& thread : threads_) {
      if (thread.kind != threads_[0].kind || !SamePlace(thread.where, threads_[0].where)) {
        SetFault("threads meet at different barriers: " + Situation());
        Abandon();
      }
    }
    n_at_barrier_ = 0;
    ++n_barriers_;
    result_ = combined_;
    for (unsigned t = 0; t < threads_.size(); ++t) MayRun(t);
  }

  void SetStuck() { SetFault("no thread can go on: " + Situation()); }
  [[noreturn]] void FailStuck() {
    SetStuck();
    Abandon();
  }

  std::string Waiting(unsigned thread) const {
    const Thread& t = threads_[thread];
    return Ranges({thread}) + " waits at " + t.operation + " at " + Describe(t.where) + " with mask " +
           Hex(t.mask);
  }

  // Who is where, threads of one place together.
  std::string Situation() const {
    std::map<std::string, std::vector<unsigned>> places;
    for (unsigned i = 0; i < threads_.size(); ++i) {
      const Thread& t = threads_[i];
      switch (t.state) {
        case State::kReturned:
          places["returned"].push_back(i);
          break;
        case State::kAtBarrier:
          places[std::string("at ") + NameOf(t.kind) + ", " + Describe(t.where)].push_back(i);
          break;
        case State::kAtCollective:
          places[std::string("at ") + t.operation + " with mask " + Hex(t.mask) + ", " + Describe(t.where)]
              .push_back(i);
          break;
        case State::kAtEarlierKernels:
          places["waiting for earlier kernels"].push_back(i);
          break;
        default:
          places["running"].push_back(i);
          break;
      }
    }
    std::string text;
    for (const auto& [place, members] : places) {
      text += (text.empty() ? "" : "; ") + Ranges(members) + " " + place;
    }
    return text;
  }

  BlockRunner& runner_;
  const LaunchGeometry& launch_;
  const uint3 index_;
  const std::function<void()>& body_;
  Random random_;
  bool copies_read_early_ = false;  // asynchronous copies: when they are issued, not when they are awaited
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  ThreadSet runnable_;
  unsigned current_ = 0;
  size_t n_returned_ = 0;
  size_t n_at_barrier_ = 0;
  size_t n_barriers_ = 0;  // that have opened
  int combined_ = 0;       // of the predicates that came to the barrier so far
  int result_ = 0;         // of the last barrier that opened
  Order order_ = Order::kAny;
  unsigned starved_ = 0;
  void* shared_ = nullptr;
  bool early_ = false;  // earlier kernels have not ended
  std::string fault_;
  char end_ = 0, barriers_[2] = {}, earlier_kernels_ = 0;  // addresses for ThreadSanitizer
};

BlockRunner::BlockRunner() = default;

void BlockRunner::StartKernel(void* enqueued) {
  enqueued_ = enqueued;
  TsanRelease(&begin_);
}

#ifdef SPILLWAY_SANITIZE_THREAD

constexpr size_t kArenaBytes = size_t{16} << 20;

BlockRunner::~BlockRunner() {
  if (arena_ != nullptr) munmap(arena_, kArenaBytes);
}

// Each block has memory of its own as long as there is some, and what the host does to it is not told: a
// block's threads are ordered behind the start of their kernel, not behind the blocks before.
void* BlockRunner::NewShared(size_t size_bytes) {
  const size_t rounded = (size_bytes + 15) / 16 * 16;
  if (arena_ == nullptr || arena_used_bytes_ + rounded > kArenaBytes) {
    if (arena_ == nullptr) {
      void* mapping = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (mapping == MAP_FAILED) std::abort();
      arena_ = static_cast<char*>(mapping);
    }
    arena_used_bytes_ = 0;
    TsanRelease(&begin_);  // the blocks that used it before have ended
  }
  void* const shared = arena_ + arena_used_bytes_;
  arena_used_bytes_ += rounded;
  void* destination = shared;
  size_t count = rounded;
  asm volatile("rep stosb" : "+D"(destination), "+c"(count) : "a"(0xff) : "memory");
  return shared;
}

void BlockRunner::FreeShared(void* /*shared*/) {}

#else

BlockRunner::~BlockRunner() = default;

void* BlockRunner::NewShared(size_t size_bytes) {
  void* shared = nullptr;
  if (posix_memalign(&shared, 16, size_bytes) != 0) std::abort();
  std::memset(shared, 0xff, size_bytes);  // NaN in every float format
  return shared;
}

void BlockRunner::FreeShared(void* shared) { std::free(shared); }

#endif

void BlockRunner::RunSlot(void* /*slot*/) {
  // A fiber serves one thread of a block after another.
  while (true) running->RunThread();
}

void BlockRunner::NewBlock(const LaunchGeometry& launch, uint3 block_index, const std::function<void()>& body,
                           uint64_t seed) {
  const unsigned n = launch.block.x * launch.block.y * launch.block.z;
  for (unsigned t = 0; t < n; ++t) {
    if (t == slots_.size()) slots_.push_back(std::make_unique<Slot>());
    if (slots_[t]->fiber == nullptr) slots_[t]->fiber = std::make_unique<Fiber>(&RunSlot, slots_[t].get());
  }
  // Not on the stack: what ThreadSanitizer knows of an address there would outlive the block.
  block_ = std::make_unique<Block>(*this, launch, block_index, body, seed);
}

std::string BlockRunner::Run(const LaunchGeometry& launch, uint3 block_index,
                             const std::function<void()>& body, uint64_t seed) {
  NewBlock(launch, block_index, body, seed);
  const std::string fault = block_->Run(/*early=*/false);
  block_.reset();
  return fault;
}

std::string BlockRunner::Begin(const LaunchGeometry& launch, uint3 block_index,
                               const std::function<void()>& body, uint64_t seed) {
  NewBlock(launch, block_index, body, seed);
  return block_->Run(/*early=*/true);
}

std::string BlockRunner::Finish() {
  const std::string fault = block_->Finish();
  block_.reset();
  return fault;
}

void BlockRunner::GiveUp() { block_.reset(); }

// ------------------------------------------------------------------------------- what device code sees of it

unsigned Lane() { return running->current() % kWarpThreads; }

int Barrier(BarrierKind kind, int predicate, const std::source_location& where) {
  return running->AtBarrier(kind, predicate, where);
}

void Collective(const char* name, uint32_t mask, void* lane, Combine combine,
                const std::source_location& where) {
  running->AtCollective(name, mask, lane, combine, where);
}

void GiveWay() { running->Yield(); }

void AwaitEarlierKernels() { running->AtEarlierKernels(); }

void* SharedMemory(size_t size_bytes) {
  if (size_bytes > running->launch().shared_bytes) {
    SetFault("the kernel uses " + std::to_string(size_bytes) + " bytes of shared memory, launched with " +
             std::to_string(running->launch().shared_bytes));
    EndKernel();
  }
  if (running->shared() == nullptr) {
    SetFault("the kernel uses shared memory, and was launched with none");
    EndKernel();
  }
  return running->shared();
}

bool IsShared(const void* pointer, size_t size_bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(running->shared());
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  const size_t total = running->launch().shared_bytes;
  return at >= begin && at - begin <= total && size_bytes <= total - (at - begin);
}

void IssueCopy(void* shared, const void* global, size_t size_bytes, size_t valid_bytes) {
  TsanWrite(shared, size_bytes);
  std::memset(shared, 0xff, size_bytes);
  PendingCopy copy{shared, global, size_bytes, valid_bytes, {}};
  if (running->copies_read_early() && valid_bytes > 0) {
    TsanRead(global, valid_bytes);
    std::memcpy(copy.early, global, valid_bytes);
  }
  running->me().open_copies.push_back(copy);
}

void CommitCopies() {
  Thread& me = running->me();
  me.copies.push_back(std::move(me.open_copies));
  me.open_copies.clear();
}

void AwaitCopies(size_t newest_groups_left) {
  Thread& me = running->me();
  while (me.copies.size() > newest_groups_left) {
    for (const PendingCopy& copy : me.copies.front()) {
      const bool early = running->copies_read_early();
      if (!early) TsanRead(copy.global, copy.valid_bytes);
      TsanWrite(copy.shared, copy.size_bytes);
      if (copy.valid_bytes > 0) std::memcpy(copy.shared, early ? copy.early : copy.global, copy.valid_bytes);
      std::memset(static_cast<char*>(copy.shared) + copy.valid_bytes, 0, copy.size_bytes - copy.valid_bytes);
    }
    me.copies.erase(me.copies.begin());
  }
}

void SetFault(const std::string& message) {
  running->SetFault("thread " + std::to_string(running->current()) + ": " + message);
}

void EndKernel() { running->Abandon(); }

std::string Describe(const std::source_location& where) {
  const char* name = std::strrchr(where.file_name(), '/');
  return std::string(name != nullptr ? name + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

}  // namespace spillway::fakes::cuda
