// device_bench: the CPU device's operations by themselves, each beside what bounds it: memory's read
// bandwidth, oneDNN's own rate on the same shapes.
//
//   device_bench [--threads=N] [--dtype=bf16|f32] [--only=products|attention|rows|sampling] [--json=FILE]
//
// Weights and caches are read from memory: each call takes the next of many copies that together exceed the
// caches.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/clock.h"
#include "bench/machine_bounds.h"
#include "engine/device/cpu/cpu_device.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {
namespace {

using device::DevicePtr;

// More than the last-level caches of the machines this runs on.
constexpr int64_t kColdBytes = int64_t{192} << 20;

template <typename S>
S* Host(DevicePtr ptr) {
  return reinterpret_cast<S*>(ptr.address);
}

// The shortest of many short runs' mean seconds a call: others' work on the machine only ever adds.
double SecondsPerCall(const std::function<void()>& call) {
  constexpr int kRuns = 60;
  constexpr int64_t kRunNs = 2'000'000;
  call();
  double best = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    int64_t calls = 0;
    int64_t elapsed = 0;
    const MonotonicNs begin = Clock::Real().NowNs();
    do {
      call();
      ++calls;
      elapsed = Clock::Real().NowNs() - begin;
    } while (elapsed < kRunNs);
    best = std::min(best, ToSeconds(elapsed) / static_cast<double>(calls));
  }
  return best;
}

class DeviceBench {
 public:
  explicit DeviceBench(std::unique_ptr<device::Device> device)
      : device_(std::move(device)), stream_(device_->CreateStream("bench")) {
    const device::DeviceInfo& info = device_->info();
    read_bytes_per_s_ = ReadMeter(info.threads, kColdBytes).Measure(/*passes=*/5);
    absl::PrintF("%s, %s; memory is read at %.1f GB/s\n", info.name, device::NameOf(info.compute_dtype),
                 read_bytes_per_s_ / 1e9);
    json_ = {{"schema_version", 1},
             {"device", info.name},
             {"isa", info.isa},
             {"threads", info.threads},
             {"dtype", device::NameOf(info.compute_dtype)},
             {"read_gb_per_s", read_bytes_per_s_ / 1e9}};
  }

  void Products();
  void Attention();
  void Rows();
  void Sampling();
  const nlohmann::json& json() const { return json_; }

 private:
  device::DType type() const { return device_->info().compute_dtype; }
  int64_t element_bytes() const { return device::SizeOf(type()); }
  DevicePtr Allocate(int64_t size_bytes) {
    auto memory = device_->Allocate(size_bytes, "the benchmark");
    SPILLWAY_CHECK_MSG(memory.ok(), "out of memory");
    return *memory;
  }
  // Values of T that no operation turns into denormals, infinities or NaN.
  DevicePtr Random(int64_t n);
  void DecodeAttention(int32_t n_heads, int32_t n_kv_heads, int32_t d_head, int32_t sequences,
                       int32_t context);
  void PrefillAttention(int32_t n_heads, int32_t n_kv_heads, int32_t d_head, int32_t rows, int32_t context);
  device::PartialAttentionArgs AttentionArgs(int32_t n_heads, int32_t n_kv_heads, int32_t d_head,
                                             int32_t sequences, int32_t rows_each, int32_t context,
                                             int64_t* arena_bytes);

  std::unique_ptr<device::Device> device_;
  device::StreamId stream_;
  std::mt19937 random_{1};
  double read_bytes_per_s_ = 0;
  nlohmann::json json_;
};

DevicePtr DeviceBench::Random(int64_t n) {
  const DevicePtr memory = Allocate(n * element_bytes());
  for (int64_t i = 0; i < n; ++i) {
    // +-[2^-3, 2^-2), by its bits.
    const auto word = static_cast<uint32_t>(random_());
    if (type() == device::DType::kF32) {
      Host<uint32_t>(memory)[i] = (word & 0x807fffffU) | 0x3e000000U;
    } else {
      Host<uint16_t>(memory)[i] = static_cast<uint16_t>((word & 0x807fU) | 0x3e00U);
    }
  }
  return memory;
}

