// The step loop allocates nothing. This binary replaces malloc and its kin, so that every allocation of every
// library and thread is seen; those that oneDNN makes of itself in each execution are marked by
// ThirdPartyAllocationScope, counted apart and printed. Not built with sanitizers, which own malloc.
#include <execinfo.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "engine/device/cpu/allocation_scope.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/fakes/gguf_writer.h"

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
}

namespace spillway::exec {
namespace {

std::atomic<bool> counting{false};
std::atomic<int64_t> own_allocations{0};
std::atomic<int64_t> third_party_allocations{0};
std::atomic<int64_t> largest_bytes{0};

// Who made the first allocation of our own: without it, one that comes once in a thousand runs stays unknown.
void* first_callers[32];
int n_first_callers = 0;

void Count(size_t size) {
  if (!counting.load(std::memory_order_relaxed)) return;
  if (device::ThirdPartyAllocationScope::Active()) {
    third_party_allocations.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  static thread_local bool asking = false;
  if (asking) return;
  if (own_allocations.fetch_add(1, std::memory_order_relaxed) == 0) {
    asking = true;
    n_first_callers = backtrace(first_callers, static_cast<int>(std::size(first_callers)));
    asking = false;
  }
  if (static_cast<int64_t>(size) > largest_bytes.load()) largest_bytes.store(static_cast<int64_t>(size));
}

}  // namespace
}  // namespace spillway::exec

extern "C" {
void* malloc(size_t size) {
  spillway::exec::Count(size);
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  spillway::exec::Count(count * size);
  return __libc_calloc(count, size);
}
void* realloc(void* memory, size_t size) {
  spillway::exec::Count(size);
  return __libc_realloc(memory, size);
}
void* memalign(size_t alignment, size_t size) {
  spillway::exec::Count(size);
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  spillway::exec::Count(size);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** memory, size_t alignment, size_t size) {
  spillway::exec::Count(size);
  *memory = __libc_memalign(alignment, size);
  return *memory == nullptr ? ENOMEM : 0;
}
}

namespace spillway::exec {
namespace {

// Counts from construction to Stop.
class AllocationCount {
 public:
  AllocationCount() {
    n_first_callers = backtrace(first_callers, 1);  // loads what it needs, once
    own_allocations = third_party_allocations = largest_bytes = 0;
    counting = true;
  }
  ~AllocationCount() { counting = false; }
  void Stop() { counting = false; }
  int64_t own() const { return own_allocations; }
  int64_t third_party() const { return third_party_allocations; }
  int64_t largest() const { return largest_bytes; }
  // For the message of a failed expectation: the size, and where the first one was made (addr2line).
  std::string Describe() const {
    std::string text = "largest: " + std::to_string(largest_bytes) + " bytes; the first one by\n";
    char** const names = backtrace_symbols(first_callers, n_first_callers);
    for (int i = 0; names != nullptr && i < n_first_callers; ++i) text += std::string(names[i]) + "\n";
    free(names);
    return text;
  }
};

class AllocationTest : public ::testing::TestWithParam<device::DType> {
 protected:
  void SetUp() override {
    const std::string path = ::testing::TempDir() + std::to_string(getpid()) + "_allocation_test.gguf";
    ASSERT_TRUE(fakes::WriteTinyLlama(path, {}).ok());
    TinyEngineOptions options;
    options.dtype = GetParam();
    options.chunk_rows = 64;
    engine_ = std::make_unique<TinyEngine>(path, options);
  }

