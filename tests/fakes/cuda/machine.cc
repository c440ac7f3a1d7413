#include "tests/fakes/cuda/machine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <sstream>

#include "tests/fakes/cuda/machine_state.h"

namespace spillway::fakes::cuda {
namespace {

// Errors after which a CUDA context serves nothing any more.
bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

bool NeedsNoDriver(const char* call) {
  return std::strcmp(call, "cudaDriverGetVersion") == 0 || std::strcmp(call, "cudaRuntimeGetVersion") == 0;
}

}  // namespace

void ReadEnvironment(const char* text, MachineOptions& options) {
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
    char* end = nullptr;
    const int64_t number = std::strtoll(value.c_str(), &end, 10);
    bool understood = !value.empty() && *end == '\0';
    if (name == "seed") {
      options.seed = static_cast<uint64_t>(number);
    } else if (name == "driver_version") {
      options.driver_version = static_cast<int>(number);
    } else if (name == "devices") {
      options.devices = static_cast<int>(number);
    } else if (name == "major") {
      options.major = static_cast<int>(number);
    } else if (name == "minor") {
      options.minor = static_cast<int>(number);
    } else if (name == "processors") {
      options.processors = static_cast<int>(number);
    } else if (name == "kernels_compiled_for") {
      options.kernels_compiled_for = static_cast<int>(number);
    } else if (name == "memory_bytes") {
      options.memory_bytes = number;
    } else if (name == "memory_used_by_others_bytes") {
      options.memory_used_by_others_bytes = number;
    } else if (name == "pinnable_bytes") {
      options.pinnable_bytes = number;
    } else if (name == "registrable_bytes") {
      options.registrable_bytes = number;
    } else if (name == "fail") {
      char call[64];
      int nth = 0;
      int error = 0;
      understood = std::sscanf(value.c_str(), "%63[^:]:%d:%d", call, &nth, &error) == 3;
      options.failures.push_back({call, nth, static_cast<cudaError_t>(error)});
    } else {
      understood = false;
    }
    if (!understood) {
      std::fprintf(stderr, "FAKE_CUDA_MACHINE: '%s' is not understood\n", word.c_str());
      std::abort();
    }
  }
}

Machine::Machine() {
  MachineOptions first;
  if (const char* text = std::getenv("FAKE_CUDA_MACHINE"); text != nullptr) ReadEnvironment(text, first);
  Reset(first);
}

Machine& Machine::Get() {
  static Machine machine;
  return machine;
}

void Machine::Reset(const MachineOptions& new_options) {
  for (const auto& stream : streams_) {
    TsanAcquire(&stream->done_so_far);
    KeepRunners(*stream);
  }
  streams_.clear();
  events.clear();
  for (Ranges* ranges : {&device_, &pinned_}) {
    for (const auto& [address, range] : *ranges) {
      if (range.owned) std::free(reinterpret_cast<void*>(address));
    }
    ranges->clear();
  }
  options = new_options;
  counts = {};
  random = Random(options.seed);
  NewStream();
  shared_bytes_allowed.clear();
  injections = options.failures;
  host_ns = 0;
  std::fill(std::begin(engine_ns_), std::end(engine_ns_), 0);
  calls_left_ = 0;
  percent_of_others_ = 0;
  registered_bytes_ = 0;
  in_host_function = false;
  sticky = last_error_ = cudaSuccess;
  first_fault.clear();
}

cudaError_t Machine::Enter(const char* name) {
  host_ns += 500;
  // An old driver and none at all are the same to the runtime.
  if (options.driver_version / 1000 < CUDART_VERSION / 1000 && !NeedsNoDriver(name)) {
    return cudaErrorInsufficientDriver;
  }
  if (options.devices == 0 && !NeedsNoDriver(name)) return cudaErrorNoDevice;
  if (sticky != cudaSuccess && !NeedsNoDriver(name)) return sticky;
  if (in_host_function) return Refuse(cudaErrorNotPermitted, "a host function calls the runtime");
  for (auto& injection : injections) {
    if ((injection.call != name && injection.call != "any") || --injection.nth != 0) continue;
    ++counts.failures;
    if (IsSticky(injection.error)) {
      Fail(injection.error, std::string(name) + " was told to fail");
    }
    return injection.error;
  }
  return cudaSuccess;
}