void DeviceBench::Products() {
  struct Shape {
    const char* name;
    int64_t k;
    int64_t n;
  };
  // Of the demo model (135M): q|k|v, attention output, gate|up, down, head.
  const Shape shapes[] = {
      {"qkv", 576, 960}, {"o", 576, 576}, {"gate_up", 576, 3072}, {"down", 1536, 576}, {"head", 576, 49152}};
  absl::PrintF("\n%-8s %5s %6s %5s %10s %8s %6s %9s %9s %6s\n", "product", "k", "n", "rows", "us", "GB/s",
               "read%", "GFLOP/s", "oneDNN", "ratio");
  for (const Shape& shape : shapes) {
    device::TensorView view{shape.name, device::Encoding::kF32, {shape.n, shape.k}, nullptr, 0};
    device::PackedMatrix matrix = device_->PlanMatrix({view}, device::WeightMode::kExpanded).value();
    const int64_t copies = std::max<int64_t>(1, kColdBytes / matrix.size_bytes);
    // Packed weights have no padding at these shapes: any values will do.
    const DevicePtr weights = Random(copies * matrix.size_bytes / element_bytes());
    for (int32_t rows : {1, 2, 4, 8, 16, 64, 128, 256}) {
      const absl::Status warm = device_->WarmUp({matrix}, {rows});
      SPILLWAY_CHECK(warm.ok());
      device::GemmArgs args;
      args.rows = rows;
      args.in = Random(rows * shape.k);
      args.out = Allocate(rows * shape.n * 4);
      int64_t call = 0;
      const double seconds = SecondsPerCall([&] {
        matrix.data = weights + call++ % copies * matrix.size_bytes;
        device_->Gemm(stream_, matrix, args);
      });
      const double flop = 2.0 * static_cast<double>(rows * shape.n * shape.k);
      const double bytes = static_cast<double>(matrix.size_bytes);
      const auto onednn =
          GemmMeter::Create(device_->info().threads, type(), rows, {{shape.n, shape.k, copies}}, kColdBytes);
      const double onednn_flops = onednn.ok() ? (*onednn)->Measure(5).value_or(0) : 0;
      absl::PrintF("%-8s %5d %6d %5d %10.1f %8.1f %5.0f%% %9.1f %9.1f %6.2f\n", shape.name, shape.k, shape.n,
                   rows, seconds * 1e6, bytes / seconds / 1e9, 100 * bytes / seconds / read_bytes_per_s_,
                   flop / seconds / 1e9, onednn_flops / 1e9,
                   onednn_flops > 0 ? flop / seconds / onednn_flops : 0.0);
      json_["products"].push_back({{"name", shape.name},
                                   {"k", shape.k},
                                   {"n", shape.n},
                                   {"rows", rows},
                                   {"us", seconds * 1e6},
                                   {"gb_per_s", bytes / seconds / 1e9},
                                   {"gflop_per_s", flop / seconds / 1e9},
                                   {"onednn_gflop_per_s", onednn_flops / 1e9}});
      device_->Free(args.in);
      device_->Free(args.out);
    }
    device_->Free(weights);
  }
}

