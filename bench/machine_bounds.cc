#include "bench/machine_bounds.h"

#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace spillway::bench {
namespace {

constexpr int64_t kHugePageBytes = 2 * kMiB;
constexpr int64_t kLineWords = 8;

// Sums `words` words in kRuns runs side by side, each `kAheadLines` lines ahead of its reads.
template <int kRuns, int kAheadLines>
uint64_t SumWords(const uint64_t* data, int64_t words) {
  // Independent sums, so that additions wait for memory and not for each other.
  uint64_t sums[kLineWords] = {};
  constexpr int64_t kStretchWords = 4 * kLineWords;
  const int64_t each = words / kRuns / kStretchWords * kStretchWords;
  for (int64_t at = 0; at < each; at += kStretchWords) {
    for (int run = 0; run < kRuns; ++run) {
      const uint64_t* stretch = data + run * each + at;
      for (int64_t line = 0; kAheadLines > 0 && line < kStretchWords; line += kLineWords) {
        __builtin_prefetch(stretch + kAheadLines * kLineWords + line, 0, 2);
      }
      for (int64_t i = 0; i < kStretchWords; i += kLineWords) {
        for (int lane = 0; lane < kLineWords; ++lane) sums[lane] += stretch[i + lane];
      }
    }
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

// The same over vectors of 64 bytes, which this machine may read faster.
template <int kRuns, int kAheadLines>
__attribute__((target("avx512f"))) uint64_t SumLines(const uint64_t* data, int64_t words) {
  constexpr int kLines = 4;
  __m512i sums[kLines] = {};
  constexpr int64_t kStretchWords = kLines * kLineWords;
  const int64_t each = words / kRuns / kStretchWords * kStretchWords;
  for (int64_t at = 0; at < each; at += kStretchWords) {
    for (int run = 0; run < kRuns; ++run) {
      const uint64_t* stretch = data + run * each + at;
      for (int line = 0; kAheadLines > 0 && line < kLines; ++line) {
        __builtin_prefetch(stretch + (kAheadLines + line) * kLineWords, 0, 2);
      }
      for (int line = 0; line < kLines; ++line) {
        sums[line] = _mm512_add_epi64(sums[line], _mm512_loadu_si512(stretch + line * kLineWords));
      }
    }
  }
  alignas(64) uint64_t lanes[kLines * kLineWords];
  for (int line = 0; line < kLines; ++line) _mm512_store_si512(lanes + line * kLineWords, sums[line]);
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  return sum;
}

using SumFunction = uint64_t (*)(const uint64_t* data, int64_t words);

std::vector<SumFunction> WaysToRead() {
  if (__builtin_cpu_supports("avx512f")) {
    return {SumLines<1, 0>,  SumLines<2, 0>,  SumLines<1, 16>,
            SumLines<1, 64>, SumLines<2, 16>, SumLines<2, 32>};
  }
  return {SumWords<1, 0>, SumWords<2, 0>, SumWords<4, 0>, SumWords<1, 16>, SumWords<1, 64>, SumWords<2, 16>};
}

// Sets the number of OpenMP threads, which oneDNN uses, while it lives.
class ThreadCount {
 public:
  explicit ThreadCount(int32_t threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  const int before_;
};

// One product in[rows, k] * weight[k, n] with weights of its own in oneDNN's layout.
struct Product {
  dnnl::matmul primitive;
  std::unordered_map<int, dnnl::memory> arguments;
  double flop = 0;
};

dnnl::memory::data_type TypeOf(device::DType dtype) {
  switch (dtype) {
    case device::DType::kBF16:
      return dnnl::memory::data_type::bf16;
    case device::DType::kF16:
      return dnnl::memory::data_type::f16;
    case device::DType::kF32:
      return dnnl::memory::data_type::f32;
  }
  return dnnl::memory::data_type::undef;
}

dnnl::memory Zeroed(const dnnl::memory::desc& desc, const dnnl::engine& engine) {
  dnnl::memory memory(desc, engine);
  std::memset(memory.get_data_handle(), 0, desc.get_size());
  return memory;
}

std::vector<Product> MakeProducts(const dnnl::engine& engine, device::DType dtype, int64_t rows,
                                  const std::vector<GemmShape>& shapes, int64_t max_weight_bytes) {
  using Tag = dnnl::memory::format_tag;
  std::vector<Product> products;
  int64_t total_bytes = 0;
  for (const GemmShape& shape : shapes)
    total_bytes += shape.count * shape.n * shape.k * device::SizeOf(dtype);
  const double share =
      std::min(1.0, static_cast<double>(max_weight_bytes) / static_cast<double>(total_bytes));
  for (const GemmShape& shape : shapes) {
    const dnnl::memory::desc in({rows, shape.k}, TypeOf(dtype), Tag::ab);
    const dnnl::memory::desc out({rows, shape.n}, dnnl::memory::data_type::f32, Tag::ab);
    const dnnl::memory::desc weight({shape.k, shape.n}, TypeOf(dtype), Tag::any);
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(in, weight, out), engine);
    const dnnl::matmul primitive(plan);
    // Input and output are small and are written in every step of a model too: one of each.
    const dnnl::memory source = Zeroed(plan.src_desc(), engine);
    const dnnl::memory destination = Zeroed(plan.dst_desc(), engine);
    const auto own = std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(shape.count)));
    const size_t first = products.size();
    for (int64_t i = 0; i < shape.count; ++i) {
      const dnnl::memory weights =
          i < own ? Zeroed(plan.weights_desc(), engine)
                  : products[first + static_cast<size_t>(i % own)].arguments.at(DNNL_ARG_WEIGHTS);
      products.push_back({primitive,
                          {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, destination}},
                          2.0 * static_cast<double>(rows * shape.n * shape.k)});
    }
  }
  return products;
}

}  // namespace