void Machine::Fail(cudaError_t error, const std::string& message) {
  if (sticky != cudaSuccess) return;
  sticky = last_error_ = error;
  if (first_fault.empty()) first_fault = message;
  std::fprintf(stderr, "emulated GPU: %s: %s (seed %llu)\n", cudaGetErrorName(error), message.c_str(),
               static_cast<unsigned long long>(options.seed));
}

cudaError_t Machine::Refuse(cudaError_t error, const std::string& message) {
  if (first_fault.empty()) first_fault = message;
  std::fprintf(stderr, "emulated GPU: %s: %s\n", cudaGetErrorName(error), message.c_str());
  return error;
}

bool Machine::FailsNow(const char* kind) {
  for (auto& injection : injections) {
    if (injection.call != kind || --injection.nth != 0) continue;
    Fail(injection.error, std::string("a ") + kind + " was told to fail");
    return true;
  }
  return false;
}

// ------------------------------------------------------------------------------- memory

bool Machine::Holds(const Ranges& ranges, const void* pointer, size_t size_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  auto after = ranges.upper_bound(address);
  if (after == ranges.begin()) return false;
  const auto& [begin, range] = *std::prev(after);
  return address - begin <= range.size_bytes && size_bytes <= range.size_bytes - (address - begin);
}

cudaError_t Machine::Allocate(void** pointer, size_t size_bytes) {
  if (pointer == nullptr) return cudaErrorInvalidValue;
  *pointer = nullptr;
  if (size_bytes == 0) return cudaSuccess;
  const int64_t left = options.memory_bytes - options.memory_used_by_others_bytes - counts.device_bytes;
  if (static_cast<int64_t>(size_bytes) > left) return cudaErrorMemoryAllocation;
  // One allocation of the host's each, and no larger than asked for, so that AddressSanitizer sees what
  // reaches over its end.
  if (posix_memalign(pointer, 256, size_bytes) != 0) return cudaErrorMemoryAllocation;
  std::memset(*pointer, 0xff, size_bytes);  // NaN in every float format
  device_[reinterpret_cast<uintptr_t>(*pointer)] = {size_bytes, true};
  ++counts.allocations;
  counts.device_bytes += static_cast<int64_t>(size_bytes);
  counts.device_bytes_most = std::max(counts.device_bytes_most, counts.device_bytes);
  return cudaSuccess;
}

cudaError_t Machine::Free(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  auto found = device_.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == device_.end())
    return Refuse(cudaErrorInvalidValue, "cudaFree of what cudaMalloc did not give");
  DrainAll();
  counts.device_bytes -= static_cast<int64_t>(found->second.size_bytes);
  device_.erase(found);
  std::free(pointer);
  return sticky;
}

cudaError_t Machine::Pin(void* pointer, size_t size_bytes, bool owned) {
  if (pointer == nullptr || size_bytes == 0) return cudaErrorInvalidValue;
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  auto after = pinned_.lower_bound(begin + size_bytes);
  if (after != pinned_.begin()) {
    const auto& [other, range] = *std::prev(after);
    if (other + range.size_bytes > begin) return cudaErrorHostMemoryAlreadyRegistered;
  }
  const auto bytes = static_cast<int64_t>(size_bytes);
  if (counts.pinned_bytes + bytes > options.pinnable_bytes ||
      (!owned && registered_bytes_ + bytes > options.registrable_bytes) ||
      (!owned && bytes > options.registrable_at_once_bytes)) {
    return cudaErrorMemoryAllocation;
  }
  if (!owned) registered_bytes_ += bytes;
  pinned_[begin] = {size_bytes, owned};
  ++counts.allocations;
  counts.pinned_bytes += static_cast<int64_t>(size_bytes);
  return cudaSuccess;
}