device::PartialAttentionArgs DeviceBench::AttentionArgs(int32_t n_heads, int32_t n_kv_heads, int32_t d_head,
                                                        int32_t sequences, int32_t rows_each, int32_t context,
                                                        int64_t* arena_bytes) {
  constexpr int32_t kBlockTokens = 32;
  device::PartialAttentionArgs args;
  args.n_sequences = sequences;
  args.rows = sequences * rows_each;
  args.n_heads = n_heads;
  args.n_kv_heads = n_kv_heads;
  args.d_head = d_head;
  args.block_tokens = kBlockTokens;
  args.q_stride = n_heads * d_head;
  args.scale = 1 / std::sqrt(static_cast<float>(d_head));
  args.q = Random(int64_t{args.rows} * args.q_stride);
  const int32_t blocks_each = (context + kBlockTokens - 1) / kBlockTokens;
  const int32_t n_blocks = blocks_each * sequences;
  args.sequences = Allocate(sequences * int64_t{sizeof(device::AttentionSequence)});
  args.blocks = Allocate(n_blocks * int64_t{sizeof(device::AttentionBlock)});
  for (int32_t s = 0; s < sequences; ++s) {
    Host<device::AttentionSequence>(args.sequences)[s] = {
        s * rows_each, rows_each, context - rows_each, s * blocks_each, blocks_each, 0, context};
  }
  std::vector<int32_t> slots(static_cast<size_t>(2 * n_blocks));
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int32_t>(i);
  std::shuffle(slots.begin(), slots.end(), random_);
  for (int32_t b = 0; b < n_blocks; ++b) {
    Host<device::AttentionBlock>(args.blocks)[b] = {slots[static_cast<size_t>(2 * b)],
                                                    slots[static_cast<size_t>(2 * b + 1)]};
  }
  args.arena.slot_bytes = int64_t{n_kv_heads} * kBlockTokens * d_head * element_bytes();
  *arena_bytes = 2 * n_blocks * args.arena.slot_bytes;
  args.acc = Allocate(int64_t{args.rows} * n_heads * d_head * 4);
  args.max = Allocate(int64_t{args.rows} * n_heads * 4);
  args.sum = Allocate(int64_t{args.rows} * n_heads * 4);
  return args;
}

void DeviceBench::DecodeAttention(int32_t n_heads, int32_t n_kv_heads, int32_t d_head, int32_t sequences,
                                  int32_t context) {
  int64_t arena_bytes = 0;
  device::PartialAttentionArgs args =
      AttentionArgs(n_heads, n_kv_heads, d_head, sequences, 1, context, &arena_bytes);
  const int64_t copies = std::max<int64_t>(1, kColdBytes / arena_bytes);
  const DevicePtr arenas = Random(copies * arena_bytes / element_bytes());
  int64_t call = 0;
  const double seconds = SecondsPerCall([&] {
    args.arena.base = arenas + call++ % copies * arena_bytes;
    device_->PartialAttention(stream_, args);
  });
  const double rate = static_cast<double>(arena_bytes) / seconds;
  absl::PrintF("decode   heads %2d/%d of %3d, %3d x %5d tokens: %9.1f us %6.1f GB/s %4.0f%% of read\n",
               n_heads, n_kv_heads, d_head, sequences, context, seconds * 1e6, rate / 1e9,
               100 * rate / read_bytes_per_s_);
  json_["decode_attention"].push_back({{"n_heads", n_heads},
                                       {"n_kv_heads", n_kv_heads},
                                       {"d_head", d_head},
                                       {"sequences", sequences},
                                       {"context_tokens", context},
                                       {"us", seconds * 1e6},
                                       {"gb_per_s", rate / 1e9}});
  for (DevicePtr ptr : {arenas, args.q, args.sequences, args.blocks, args.acc, args.max, args.sum})
    device_->Free(ptr);
}

void DeviceBench::PrefillAttention(int32_t n_heads, int32_t n_kv_heads, int32_t d_head, int32_t rows,
                                   int32_t context) {
  int64_t arena_bytes = 0;
  device::PartialAttentionArgs args =
      AttentionArgs(n_heads, n_kv_heads, d_head, 1, rows, context, &arena_bytes);
  args.arena.base = Random(arena_bytes / element_bytes());
  const double seconds = SecondsPerCall([&] { device_->PartialAttention(stream_, args); });
  // Two products of d_head for every visible key of every row and head.
  const double pairs = static_cast<double>(rows) * (context - rows + (rows + 1) / 2.0);
  const double rate = 4.0 * n_heads * d_head * pairs / seconds;
  absl::PrintF("prefill  heads %2d/%d of %3d, %4d rows of %5d tokens: %9.1f us %6.1f GFLOP/s\n", n_heads,
               n_kv_heads, d_head, rows, context, seconds * 1e6, rate / 1e9);
  json_["prefill_attention"].push_back({{"n_heads", n_heads},
                                        {"n_kv_heads", n_kv_heads},
                                        {"d_head", d_head},
                                        {"rows", rows},
                                        {"context_tokens", context},
                                        {"us", seconds * 1e6},
                                        {"gflop_per_s", rate / 1e9}});
  for (DevicePtr ptr : {args.arena.base, args.q, args.sequences, args.blocks, args.acc, args.max, args.sum}) {
    device_->Free(ptr);
  }
}

