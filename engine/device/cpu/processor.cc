#include "engine/device/cpu/processor.h"

#include <cpuid.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/ascii.h"

namespace spillway::device {
namespace {

// The first two words of a control group's file; false if it is not there. "max" stands for no limit.
bool ReadLimit(const char* path, std::string* first, std::string* second) {
  std::ifstream file(path);
  if (!(file >> *first)) return false;
  if (second != nullptr) file >> *second;
  return true;
}

double AsNumber(const std::string& word) {
  char* end = nullptr;
  const double value = std::strtod(word.c_str(), &end);
  return end == word.c_str() ? -1 : value;
}

// Cores' worth of processor time, or 0 where there is no limit.
double GrantedCores() {
  std::string quota;
  std::string period;
  if (ReadLimit("/sys/fs/cgroup/cpu.max", &quota, &period)) {
    return AsNumber(quota) > 0 && AsNumber(period) > 0 ? AsNumber(quota) / AsNumber(period) : 0;
  }
  if (ReadLimit("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, nullptr) &&
      ReadLimit("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, nullptr)) {
    return AsNumber(quota) > 0 && AsNumber(period) > 0 ? AsNumber(quota) / AsNumber(period) : 0;
  }
  return 0;
}

}  // namespace

CpuIsa DetectCpuIsa() {
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (!avx2) return CpuIsa::kBaseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (!avx512) return CpuIsa::kAvx2;
  return __builtin_cpu_supports("avx512bf16") ? CpuIsa::kAvx512Bf16 : CpuIsa::kAvx512;
}

bool HasAmxBf16() {
  constexpr uint32_t kAmxBf16 = uint32_t{1} << 22;
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0;
}

absl::string_view NameOf(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kBaseline:
      return "x86-64-v2";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "?";
}

std::string ProcessorName() {
  char name[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    uint32_t words[4];
    if (__get_cpuid(0x80000002U + i, &words[0], &words[1], &words[2], &words[3]) == 0) return "x86-64";
    std::memcpy(name + 16 * i, words, sizeof(words));
  }
  std::string trimmed(absl::StripAsciiWhitespace(name));
  return trimmed.empty() ? "x86-64" : trimmed;
}

int32_t UsableThreads() {
  int32_t threads = omp_get_max_threads();
  const double granted = GrantedCores();
  if (granted > 0 && granted < threads) threads = static_cast<int32_t>(granted + 0.999);
  return std::max(threads, 1);
}

int64_t HostMemoryBytes() {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::string limit;
    if (!ReadLimit(path, &limit, nullptr)) continue;
    const double value = AsNumber(limit);
    if (value > 0 && value < static_cast<double>(bytes)) bytes = static_cast<int64_t>(value);
  }
  return bytes;
}

}  // namespace spillway::device