bool Machine::IsPinnedInPart(const void* pointer, size_t size_bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  const auto after = pinned_.lower_bound(begin + size_bytes);
  if (after == pinned_.begin()) return false;
  const auto& [other, range] = *std::prev(after);
  return other + range.size_bytes > begin && !IsPinned(pointer, size_bytes);
}

bool Machine::IsRegistered(const void* pointer) const {
  const auto after = pinned_.upper_bound(reinterpret_cast<uintptr_t>(pointer));
  if (after == pinned_.begin()) return false;
  const auto& [begin, range] = *std::prev(after);
  return !range.owned && reinterpret_cast<uintptr_t>(pointer) - begin < range.size_bytes;
}

cudaError_t Machine::Unpin(void* pointer, bool owned) {
  auto found = pinned_.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == pinned_.end() || found->second.owned != owned) {
    return owned ? cudaErrorInvalidValue : cudaErrorHostMemoryNotRegistered;
  }
  DrainAll();
  counts.pinned_bytes -= static_cast<int64_t>(found->second.size_bytes);
  if (!owned) registered_bytes_ -= static_cast<int64_t>(found->second.size_bytes);
  pinned_.erase(found);
  if (owned) std::free(pointer);
  return sticky;
}

// ------------------------------------------------------------------------------- streams

CUstream_st* Machine::NewStream() {
  streams_.push_back(std::make_unique<CUstream_st>());
  streams_.back()->weight = DrawWeight();
  return streams_.back().get();
}

BlockRunner& Machine::TakeRunner(CUstream_st& stream) {
  auto& free = stream.blocks[stream.blocks[0] != nullptr && stream.blocks[0]->taken ? 1 : 0];
  if (free == nullptr && !runners_.empty()) {
    free = std::move(runners_.back());
    runners_.pop_back();
  }
  if (free == nullptr) free = std::make_unique<BlockRunner>();
  free->taken = true;
  return *free;
}

void Machine::KeepRunners(CUstream_st& stream) {
  for (auto& runner : stream.blocks) {
    if (runner != nullptr) runners_.push_back(std::move(runner));
  }
}

void Machine::DeleteStream(CUstream_st* stream) {
  Drain(*stream);
  KeepRunners(*stream);
  std::erase_if(streams_, [&](const auto& s) { return s.get() == stream; });
}

CUstream_st* Machine::Find(cudaStream_t stream) {
  if (stream == nullptr) return streams_[0].get();
  const auto found =
      std::find_if(streams_.begin(), streams_.end(), [&](const auto& s) { return s.get() == stream; });
  return found == streams_.end() ? nullptr : found->get();
}

bool Machine::IsEvent(cudaEvent_t event) const { return events.count(event) != 0; }

void Machine::Enqueue(CUstream_st& stream, std::unique_ptr<Operation> operation) {
  operation->enqueued_ns = host_ns;
  TsanRelease(&operation->enqueued);
  stream.operations.push_back(std::move(operation));
  Progress();
}

// A stream that is blocked by another leads to that one; the end of the chain may run. A wait always names a
// record that was enqueued before it, so that there are no circles.
CUstream_st* Machine::Blocker(CUstream_st& stream) const {
  CUstream_st* at = &stream;
  while (!at->operations.empty()) {
    CUstream_st* next = at->operations.front()->WaitsFor();
    if (next == nullptr) return at;
    at = next;
  }
  return nullptr;
}

void Machine::StepToward(CUstream_st& stream) {
  if (CUstream_st* at = Blocker(stream); at != nullptr) Step(*at);
}

void Machine::StepAny() {
  uint32_t total = 0;
  for (const auto& stream : streams_) total += stream->operations.empty() ? 0 : stream->weight;
  if (total == 0) return;
  uint32_t drawn = random.Below(total);
  for (const auto& stream : streams_) {
    if (stream->operations.empty()) continue;
    if (drawn < stream->weight) {
      StepToward(*stream);
      return;
    }
    drawn -= stream->weight;
  }
}