void DeviceBench::Attention() {
  absl::PrintF("\n");
  for (int32_t sequences : {1, 16}) {
    for (int32_t context : {128, 1024, 8192}) {
      DecodeAttention(9, 3, 64, sequences, context);
      DecodeAttention(8, 8, 64, sequences, context);
      DecodeAttention(32, 4, 128, sequences, context);
    }
  }
  for (int32_t context : {256, 2048}) {
    PrefillAttention(9, 3, 64, 256, context);
    PrefillAttention(32, 8, 128, 256, context);
  }
}

void DeviceBench::Rows() {
  absl::PrintF("\n");
  constexpr int32_t kD = 576;
  constexpr int32_t kDff = 1536;
  constexpr int32_t kHeads = 9;
  constexpr int32_t kKvHeads = 3;
  constexpr int32_t kDHead = 64;
  for (int32_t rows : {1, 16, 256}) {
    const auto report = [&](const char* name, const std::function<void()>& call) {
      const double seconds = SecondsPerCall(call);
      absl::PrintF("%-16s %4d rows: %8.2f us\n", name, rows, seconds * 1e6);
      json_["rows"].push_back({{"name", name}, {"rows", rows}, {"us", seconds * 1e6}});
    };
    device::AddNormArgs norm;
    norm.rows = rows;
    norm.d = kD;
    norm.hidden = Allocate(rows * kD * 4);
    std::fill_n(Host<float>(norm.hidden), rows * kD, 0.5F);
    norm.addend = Random(rows * kD);
    norm.gain = Allocate(kD * 4);
    std::fill_n(Host<float>(norm.gain), kD, 1.0F);
    norm.out = Allocate(rows * kD * 4);
    report("add_norm", [&] { device_->AddNorm(stream_, norm); });

    device::GatedActivationArgs gate;
    gate.rows = rows;
    gate.d_ff = kDff;
    gate.gate_up = Random(2 * rows * kDff);
    gate.out = Allocate(rows * kDff * 4);
    report("gated_activation", [&] { device_->GatedActivation(stream_, gate); });

    device::RopeAppendArgs rope;
    rope.rows = rows;
    rope.n_heads = kHeads;
    rope.n_kv_heads = kKvHeads;
    rope.d_head = kDHead;
    rope.block_tokens = 256;
    rope.rope_dims = kDHead;
    rope.inverse_frequency = Allocate(kDHead * 4);
    std::fill_n(Host<float>(rope.inverse_frequency), kDHead / 2, 0.1F);
    rope.qkv = Random(rows * (kHeads + 2 * kKvHeads) * kDHead);
    rope.append = Allocate(rows * int64_t{sizeof(device::AppendRow)});
    for (int32_t r = 0; r < rows; ++r) Host<device::AppendRow>(rope.append)[r] = {0, 1, -1, r, 1000 + r};
    rope.arena = {Random(2 * kKvHeads * 256 * kDHead), kKvHeads * 256 * kDHead * element_bytes()};
    report("rope_append", [&] { device_->RopeAppend(stream_, rope); });
    for (DevicePtr ptr : {norm.hidden, norm.addend, norm.gain, norm.out, gate.gate_up, gate.out,
                          rope.inverse_frequency, rope.qkv, rope.append, rope.arena.base}) {
      device_->Free(ptr);
    }
  }
}

