// The device suite on the CPU, with every instruction set that this machine has, and what is the CPU's own.
#include "engine/device/cpu/cpu_device.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "absl/strings/str_cat.h"
#include "engine/device/arithmetic/philox.h"
#include "engine/device/cpu/allocation_scope.h"
#include "tests/engine/device/device_suite.h"

namespace {

// Allocations of this process by C++ code, counted while wanted.
std::atomic<bool> g_counting{false};
std::atomic<int64_t> g_allocations{0};
std::atomic<int64_t> g_third_party_allocations{0};

void* CountedAllocate(size_t size, size_t alignment) {
  if (g_counting.load(std::memory_order_relaxed)) {
    (spillway::device::ThirdPartyAllocationScope::Active() ? g_third_party_allocations : g_allocations)
        .fetch_add(1, std::memory_order_relaxed);
  }
  void* memory = alignment <= alignof(std::max_align_t)
                     ? std::malloc(size == 0 ? 1 : size)
                     : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

// Not inlined: gcc would see free where it expects operator delete, and call that a mismatch.
[[gnu::noinline]] void Release(void* memory) noexcept { std::free(memory); }

}  // namespace

// Every form, so that none of a sanitizer's own is paired with one of these.
void* operator new(size_t size) { return CountedAllocate(size, 1); }
void* operator new[](size_t size) { return CountedAllocate(size, 1); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return CountedAllocate(size, 1); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return CountedAllocate(size, 1); }
void* operator new(size_t size, std::align_val_t a) { return CountedAllocate(size, static_cast<size_t>(a)); }
void* operator new[](size_t size, std::align_val_t a) {
  return CountedAllocate(size, static_cast<size_t>(a));
}
void operator delete(void* p) noexcept { Release(p); }
void operator delete[](void* p) noexcept { Release(p); }
void operator delete(void* p, size_t) noexcept { Release(p); }
void operator delete[](void* p, size_t) noexcept { Release(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { Release(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { Release(p); }
void operator delete(void* p, std::align_val_t) noexcept { Release(p); }
void operator delete[](void* p, std::align_val_t) noexcept { Release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { Release(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { Release(p); }

namespace spillway::device {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

DeviceCase CpuCase(const std::string& name, const CpuDeviceOptions& options) {
  return {name, [options](int64_t memory_bytes) {
            CpuDeviceOptions with_budget = options;
            with_budget.memory_bytes = memory_bytes;
            return CreateCpuDevice(with_budget);
          }};
}

// Every instruction set that this machine has, with our own products.
std::vector<DeviceCase> OwnCases() {
  const CpuIsa best = DetectCpuIsa();
  std::vector<DeviceCase> cases;
  CpuDeviceOptions options;
  options.onednn = false;
  options.dtype = DType::kF32;
  options.isa = CpuIsa::kBaseline;
  cases.push_back(CpuCase("sse4_f32", options));
  options.isa = CpuIsa::kAvx2;
  if (best >= CpuIsa::kAvx2) cases.push_back(CpuCase("avx2_f32", options));
  options.isa = CpuIsa::kAvx512;
  if (best >= CpuIsa::kAvx512) cases.push_back(CpuCase("avx512_f32", options));
  if (best < CpuIsa::kAvx512Bf16) return cases;
  options.isa = CpuIsa::kAvx512Bf16;
  options.dtype = DType::kBF16;
  cases.push_back(CpuCase("avx512_bf16", options));
  options.threads = 1;
  cases.push_back(CpuCase("avx512_bf16_one_thread", options));
  // Under OMP_NUM_THREADS=1 (ThreadSanitizer, which libgomp's teams confuse) nothing may start more threads.
  options.threads = 5;
  if (CreateCpuDevice({}).value()->info().threads > 1)
    cases.push_back(CpuCase("avx512_bf16_five_threads", options));
  return cases;
}

std::vector<DeviceCase> AllCases() {
  std::vector<DeviceCase> cases = OwnCases();
  CpuDeviceOptions options;
  options.onednn = true;
  options.dtype = DType::kF32;
  if (DetectCpuIsa() >= CpuIsa::kAvx512) cases.push_back(CpuCase("avx512_f32_onednn", options));
  options.dtype = DType::kBF16;
  if (DetectCpuIsa() >= CpuIsa::kAvx512Bf16) cases.push_back(CpuCase("avx512_bf16_onednn", options));
  return cases;
}

std::string CaseName(const testing::TestParamInfo<DeviceCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Cpu, DeviceSuite, testing::ValuesIn(AllCases()), CaseName);

// Properties of the CPU device beyond the contract.
class CpuDeviceTest : public DeviceSuite {};
INSTANTIATE_TEST_SUITE_P(Cpu, CpuDeviceTest, testing::ValuesIn(AllCases()), CaseName);

// What holds for our own kernels only.
class CpuKernelTest : public DeviceSuite {};
INSTANTIATE_TEST_SUITE_P(Cpu, CpuKernelTest, testing::ValuesIn(OwnCases()), CaseName);

TEST_P(CpuKernelTest, ProductRowsHaveTheSameBitsInEveryBatch) {
  const int64_t n = 192;
  const int64_t k = 1056;
  const PackedMatrix weight = UploadMatrix(Random(n * k, 0.1), n, k);
  ASSERT_TRUE(device_->WarmUp({weight}, {300}).ok());
  const std::vector<double> in = Random(300 * k);
  GemmArgs args;
  args.in = UploadT(in);
  args.out = Allocate(300 * n * 4);
  args.rows = 300;
  device_->Gemm(stream_, weight, args);
  const std::vector<uint8_t> all = Download(args.out, 300 * n * 4);
  for (int32_t rows : {1, 2, 5, 6, 7, 16, 63, 100}) {
    for (int64_t first : {0, 11, 200}) {
      GemmArgs some = args;
      some.rows = rows;
      some.in = args.in + first * k * SizeOf(type());
      some.out = Allocate(rows * n * 4);
      device_->Gemm(stream_, weight, some);
      EXPECT_EQ(Download(some.out, rows * n * 4),
                std::vector<uint8_t>(all.begin() + first * n * 4, all.begin() + (first + rows) * n * 4))
          << rows << " rows from " << first;
    }
  }
}

// One decode row per sequence, with contexts that are cut into several chunks of keys.
struct DecodeBatch {
  PartialAttentionArgs args;
  std::vector<AttentionSequence> sequences;
};

DecodeBatch MakeDecodeBatch(DeviceSuite& suite, const std::vector<int32_t>& contexts) {
  constexpr int32_t kHeads = 6;
  constexpr int32_t kKvHeads = 2;
  constexpr int32_t kDHead = 64;
  constexpr int32_t kBlockTokens = 32;
  DecodeBatch batch;
  std::vector<AttentionBlock> blocks;
  for (int32_t context : contexts) {
    const int32_t first_block = static_cast<int32_t>(blocks.size());
    const int32_t n_blocks = (context + kBlockTokens - 1) / kBlockTokens;
    for (int32_t b = 0; b < n_blocks; ++b) {
      blocks.push_back({2 * (first_block + b), 2 * (first_block + b) + 1});
    }
    batch.sequences.push_back(
        {static_cast<int32_t>(batch.sequences.size()), 1, context - 1, first_block, n_blocks, 0, context});
  }
  const int64_t slot_elements = kKvHeads * kBlockTokens * kDHead;
  PartialAttentionArgs& args = batch.args;
  args.n_sequences = args.rows = static_cast<int32_t>(contexts.size());
  args.n_heads = kHeads;
  args.n_kv_heads = kKvHeads;
  args.d_head = kDHead;
  args.block_tokens = kBlockTokens;
  args.q_stride = kHeads * kDHead;
  args.scale = 0.125F;
  args.q = suite.UploadT(suite.Random(args.rows * args.q_stride));
  args.sequences = suite.UploadArray(batch.sequences);
  args.blocks = suite.UploadArray(blocks);
  args.arena = {suite.UploadT(suite.Random(static_cast<int64_t>(2 * blocks.size()) * slot_elements)),
                slot_elements * SizeOf(suite.type())};
  args.acc = suite.Allocate(args.rows * kHeads * kDHead * 4);
  args.max = suite.Allocate(args.rows * kHeads * 4);
  args.sum = suite.Allocate(args.rows * kHeads * 4);
  return batch;
}

TEST_P(CpuDeviceTest, AttentionRowsHaveTheSameBitsInEveryBatchAndTeam) {
  // Alone a sequence's keys are split between threads; in the batch one thread takes them all.
  const std::vector<int32_t> contexts = {1500, 3, 700, 2100, 64, 256, 511, 512, 900, 30, 31, 1200};
  const DecodeBatch batch = MakeDecodeBatch(*this, contexts);
  device_->PartialAttention(stream_, batch.args);
  const int64_t row_bytes = int64_t{6} * 64 * 4;
  const std::vector<uint8_t> acc = Download(batch.args.acc, batch.args.rows * row_bytes);
  const std::vector<uint8_t> sum = Download(batch.args.sum, batch.args.rows * 6 * 4);
  for (size_t s = 0; s < contexts.size(); ++s) {
    PartialAttentionArgs alone = batch.args;
    AttentionSequence sequence = batch.sequences[s];
    sequence.first_row = 0;
    alone.n_sequences = alone.rows = 1;
    alone.sequences = UploadArray(std::vector<AttentionSequence>{sequence});
    alone.q = batch.args.q + static_cast<int64_t>(s) * batch.args.q_stride * SizeOf(type());
    device_->PartialAttention(stream_, alone);
    EXPECT_EQ(Download(alone.acc, row_bytes),
              std::vector<uint8_t>(acc.begin() + s * row_bytes, acc.begin() + (s + 1) * row_bytes))
        << "context " << contexts[s];
    EXPECT_EQ(Download(alone.sum, 6 * 4),
              std::vector<uint8_t>(sum.begin() + s * 24, sum.begin() + (s + 1) * 24));
  }
}

TEST_P(CpuDeviceTest, OperationsDoNotAllocate) {
  const int64_t d = 128;
  const PackedMatrix weight = UploadMatrix(Random(384 * d, 0.1), 384, d);
  const std::vector<int32_t> heights = {300};
  ASSERT_TRUE(device_->WarmUp({weight}, heights).ok());
  DecodeBatch batch = MakeDecodeBatch(*this, {1500, 3, 700, 2100, 64});

  EmbedArgs embed;
  embed.rows = 300;
  embed.d = static_cast<int32_t>(d);
  embed.table = UploadT(Random(4 * d));
  embed.ids = UploadArray(std::vector<int32_t>(300, 2));
  embed.hidden = Allocate(300 * d * 4);
  AddNormArgs norm;
  norm.rows = 300;
  norm.d = static_cast<int32_t>(d);
  norm.hidden = embed.hidden;
  norm.gain = UploadF32(Random(d));
  norm.out = Allocate(300 * d * 4);
  GemmArgs gemm;
  gemm.rows = 300;
  gemm.in = norm.out;
  gemm.out = Allocate(300 * 384 * 4);
  RopeAppendArgs rope;
  rope.rows = 300;
  rope.n_heads = rope.n_kv_heads = 2;
  rope.d_head = 64;
  rope.block_tokens = 32;
  rope.rope_dims = 64;
  rope.inverse_frequency = UploadF32(Random(32));
  rope.qkv = UploadT(Random(300 * 384));
  std::vector<AppendRow> append;  // a place for each row: threads write side by side
  for (int32_t r = 0; r < 300; ++r) append.push_back({r / 32 * 2, r / 32 * 2 + 1, -1, r % 32, 9});
  rope.append = UploadArray(append);
  rope.arena = batch.args.arena;
  MergeAttentionArgs merge;
  merge.rows = batch.args.rows;
  merge.n_heads = batch.args.n_heads;
  merge.d_head = batch.args.d_head;
  merge.acc = batch.args.acc;
  merge.max = batch.args.max;
  merge.sum = batch.args.sum;
  merge.out = Allocate(batch.args.rows * 6 * 64 * 4);
  GatedActivationArgs gate;
  gate.rows = 300;
  gate.d_ff = 192;
  gate.gate_up = rope.qkv;
  gate.out = Allocate(300 * 192 * 4);
  const int32_t vocab = 5000;
  std::vector<SampleRow> rows(8);
  std::vector<SampleResult> results(8);
  const std::vector<int32_t> history = {1, 2, 3};
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r] = SampleRow{};
    rows[r].temperature = r % 2 == 0 ? 0.0F : 1.0F;
    rows[r].top_k = r % 4 == 1 ? 50 : 0;
    rows[r].top_p = r < 4 ? 0.9F : 1.0F;
    rows[r].repetition_penalty = 1.1F;
    rows[r].history = history.data();
    rows[r].n_history = 3;
    rows[r].n_logprobs = 5;
  }
  SampleArgs sample;
  sample.rows = 8;
  sample.vocab = vocab;
  sample.logits = UploadF32(Random(8 * vocab));
  sample.sample = rows.data();
  sample.results = results.data();

  const auto step = [&] {
    device_->Embed(stream_, embed);
    device_->AddNorm(stream_, norm);
    for (int32_t height : {300, 70, 16, 1}) {
      gemm.rows = height;
      device_->Gemm(stream_, weight, gemm);
    }
    device_->RopeAppend(stream_, rope);
    device_->PartialAttention(stream_, batch.args);
    device_->MergeAttention(stream_, merge);
    device_->GatedActivation(stream_, gate);
    device_->Sample(stream_, sample);
    device_->Record(event_, stream_);
    device_->Wait(stream_, event_);
  };
  step();  // the team starts and the sampler sees its vocabulary
  g_allocations = g_third_party_allocations = 0;
  g_counting = true;
  for (int i = 0; i < 3; ++i) step();
  g_counting = false;
  EXPECT_EQ(g_allocations.load(), 0);
  // oneDNN's are seen, which shows that counting works, and are not ours.
  const bool onednn = GetParam().name.find("onednn") != std::string::npos;
  EXPECT_EQ(g_third_party_allocations.load() > 0, onednn);
}

TEST_P(CpuDeviceTest, PackedEncodingsAreRefusedWithTheWayOut) {
  const TensorView view{"blk.0.attn_q.weight", Encoding::kQ4_K, {64, 256}, nullptr, 64 * 144};
  const auto plan = device_->PlanMatrix({view}, WeightMode::kPacked);
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("blk.0.attn_q.weight"));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("--weights=expanded"));
  const auto expanded = device_->PlanMatrix({view}, WeightMode::kExpanded);
  const auto settled = device_->PlanMatrix({view}, WeightMode::kAuto);
  ASSERT_TRUE(expanded.ok() && settled.ok());
  EXPECT_EQ(settled->encoding, expanded->encoding);
  EXPECT_EQ(settled->size_bytes, expanded->size_bytes);
}

TEST_P(CpuDeviceTest, SaysWhatItIs) {
  const DeviceInfo& info = device_->info();
  EXPECT_EQ(info.kind, "cpu");
  EXPECT_TRUE(info.host_addressable);
  EXPECT_FALSE(info.emulated_link);
  EXPECT_GE(info.threads, 1);
  EXPECT_GT(info.memory_bytes, 0);
  EXPECT_THAT(info.name, HasSubstr(info.isa));
  EXPECT_THAT(GetParam().name, HasSubstr(info.isa == "x86-64-v2" ? "sse4" : info.isa));
}

TEST(CpuDevice, RefusesWhatTheProcessorLacks) {
  CpuDeviceOptions options;
  options.dtype = DType::kF16;
  EXPECT_EQ(CreateCpuDevice(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.dtype = DType::kBF16;
  options.isa = CpuIsa::kBaseline;
  EXPECT_THAT(std::string(CreateCpuDevice(options).status().message()), HasSubstr("bf16"));
  options = {};
  options.threads = -1;
  EXPECT_EQ(CreateCpuDevice(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = {};
  options.isa = CpuIsa::kBaseline;
  options.onednn = true;
  EXPECT_THAT(std::string(CreateCpuDevice(options).status().message()), HasSubstr("oneDNN"));
  options = {};
  if (DetectCpuIsa() < CpuIsa::kAvx512Bf16) {
    options.isa = CpuIsa::kAvx512Bf16;
    EXPECT_THAT(std::string(CreateCpuDevice(options).status().message()), HasSubstr("avx512_bf16"));
  }
}

TEST(Philox, GivesThePublishedVectors) {
  // Known answers of the authors' Random123 library, philox4x32 with 10 rounds.
  const auto words = [](PhiloxCounter counter, uint32_t key0, uint32_t key1) {
    const PhiloxCounter random = Philox4x32(counter, key0, key1);
    return std::vector<uint32_t>(random.word, random.word + 4);
  };
  EXPECT_THAT(words({{0, 0, 0, 0}}, 0, 0), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(words({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(words({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

}  // namespace
}  // namespace spillway::device