void Machine::Step(CUstream_st& stream) {
  if (sticky != cudaSuccess) return;
  stream.context.Enter();
  Operation& operation = *stream.operations.front();
  TsanAcquire(&operation.enqueued);
  if (operation.IsKernel()) {
    // Nothing says that an event between two kernels, which nobody waits for, ends their overlap.
    const auto next = std::find_if(stream.operations.begin() + 1, stream.operations.end(),
                                   [](const auto& behind) { return !behind->IsRecord(); });
    if (next != stream.operations.end()) (*next)->BeginEarly(*this);
  }
  if (sticky == cudaSuccess && operation.Step(*this) && sticky == cudaSuccess) {
    int64_t& engine = engine_ns_[static_cast<int>(operation.engine)];
    int64_t begin = std::max(stream.time_ns, operation.enqueued_ns);
    if (operation.engine != Engine::kNone) begin = std::max(begin, engine);
    stream.time_ns = begin + operation.cost_ns;
    if (operation.engine != Engine::kNone) engine = stream.time_ns;
    stream.operations.pop_front();
  }
  TsanRelease(&stream.done_so_far);
  stream.context.Leave();
}

void Machine::Progress() {
  if (options.lazy) return;
  if (calls_left_-- == 0) {
    calls_left_ = 1 + random.Below(64);
    // From a device that does nothing until it is waited for, to one that has always done everything.
    static constexpr uint32_t kEighths[] = {0, 1, 2, 8, 128};
    eighths_of_steps_ = kEighths[random.Below(std::size(kEighths))];
    static constexpr uint32_t kPercent[] = {0, 80, 97};
    percent_of_others_ = kPercent[random.Below(std::size(kPercent))];
    for (const auto& stream : streams_) stream->weight = DrawWeight();
  }
  const uint32_t eighths = random.Below(2 * eighths_of_steps_ + 1);
  for (uint32_t steps = (eighths + random.Below(8)) / 8; steps > 0; --steps) StepAny();
}

// Some streams lag far behind others, for a while.
uint32_t Machine::DrawWeight() { return uint32_t{1} << (4 * random.Below(5)); }

// A step of work while somebody waits for `stream`: of that stream, or of any.
void Machine::StepWaiting(CUstream_st& stream) {
  if (random.Below(100) < percent_of_others_) {
    StepAny();
  } else {
    StepToward(stream);
  }
}

void Machine::Drain(CUstream_st& stream) {
  while (!stream.operations.empty() && sticky == cudaSuccess) StepWaiting(stream);
  TsanAcquire(&stream.done_so_far);
  host_ns = std::max(host_ns, stream.time_ns);
}

void Machine::DrainAll() {
  for (const auto& stream : streams_) Drain(*stream);
}

void Machine::DrainTo(EventRecord& record) {
  while (!record.done && sticky == cudaSuccess) StepWaiting(*record.stream);
  TsanAcquire(&record.ran);
  host_ns = std::max(host_ns, record.time_ns);
}

// ------------------------------------------------------------------------------- what a test sees of it

void ResetMachine(const MachineOptions& options) {
  Machine& machine = Machine::Get();
  const std::lock_guard<std::recursive_mutex> lock(machine.mutex_);
  machine.Reset(options);
}

MachineCounts Counts() {
  Machine& machine = Machine::Get();
  const std::lock_guard<std::recursive_mutex> lock(machine.mutex_);
  return machine.counts;
}

std::string FirstFault() {
  Machine& machine = Machine::Get();
  const std::lock_guard<std::recursive_mutex> lock(machine.mutex_);
  return machine.first_fault;
}

void FailCall(const std::string& call, int nth, cudaError_t error) {
  Machine& machine = Machine::Get();
  const std::lock_guard<std::recursive_mutex> lock(machine.mutex_);
  machine.injections.push_back({call, nth, error});
}

}  // namespace spillway::fakes::cuda
