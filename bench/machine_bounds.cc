#include "bench/machine_bounds.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace spillway::bench {
namespace {

// Reads `words` words in eight independent sums, so that additions wait for memory and not for each other.
uint64_t SumWords(const uint64_t* data, int64_t words) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i + 8 <= words; i += 8) {
    for (int lane = 0; lane < 8; ++lane) sums[lane] += data[i + lane];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
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

double MeasureReadBandwidth(int32_t threads, int64_t buffer_bytes, int passes) {
  const int64_t words_each = buffer_bytes / threads / 64 * 8;
  const auto words = static_cast<size_t>(words_each * threads);
  const std::unique_ptr<uint64_t[]> buffer(new uint64_t[words]);
  uint64_t sum = 0;
  double best_s = 0;
  for (int pass = 0; pass <= passes; ++pass) {
    const MonotonicNs begin_ns = Clock::Real().NowNs();
#pragma omp parallel num_threads(threads) reduction(+ : sum)
    {
      uint64_t* const part = buffer.get() + omp_get_thread_num() * words_each;
      // The first pass writes, so that every page is there and near its reader.
      if (pass == 0) {
        std::fill_n(part, words_each, uint64_t{1});
      } else {
        sum += SumWords(part, words_each);
      }
    }
    const double seconds = ToSeconds(Clock::Real().NowNs() - begin_ns);
    if (pass > 0) best_s = best_s == 0 ? seconds : std::min(best_s, seconds);
  }
  // The sum is used, so that the reads stay.
  return sum == 0 ? 0 : static_cast<double>(words) * sizeof(uint64_t) / best_s;
}

absl::StatusOr<double> MeasureGemmRate(int32_t threads, device::DType dtype, int64_t rows,
                                       const std::vector<GemmShape>& shapes, int64_t max_weight_bytes,
                                       int passes) {
  try {
    const ThreadCount thread_count(threads);
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const std::vector<Product> products = MakeProducts(engine, dtype, rows, shapes, max_weight_bytes);
    double flop = 0;
    for (const Product& product : products) flop += product.flop;
    double best_s = 0;
    for (int pass = 0; pass <= passes; ++pass) {  // the first one warms up
      const MonotonicNs begin_ns = Clock::Real().NowNs();
      for (const Product& product : products) product.primitive.execute(stream, product.arguments);
      stream.wait();
      const double seconds = ToSeconds(Clock::Real().NowNs() - begin_ns);
      if (pass > 0) best_s = best_s == 0 ? seconds : std::min(best_s, seconds);
    }
    return flop / best_s;
  } catch (const dnnl::error& error) {
    return absl::UnimplementedError(
        absl::StrCat("oneDNN has no ", device::NameOf(dtype), " product here: ", error.what()));
  }
}

}  // namespace spillway::bench
