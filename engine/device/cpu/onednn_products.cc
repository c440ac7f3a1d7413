#include "engine/device/cpu/onednn_products.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cpu/allocation_scope.h"

namespace spillway::device {
namespace {

using dnnl::memory;

struct Key {
  int64_t n;
  int64_t k;
  int64_t rows;
  Activation activation;
  bool out_is_f32;
  bool accumulate;
  bool bias;

  friend bool operator==(const Key&, const Key&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Key& key) {
    return H::combine(std::move(h), key.n, key.k, key.rows, key.activation, key.out_is_f32, key.accumulate,
                      key.bias);
  }
};

// A primitive, its memory objects and the argument list that names them: all that an execution needs.
struct Product {
  dnnl::matmul primitive;
  memory in;
  memory weight;
  memory out;
  memory bias;
  dnnl_exec_arg_t args[4];
  int n_args;
};

memory::desc RowMajor(int64_t rows, int64_t columns, memory::data_type type) {
  return memory::desc({rows, columns}, type, memory::format_tag::ab);
}

dnnl::primitive_attr Epilogue(const Key& key) {
  dnnl::post_ops ops;
  switch (key.activation) {
    case Activation::kNone:
      break;
    case Activation::kRelu:
      ops.append_eltwise(1, dnnl::algorithm::eltwise_relu, 0, 0);
      break;
    case Activation::kSilu:
      ops.append_eltwise(1, dnnl::algorithm::eltwise_swish, 1, 0);
      break;
    case Activation::kGelu:
      ops.append_eltwise(1, dnnl::algorithm::eltwise_gelu_tanh, 0, 0);
      break;
  }
  if (key.accumulate) ops.append_sum(1);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(ops);
  return attributes;
}

// Null where oneDNN has no fast product over panels. Throws dnnl::error.
std::unique_ptr<Product> MakeProduct(const dnnl::engine& engine, DType type, const Key& key) {
  const bool f32 = type == DType::kF32;
  const memory::data_type element = f32 ? memory::data_type::f32 : memory::data_type::bf16;
  const memory::desc in = RowMajor(key.rows, key.k, element);
  const memory::desc weight({key.k, key.n}, element,
                            f32 ? memory::format_tag::BA16a64b : memory::format_tag::BA16a64b2a);
  const memory::desc out = RowMajor(key.rows, key.n, key.out_is_f32 ? memory::data_type::f32 : element);
  const memory::desc bias = RowMajor(1, key.n, memory::data_type::f32);
  const dnnl::matmul::desc desc =
      key.bias ? dnnl::matmul::desc(in, weight, bias, out) : dnnl::matmul::desc(in, weight, out);
  const dnnl::matmul::primitive_desc primitive_desc(desc, Epilogue(key), engine, /*allow_empty=*/true);
  if (!primitive_desc || std::strncmp(primitive_desc.impl_info_str(), "brg", 3) != 0) return nullptr;

  auto product = std::make_unique<Product>();
  product->primitive = dnnl::matmul(primitive_desc);
  product->in = memory(in, engine, nullptr);
  product->weight = memory(weight, engine, nullptr);
  product->out = memory(out, engine, nullptr);
  product->args[0] = {DNNL_ARG_SRC, product->in.get()};
  product->args[1] = {DNNL_ARG_WEIGHTS, product->weight.get()};
  product->args[2] = {DNNL_ARG_DST, product->out.get()};
  product->n_args = 3;
  if (key.bias) {
    product->bias = memory(bias, engine, nullptr);
    product->args[product->n_args++] = {DNNL_ARG_BIAS, product->bias.get()};
  }
  return product;
}

// As many as OpenMP really gives (OMP_THREAD_LIMIT): oneDNN cuts a product for the team that it asks for, and
// leaves out the parts of threads that do not come.
int32_t ThreadsToBeHad(int32_t threads) {
  omp_set_dynamic(0);
  int32_t team = 1;
#pragma omp parallel num_threads(threads)
#pragma omp single
  team = omp_get_num_threads();
  return team;
}

// oneDNN takes the team's size from the calling thread's setting.
void SetTeam(int32_t threads) {
  if (omp_get_dynamic() != 0) omp_set_dynamic(0);
  if (omp_get_max_threads() != threads) omp_set_num_threads(threads);
}

}  // namespace

struct OneDnnProducts::Table {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  absl::flat_hash_map<Key, std::unique_ptr<Product>> products;
};

OneDnnProducts::OneDnnProducts(DType type, int32_t threads)
    : type_(type), threads_(ThreadsToBeHad(threads)) {}
OneDnnProducts::~OneDnnProducts() = default;

absl::Status OneDnnProducts::Prepare(int64_t n, int64_t k, int64_t rows) {
  if (n % kPanelColumns != 0 || k % 32 != 0 || rows < *std::prev(std::end(kHeights))) return absl::OkStatus();
  SetTeam(threads_);
  try {
    if (table_ == nullptr) table_ = std::make_unique<Table>();
    std::vector<Key> keys;
    for (int64_t height : kHeights) {
      if (height > rows) continue;
      for (bool bias : {false, true}) {
        keys.push_back({n, k, height, Activation::kNone, true, false, bias});
        keys.push_back({n, k, height, Activation::kNone, true, true, bias});
        if (type_ == DType::kF32) continue;
        keys.push_back({n, k, height, Activation::kNone, false, false, bias});
      }
      // What follows an activation is the input of another product: T.
      for (Activation activation : {Activation::kRelu, Activation::kSilu, Activation::kGelu}) {
        for (bool bias : {false, true})
          keys.push_back({n, k, height, activation, type_ == DType::kF32, false, bias});
      }
    }
    for (const Key& key : keys) {
      if (table_->products.contains(key)) continue;
      std::unique_ptr<Product> product = MakeProduct(table_->engine, type_, key);
      if (product == nullptr) return absl::OkStatus();
      table_->products.emplace(key, std::move(product));
    }
  } catch (const dnnl::error& error) {
    return absl::InternalError(
        absl::StrCat("oneDNN cannot make a product of ", n, "x", k, ": ", error.what()));
  }
  return absl::OkStatus();
}

int64_t OneDnnProducts::Multiply(const ProductArgs& args) {
  if (table_ == nullptr) return 0;
  for (int64_t height : kHeights) {
    if (height > args.rows) continue;
    const auto found = table_->products.find(
        Key{args.n, args.k, height, args.activation, args.out_is_f32, args.accumulate, args.bias != nullptr});
    if (found == table_->products.end()) continue;
    const Product& product = *found->second;
    SetTeam(threads_);
    const ThirdPartyAllocationScope scope;
    // The C interface: it reports instead of throwing, and takes the argument list as it stands.
    dnnl_status_t status = dnnl_memory_set_data_handle(product.in.get(), const_cast<void*>(args.in));
    if (status == dnnl_success) {
      status = dnnl_memory_set_data_handle(product.weight.get(), const_cast<void*>(args.weight));
    }
    if (status == dnnl_success) status = dnnl_memory_set_data_handle(product.out.get(), args.out);
    if (status == dnnl_success && args.bias != nullptr) {
      status = dnnl_memory_set_data_handle(product.bias.get(), const_cast<float*>(args.bias));
    }
    if (status == dnnl_success) {
      status =
          dnnl_primitive_execute(product.primitive.get(), table_->stream.get(), product.n_args, product.args);
    }
    if (status == dnnl_success) return height;
    Fail(absl::InternalError(absl::StrCat("oneDNN failed to execute a product (status ", status, ")")));
    return 0;
  }
  return 0;
}

absl::Status OneDnnProducts::status() const {
  if (!failed()) return absl::OkStatus();
  const MutexLock lock(mutex_);
  return status_;
}

void OneDnnProducts::Fail(absl::Status status) {
  const MutexLock lock(mutex_);
  if (status_.ok()) status_ = std::move(status);
  failed_.store(true, std::memory_order_release);
}

}  // namespace spillway::device