  std::unique_ptr<TinyEngine> engine_;
};

INSTANTIATE_TEST_SUITE_P(DTypes, AllocationTest, ::testing::Values(device::DType::kF32, device::DType::kBF16),
                         [](const ::testing::TestParamInfo<device::DType>& test) {
                           return device::NameOf(test.param);
                         });

TEST_P(AllocationTest, TheCounterSeesNewMallocAndVectors) {
  AllocationCount count;
  void* memory = ::operator new(100);
  void* other = malloc(200);
  std::vector<int> vector(300);
  count.Stop();
  EXPECT_EQ(count.own(), 3);
  EXPECT_EQ(count.largest(), 1200);
  ::operator delete(memory);
  free(other);
}

TEST_P(AllocationTest, StepsOfPrefillDecodeAndSamplingAllocateNothing) {
  constexpr size_t kSequences = 9;
  constexpr int32_t kPrompt = 37;
  constexpr int32_t kSteps = 20;
  const std::unique_ptr<WorkItem> prefill = engine_->NewItem(512);
  const std::unique_ptr<WorkItem> decode = engine_->NewItem(16);
  std::vector<Sequence> sequences(kSequences);
  for (size_t i = 0; i < kSequences; ++i) {
    sequences[i].tokens = RandomTokens(static_cast<uint32_t>(i), kPrompt + kSteps, 320);
    engine_->Cover(sequences[i]);
    sequences[i].blocks.reserve(16);
  }
  std::vector<Segment> segments;
  segments.reserve(kSequences);
  std::vector<int32_t> history(kPrompt);
  absl::Status status;

  AllocationCount count;
  for (Sequence& sequence : sequences) segments.push_back(engine_->Next(sequence, kPrompt, Output::kSample));
  engine_->Run(*prefill, segments);
  for (int32_t step = 0; step < kSteps; ++step) {
    segments.clear();
    // Batches of every size, and all that sampling has.
    for (size_t i = 0; i < 1 + static_cast<size_t>(step) % kSequences; ++i) {
      Segment segment = engine_->Next(sequences[i], 1, Output::kSample);
      segment.sample.temperature = i % 2 == 0 ? 0.0F : 0.8F;
      segment.sample.top_k = i % 3 == 0 ? 0 : 40;
      segment.sample.top_p = 0.9F;
      segment.sample.min_p = i % 4 == 0 ? 0.05F : 0.0F;
      segment.sample.repetition_penalty = 1.1F;
      segment.sample.history = history.data();
      segment.sample.n_prompt = kPrompt / 2;
      segment.sample.n_history = kPrompt;
      segment.sample.n_logprobs = static_cast<int32_t>(i);
      segment.sample.seed = i;
      segments.push_back(segment);
    }
    engine_->Run(*decode, segments, Phase::kDecode);
  }
  count.Stop();
  std::cout << "allocations of oneDNN itself: " << count.third_party() << " in " << 1 + kSteps << " steps\n";
  EXPECT_EQ(count.own(), 0) << count.Describe();
}

TEST_P(AllocationTest, BlocksComeAndGoWithoutAllocating) {
  kv::BlockStore& store = engine_->store();
  kv::BlockHasher hasher(16);
  const std::vector<text::TokenId> tokens = RandomTokens(1, 16, 320);
  const int64_t n_blocks = store.Counts().total_blocks;
  AllocationCount count;
  kv::BlockHash hash = hasher.RootHash({}, {});
  for (int64_t i = 0; i < 3 * n_blocks; ++i) {  // evicts, too
    hash = hasher.ChainHash(hash, tokens);
    const kv::BlockId block = store.Allocate();
    store.Publish(block, hash);
    store.Unref(block);
    store.Unref(store.Find(hash));
  }
  store.DropCached();
  count.Stop();
  EXPECT_EQ(count.own(), 0) << count.Describe();
}

// Behind a link: blocks are stored, evicted, carried in both forms and resident; weights are on the device,
// or come layer by layer.
class LinkAllocationTest : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(Weights, LinkAllocationTest, ::testing::Bool(),
                         [](const ::testing::TestParamInfo<bool>& test) {
                           return test.param ? "streamed" : "resident";
                         });

TEST_P(LinkAllocationTest, StepsAllocateNothing) {
  constexpr size_t kSequences = 4;
  constexpr int32_t kPrompt = 60;
  constexpr int32_t kSteps = 20;
  const std::string path = ::testing::TempDir() + std::to_string(getpid()) + "_link_allocation_test.gguf";
  fakes::TinyLlamaOptions model;
  model.n_kv_heads = model.n_heads;
  model.n_layers = 3;  // two would stay in the slots
  ASSERT_TRUE(fakes::WriteTinyLlama(path, model).ok());
  TinyEngineOptions options;
  options.chunk_rows = 64;
  options.max_item_rows = 64;
  options.max_item_segments = 8;
  options.link.emplace();
  options.link->form = kv::Form::kBoth;
  options.link->resident_blocks_max = 3;
  options.link->stream_weights = GetParam();
  TinyEngine engine(path, options);
  const std::unique_ptr<WorkItem> prefill = engine.NewItem(64);
  const std::unique_ptr<WorkItem> decode = engine.NewItem(8);
  std::vector<Sequence> sequences(kSequences);
  for (size_t i = 0; i < kSequences; ++i) {
    sequences[i].tokens = RandomTokens(static_cast<uint32_t>(i), kPrompt + kSteps, 320);
    engine.Cover(sequences[i]);
  }
  std::vector<Segment> segments;
  segments.reserve(kSequences);
  int64_t carried_tokens = 0;
  int64_t weight_bytes = 0;

  AllocationCount count;
  for (Sequence& sequence : sequences) {
    segments.assign(1, engine.Next(sequence, kPrompt, Output::kNone));
    engine.Run(*prefill, segments);
  }
  for (int32_t step = 0; step < kSteps; ++step) {
    engine.CarryAsX(step % 3 * 0.5);
    segments.clear();
    for (size_t i = 0; i < 1 + static_cast<size_t>(step) % kSequences; ++i) {
      segments.push_back(engine.Next(sequences[i], 1, Output::kSample));
      segments.back().sample = GreedyRow(sequences[i].n_cached);
    }
    const StepStats stats = engine.Run(*decode, segments, Phase::kDecode).stats;
    carried_tokens += stats.tokens.carried_kv_tokens + stats.tokens.carried_x_tokens;
    weight_bytes += stats.lanes[static_cast<size_t>(Lane::kWeightLoad)].bytes;
  }
  count.Stop();
  EXPECT_GT(carried_tokens, 0);
  EXPECT_EQ(weight_bytes > 0, GetParam());
  EXPECT_EQ(count.own(), 0) << "largest: " << count.largest() << " bytes";
}

}  // namespace
}  // namespace spillway::exec