ReadMeter::ReadMeter(int32_t threads, int64_t buffer_bytes)
    : threads_(threads),
      words_each_(buffer_bytes / threads / 4096 * 512),
      buffer_bytes_((buffer_bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes) {
  buffer_ = static_cast<uint64_t*>(
      std::aligned_alloc(static_cast<size_t>(kHugePageBytes), static_cast<size_t>(buffer_bytes_)));
  SPILLWAY_CHECK_MSG(buffer_ != nullptr, "out of memory");
  (void)madvise(buffer_, static_cast<size_t>(buffer_bytes_), MADV_HUGEPAGE);
  std::memset(buffer_, 1, static_cast<size_t>(buffer_bytes_));
}

ReadMeter::~ReadMeter() { std::free(buffer_); }

double ReadMeter::Measure(int passes) {
  const std::vector<SumFunction> ways = WaysToRead();
  const int n_ways = static_cast<int>(ways.size());
  const int n_reads = passes * n_ways;
  // Threads of its own that wait spinning: waking takes no part in what is measured.
  std::atomic<int> started{0};
  std::atomic<int> finished{0};
  std::atomic<uint64_t> sum{0};
  const auto read = [&](int32_t thread, int i) {
    sum += ways[static_cast<size_t>(i % n_ways)](buffer_ + thread * words_each_, words_each_);
  };
  std::vector<std::thread> threads;
  for (int32_t thread = 1; thread < threads_; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < n_reads; ++i) {
        while (started.load(std::memory_order_acquire) <= i) __builtin_ia32_pause();
        read(thread, i);
        finished.fetch_add(1, std::memory_order_release);
      }
    });
  }
  double best_s = 0;
  for (int i = 0; i < n_reads; ++i) {
    const MonotonicNs begin_ns = Clock::Real().NowNs();
    started.store(i + 1, std::memory_order_release);
    read(0, i);
    while (finished.load(std::memory_order_acquire) < (i + 1) * (threads_ - 1)) __builtin_ia32_pause();
    const double seconds = ToSeconds(Clock::Real().NowNs() - begin_ns);
    best_s = best_s == 0 ? seconds : std::min(best_s, seconds);
  }
  for (std::thread& thread : threads) thread.join();
  // The sum is used, so that the reads stay.
  return sum == 0 ? 0 : static_cast<double>(words_each_ * threads_) * sizeof(uint64_t) / best_s;
}

struct GemmMeter::Products {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::vector<Product> all;
};

GemmMeter::GemmMeter() = default;
GemmMeter::~GemmMeter() = default;

absl::StatusOr<std::unique_ptr<GemmMeter>> GemmMeter::Create(int32_t threads, device::DType dtype,
                                                             int64_t rows,
                                                             const std::vector<GemmShape>& shapes,
                                                             int64_t max_weight_bytes) {
  try {
    const ThreadCount thread_count(threads);
    std::unique_ptr<GemmMeter> meter(new GemmMeter);
    meter->threads_ = threads;
    meter->products_ = std::make_unique<Products>();
    meter->products_->all = MakeProducts(meter->products_->engine, dtype, rows, shapes, max_weight_bytes);
    return meter;
  } catch (const dnnl::error& error) {
    return absl::UnimplementedError(
        absl::StrCat("oneDNN has no ", device::NameOf(dtype), " product here: ", error.what()));
  }
}

absl::StatusOr<double> GemmMeter::Measure(int passes) {
  try {
    const ThreadCount thread_count(threads_);
    double flop = 0;
    for (const Product& product : products_->all) flop += product.flop;
    double best_s = 0;
    for (int pass = 0; pass <= passes; ++pass) {  // the first one warms up
      const MonotonicNs begin_ns = Clock::Real().NowNs();
      for (const Product& product : products_->all)
        product.primitive.execute(products_->stream, product.arguments);
      products_->stream.wait();
      const double seconds = ToSeconds(Clock::Real().NowNs() - begin_ns);
      if (pass > 0) best_s = best_s == 0 ? seconds : std::min(best_s, seconds);
    }
    return flop / best_s;
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN failed: ", error.what()));
  }
}

}  // namespace spillway::bench