void DeviceBench::Sampling() {
  absl::PrintF("\n");
  device::SampleRow plain{};
  plain.temperature = 1;
  plain.top_p = 1;
  plain.repetition_penalty = 1;
  plain.n_logprobs = -1;
  std::vector<std::pair<const char*, device::SampleRow>> cases(7, {"unfiltered", plain});
  cases[1].first = "greedy";
  cases[1].second.temperature = 0;
  cases[2].first = "top_k 50";
  cases[2].second.top_k = 50;
  cases[3].first = "top_p 0.9";
  cases[3].second.top_p = 0.9F;
  cases[4].first = "top_k 50 top_p 0.9 min_p 0.05";
  cases[4].second.top_k = 50;
  cases[4].second.top_p = 0.9F;
  cases[4].second.min_p = 0.05F;
  std::vector<int32_t> history(1000);
  for (size_t i = 0; i < history.size(); ++i) history[i] = static_cast<int32_t>(i * 31);
  cases[5] = cases[4];
  cases[5].first = "the same, penalties over 1000 tokens";
  cases[5].second.repetition_penalty = 1.1F;
  cases[5].second.history = history.data();
  cases[5].second.n_history = 1000;
  cases[6] = cases[4];
  cases[6].first = "the same, 20 logprobs";
  cases[6].second.n_logprobs = 20;
  for (int32_t vocab : {49152, 151936}) {
    // A model's logits: a broad bulk and a few that stand out.
    std::normal_distribution<float> bulk(0, 2);
    const DevicePtr logits = Allocate(vocab * int64_t{4});
    for (int32_t i = 0; i < vocab; ++i)
      Host<float>(logits)[i] = bulk(random_) + (i % 5000 == 17 ? 9.0F : 0.0F);
    for (auto& [name, row] : cases) {
      device::SampleResult result;
      device::SampleArgs args;
      args.rows = 1;
      args.vocab = vocab;
      args.logits = logits;
      args.sample = &row;
      args.results = &result;
      const double seconds = SecondsPerCall([&, &row = row] {
        ++row.position;
        device_->Sample(stream_, args);
      });
      absl::PrintF("sample   vocabulary %6d, %-38s %7.1f us a row\n", vocab, name, seconds * 1e6);
      json_["sampling"].push_back({{"vocab", vocab}, {"name", name}, {"us_per_row", seconds * 1e6}});
    }
    device_->Free(logits);
  }
}

int Usage(absl::string_view problem) {
  std::cerr
      << "device_bench: " << problem
      << "\nusage: device_bench [--threads=N] [--dtype=bf16|f32] [--only=products|attention|rows|sampling]"
         " [--json=FILE]\n";
  return 2;
}

int Main(int argc, char** argv) {
  device::CpuDeviceOptions options;
  std::string only;
  std::string json_path;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--threads=")) {
      if (!absl::SimpleAtoi(argument, &options.threads)) return Usage("--threads takes a number");
    } else if (absl::ConsumePrefix(&argument, "--dtype=")) {
      if (argument != "bf16" && argument != "f32") return Usage("--dtype is bf16 or f32");
      options.dtype = argument == "bf16" ? device::DType::kBF16 : device::DType::kF32;
    } else if (absl::ConsumePrefix(&argument, "--only=")) {
      only = std::string(argument);
    } else if (absl::ConsumePrefix(&argument, "--json=")) {
      json_path = std::string(argument);
    } else {
      return Usage(absl::StrCat("unknown argument ", argument));
    }
  }
  auto device = device::CreateCpuDevice(options);
  if (!device.ok()) {
    std::cerr << "device_bench: " << device.status().message() << "\n";
    return 1;
  }
  DeviceBench bench(std::move(device).value());
  const std::pair<const char*, void (DeviceBench::*)()> parts[] = {{"products", &DeviceBench::Products},
                                                                   {"attention", &DeviceBench::Attention},
                                                                   {"rows", &DeviceBench::Rows},
                                                                   {"sampling", &DeviceBench::Sampling}};
  bool ran = false;
  for (const auto& [name, run] : parts) {
    if (!only.empty() && only != name) continue;
    (bench.*run)();
    ran = true;
  }
  if (!ran) return Usage(absl::StrCat("--only=", only, " names no part"));
  if (json_path == "-") {
    std::cout << bench.json().dump(2) << "\n";
  } else if (!json_path.empty()) {
    std::ofstream file(json_path);
    file << bench.json().dump(2) << "\n";
    if (!file.flush()) {
      std::cerr << "device_bench: cannot write " << json_path << "\n";
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace spillway::bench

int main(int argc, char** argv) { return spillway::bench::Main(argc, argv); }
