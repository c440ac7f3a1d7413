// Not a test: what a call's token and its tenant's limits cost a request, apart from gRPC. Prints p50 and p99
// as well.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "benchmark/benchmark.h"
#include "server/token_file.h"

namespace spillway::server {
namespace {

std::string Entry(const std::string& token, const std::string& tenant) {
  const Sha256Digest digest = Sha256(token);
  const absl::string_view bytes(reinterpret_cast<const char*>(digest.data()), digest.size());
  return absl::StrCat("{\"sha256\": \"", absl::BytesToHexString(bytes), "\", \"tenant\": \"", tenant, "\"}");
}

// Tokens in the file: the argument.
void BM_Access(benchmark::State& state) {
  const std::string path = absl::StrCat("/tmp/access_benchmark_", getpid(), ".json");
  const std::string token = "spw_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG";
  {
    std::ofstream file(path);
    file << R"({"schema_version": 1, "tenants": {"ours": {"max_concurrent_requests": 1000, )"
         << R"("tokens_per_minute": 1000000000000}}, "tokens": [)";
    for (int64_t i = 1; i < state.range(0); ++i) {
      file << Entry(absl::StrCat("other", i), absl::StrCat("tenant", i % 200)) << ",";
    }
    file << Entry(token, "ours") << "]}";
  }
  const auto tokens = TokenFile::Load(path);
  std::remove(path.c_str());
  SPILLWAY_CHECK(tokens.ok());
  std::vector<double> samples;
  for ([[maybe_unused]] auto _ : state) {
    const MonotonicNs begin_ns = Clock::Real().NowNs();
    const TokenFile::Holder holder = (*tokens)->Find(token);
    const auto place = holder.tenant->Enter();
    const absl::Status spent = holder.tenant->Spend(100, begin_ns);
    holder.tenant->Pay(100, begin_ns);
    SPILLWAY_CHECK(place.ok() && spent.ok());
    samples.push_back(static_cast<double>(Clock::Real().NowNs() - begin_ns));
  }
  std::sort(samples.begin(), samples.end());
  state.counters["p50_ns"] = samples[samples.size() / 2];
  state.counters["p99_ns"] = samples[samples.size() * 99 / 100];
}
BENCHMARK(BM_Access)->Arg(1)->Arg(4096);

}  // namespace
}  // namespace spillway::server

BENCHMARK_MAIN();
