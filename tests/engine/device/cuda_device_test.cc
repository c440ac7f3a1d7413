// The device suite on the CUDA device, and what is that device's own: errors, options, memory. No GPU is
// involved: the device's sources are compiled against tests/fakes/cuda, whose emulator runs the kernels.
#include "engine/device/cuda/cuda_device.h"

#include <cuda_runtime.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <utility>

#include "engine/device/cuda/cuda_error.h"
#include "engine/device/cuda/pci_link.h"
#include "tests/engine/device/cuda_harness.h"
#include "tests/engine/device/device_suite.h"
#include "tests/fakes/cuda/machine.h"

namespace spillway::device {
namespace {

using cuda::CreateCudaDevice;
using cuda::CudaDeviceOptions;
using fakes::cuda::Counts;
using fakes::cuda::FailCall;
using fakes::cuda::MachineOptions;
using fakes::cuda::ResetMachine;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

// Small: with the least shared memory that multiprocessors have, and without kernels that overlap.
enum class GpuKind { kUsual, kSmall };

void UseGpu(GpuKind kind) {
  static GpuKind now = GpuKind::kUsual;
  if (kind == now) return;
  now = kind;
  MachineOptions machine;
  if (kind == GpuKind::kSmall) machine.major = 8, machine.minor = 6;
  ResetMachine(machine);
}

DeviceCase CudaCase(DType dtype, GpuKind kind = GpuKind::kUsual) {
  return {absl::StrCat(NameOf(dtype), kind == GpuKind::kSmall ? "_small_gpu" : ""),
          [dtype, kind](int64_t memory_bytes) {
            UseGpu(kind);
            CudaDeviceOptions options = Small();
            options.dtype = dtype;
            options.memory_bytes = memory_bytes;
            return CreateCudaDevice(options);
          },
          /*one_in=*/8};
}

std::string CaseName(const testing::TestParamInfo<DeviceCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(CudaEmulated, DeviceSuite,
                         testing::Values(CudaCase(DType::kF32), CudaCase(DType::kBF16), CudaCase(DType::kF16),
                                         CudaCase(DType::kBF16, GpuKind::kSmall)),
                         CaseName);

// --- What cannot start says why.

TEST_F(CudaStartTest, MissingDriverIsNamed) {
  machine_.driver_version = 0;
  const absl::Status status = StartError();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("no NVIDIA driver"), HasSubstr("35"), HasSubstr("--device=cpu")));
}

TEST_F(CudaStartTest, OldDriverIsNamedWithBothVersions) {
  machine_.driver_version = 12040;
  const absl::Status status = StartError();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("too old"), HasSubstr("12.4"), HasSubstr("13.0")));
}

TEST_F(CudaStartTest, MachineWithoutAGpuIsNamed) {
  machine_.devices = 0;
  const absl::Status status = StartError();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("CUDA_VISIBLE_DEVICES"));
}

TEST_F(CudaStartTest, GpuThatIsTooOldIsNamed) {
  machine_.major = 7;
  machine_.minor = 5;
  const absl::Status status = StartError();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("7.5"), HasSubstr("8.0")));
}

TEST_F(CudaStartTest, GpuThatTheBuildHasNoKernelsForIsNamed) {
  ResetMachine({});
  FailCall("cudaFuncGetAttributes", 1, cudaErrorNoKernelImageForDevice);
  const absl::Status status = CreateCudaDevice(Small()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("sm_90"), HasSubstr("SPILLWAY_CUDA_ARCHITECTURES")));
}

TEST_F(CudaStartTest, AMachineThatIsNotReadyIsToldWhatToDo) {
  const std::pair<cudaError_t, const char*> cases[] = {
      {cudaErrorStubLibrary, "stubs"},
      {cudaErrorSystemNotReady, "nvidia-fabricmanager"},
      {cudaErrorCompatNotSupportedOnDevice, "cuda-compat"},
      {cudaErrorMpsConnectionFailed, "nvidia-cuda-mps-control"},
      {cudaErrorMpsServerNotReady, "nvidia-cuda-mps-control"},
      {cudaErrorDevicesUnavailable, "compute mode"},
  };
  for (const char* call : {"cudaGetDeviceCount", "cudaSetDevice"}) {
    for (const auto& [error, remedy] : cases) {
      ResetMachine({});
      FailCall(call, 1, error);
      const absl::Status status = CreateCudaDevice(Small()).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << call << " " << error;
      EXPECT_THAT(std::string(status.message()), HasSubstr(remedy)) << call;
    }
  }
}

TEST_F(CudaStartTest, MoreMemoryThanIsFreeIsRefusedWithWhatIs) {
  machine_.memory_bytes = kGiB;
  machine_.memory_used_by_others_bytes = 600 * kMiB;
  CudaDeviceOptions options = Small();
  options.memory_bytes = 900 * kMiB;
  const absl::Status status = StartError(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("--device_memory"), HasSubstr("900.0 MiB"), HasSubstr("423.7 MiB")));
}

// --- What goes wrong later.

TEST_F(CudaFaultTest, MemoryThatOthersTookIsNamedAndTheDeviceGoesOn) {
  FailCall("cudaMalloc", 1, cudaErrorMemoryAllocation);
  const absl::Status status = device_->Allocate(kMiB, "the cache").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("the cache needs 1.0 MiB"), HasSubstr("nvidia-smi")));
  EXPECT_TRUE(device_->status().ok());
  const DevicePtr memory = device_->Allocate(kMiB, "the cache").value();
  device_->Free(memory);
}

TEST_F(CudaFaultTest, HostMemoryThatCannotBeLockedIsNamedAndTheDeviceGoesOn) {
  std::vector<uint8_t> host(1 << 16);
  FailCall("cudaHostRegister", 1, cudaErrorMemoryAllocation);
  const absl::Status status = device_->RegisterHost(host.data(), 1 << 16);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("64.0 KiB"), HasSubstr("ulimit -l")));
  EXPECT_TRUE(device_->status().ok());
  EXPECT_TRUE(Synchronize().ok());
}

TEST_F(CudaFaultTest, FirstErrorOfAKernelIsStickyAndNamesItsCause) {
  const DevicePtr memory = device_->Allocate(4096, "test").value();
  FailCall("kernel", 1, cudaErrorIllegalAddress);
  std::vector<uint8_t> bytes(4096, 1);
  device_->CopyIn(stream_, memory, bytes.data(), 4096);
  const absl::Status first = Synchronize();
  EXPECT_EQ(first.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(first.message()), AllOf(HasSubstr("700"), HasSubstr("restart")));
  EXPECT_EQ(device_->status(), first);
  EXPECT_EQ(device_->Allocate(1, "more").status(), first);
  EXPECT_EQ(device_->RegisterHost(bytes.data(), 4096), first);
  EXPECT_EQ(device_->WarmUp({}, {}), first);
  // Void operations do nothing, and who polls an event is not left waiting.
  device_->Fill(stream_, memory, 0, 4096);
  device_->CopyOut(stream_, bytes.data(), memory, 4096);
  EXPECT_EQ(Synchronize(), first);
  EXPECT_TRUE(device_->IsComplete(event_));
  EXPECT_EQ(bytes[0], 1);
  device_->Free(memory);
}

TEST_F(CudaFaultTest, AnyCallThatFailsIsTheDevicesError) {
  constexpr int64_t kBytes = 5 * kMiB;
  std::vector<uint8_t> locked(kBytes), pageable(kBytes);
  SampleRow row{};
  SampleResult result{};
  const int32_t history = 3;
  // What makes ready, and returns what is to be tried.
  using Prepare = std::function<std::function<void()>()>;
  const auto copies = [&](bool in, bool staged, bool lock) -> std::function<void()> {
    if (staged || lock) {
      EXPECT_EQ(device_->RegisterHost((lock ? locked : pageable).data(), kBytes).ok(), lock);
    }
    uint8_t* const host = (lock ? locked : pageable).data();
    const DevicePtr memory = Filled(kBytes, 1);
    // Apart, so that they stay two; one takes all of a ring and more.
    const std::vector<CopyRun> runs = {{memory, host, 4096}, {memory + 8192, host + 8192, kBytes - 8192}};
    if (staged) device_->CopyOutBatch(stream_, {&runs[0], 1});  // the second stream is there
    return
        [this, in, runs] { in ? device_->CopyInBatch(stream_, runs) : device_->CopyOutBatch(stream_, runs); };
  };
  const auto product = [&](int32_t rows, Encoding encoding, Activation activation, bool other_stream) {
    const PackedMatrix matrix = Matrix(40, 256, encoding, WeightMode::kPacked);
    GemmArgs args;
    args.rows = rows;
    args.in = Filled(rows * 256 * 4, 0);
    args.out = Filled(rows * 40 * 4, 0);
    args.activation = activation;
    if (other_stream) device_->Gemm(device_->CreateStream("other"), matrix, args);
    return [this, matrix, args] { device_->Gemm(stream_, matrix, args); };
  };
  const std::vector<std::pair<std::string, Prepare>> operations = {
      {"stream", [&] { return [this] { device_->CreateStream("another"); }; }},
      {"event", [&] { return [this] { device_->CreateEvent(); }; }},
      {"wait",
       [&] {
         device_->Record(event_, stream_);
         return [this] { device_->Wait(stream_, event_); };
       }},
      {"fill", [&] { return [this, memory = Filled(100, 1)] { device_->Fill(stream_, memory, 2, 100); }; }},
      {"copy within",
       [&] {
         return [this, memory = Filled(200, 1)] { device_->CopyWithin(stream_, memory, memory + 100, 100); };
       }},
      // Of more pieces than there are slots.
      {"small copies in",
       [&] {
         return [&, memory = Filled(4096, 1)] {
           for (int i = 0; i < 70; ++i) device_->CopyIn(stream_, memory, pageable.data(), 4096);
         };
       }},
      {"copy in",
       [&] {
         return [&, memory = Filled(kMiB, 1)] { device_->CopyIn(stream_, memory, pageable.data(), kMiB); };
       }},
      {"copy out",
       [&] {
         return [&, memory = Filled(kMiB, 1)] { device_->CopyOut(stream_, pageable.data(), memory, kMiB); };
       }},
      {"pageable copies in", [&] { return copies(true, false, false); }},
      {"pageable copies out", [&] { return copies(false, false, false); }},
      {"page-locked copies in", [&] { return copies(true, false, true); }},
      {"page-locked copies out", [&] { return copies(false, false, true); }},
      {"staged copies in", [&] { return copies(true, true, false); }},
      {"staged copies out", [&] { return copies(false, true, false); }},
      {"product", [&] { return product(20, Encoding::kF32, Activation::kNone, false); }},
      {"product of two streams", [&] { return product(20, Encoding::kF32, Activation::kNone, true); }},
      {"product with an epilogue", [&] { return product(20, Encoding::kF32, Activation::kGelu, false); }},
      {"packed product", [&] { return product(3, Encoding::kQ4_K, Activation::kNone, false); }},
      {"packed product of many rows", [&] { return product(20, Encoding::kQ4_K, Activation::kSilu, false); }},
      {"expanded product", [&] { return product(129, Encoding::kQ4_K, Activation::kNone, false); }},
      {"expanded product with an epilogue",
       [&] { return product(129, Encoding::kQ4_K, Activation::kSilu, false); }},
      {"sample",
       [&] {
         row.top_p = row.repetition_penalty = 1;
         row.presence_penalty = 1;
         row.history = &history;
         row.n_history = 1;
         SampleArgs args;
         args.rows = 1;
         args.vocab = 64;
         args.logits = Filled(64 * 4, 0);
         args.sample = &row;
         args.results = &result;
         return [this, args] {
           for (int i = 0; i < 6; ++i) device_->Sample(stream_, args);  // more than there are slots
         };
       }},
  };
  for (const auto& [name, prepare] : operations) {
    int calls = 0;
    while (true) {
      MachineOptions machine;
      machine.lazy = true;
      if (name.starts_with("staged")) machine.registrable_bytes = 0, machine.pinnable_bytes = 10 * kMiB;
      Start(machine);
      const std::function<void()> run = prepare();
      ASSERT_TRUE(Synchronize().ok()) << name << ": " << device_->status();
      FailCall("any", calls + 1, cudaErrorInvalidValue);  // which does not stay
      run();
      const absl::Status status = Synchronize();
      if (Counts().failures == 0) break;
      EXPECT_FALSE(status.ok()) << name << ", call " << calls;
      ++calls;
      ASSERT_LT(calls, 300);
    }
    EXPECT_GE(calls, 3) << name;
    EXPECT_TRUE(device_->status().ok()) << name << ": " << device_->status();
  }
}

TEST_F(CudaFaultTest, WhatADeviceTookIsFreeAgain) {
  std::vector<uint8_t> host(1 << 16);
  ASSERT_TRUE(device_->RegisterHost(host.data(), 1 << 16).ok());
  EXPECT_FALSE(device_->RegisterHost(host.data(), 1 << 16).ok()) << "twice";
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  device_->UnregisterHost(host.data());
  ASSERT_TRUE(device_->RegisterHost(host.data(), 1 << 16).ok()) << "again";
  Filled(4096, 1);
  ASSERT_TRUE(Synchronize().ok());
  device_.reset();
  EXPECT_EQ(Counts().device_bytes, 0);
  EXPECT_EQ(Counts().pinned_bytes, 0);
}

TEST_F(CudaFaultTest, BatchesAreOfPageLockedMemoryAlone) {
  std::vector<uint8_t> host(4096);
  const DevicePtr memory = Filled(4096, 1);
  // The last one ends where the memory does.
  const std::vector<CopyRun> runs = {{memory, host.data(), 100},
                                     {memory + 200, host.data() + 200, 0},
                                     {memory + 1000, host.data() + 1000, 3096}};
  device_->CopyOutBatch(stream_, runs);
  EXPECT_EQ(Counts().batches, 0);
  EXPECT_EQ(Counts().pageable_copies, 2);
  ASSERT_TRUE(device_->RegisterHost(host.data(), 4096).ok());
  device_->CopyInBatch(stream_, runs);
  ASSERT_TRUE(Synchronize().ok());
  EXPECT_EQ(Counts().batches, 1);
  EXPECT_EQ(Counts().pageable_copies, 2);
  device_->UnregisterHost(host.data());
  device_->CopyInBatch(stream_, runs);
  EXPECT_EQ(Counts().batches, 1);
  EXPECT_EQ(Counts().pageable_copies, 4);
  ASSERT_TRUE(device_->RegisterHost(host.data(), 4095).ok());
  device_->CopyInBatch(stream_, runs);
  ASSERT_TRUE(Synchronize().ok());
  EXPECT_EQ(Counts().batches, 1) << "a byte short";
  EXPECT_EQ(Counts().pageable_copies, 5);
}

TEST(CudaError, TheFirstOneStays) {
  cuda::StickyError error;
  EXPECT_TRUE(error.Check(cudaSuccess, "nothing") && error.Check(absl::OkStatus()));
  EXPECT_FALSE(error.Check(cudaErrorInvalidValue, "the first"));
  const absl::Status first = error.status();
  EXPECT_THAT(std::string(first.message()), HasSubstr("the first"));
  EXPECT_FALSE(error.Check(cudaErrorLaunchFailure, "the second"));
  EXPECT_FALSE(error.Check(absl::InternalError("the third")));
  EXPECT_FALSE(error.Check(cudaSuccess, "nothing") || error.Check(absl::OkStatus()));
  EXPECT_EQ(error.status(), first);
}

TEST(CudaError, SaysWhatToDo) {
  const auto message = [](cudaError_t error) {
    return std::string(cuda::CudaStatus(error, "trying").message());
  };
  EXPECT_EQ(cuda::CudaStatus(cudaErrorMemoryAllocation, "trying").code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(message(cudaErrorMemoryAllocation), HasSubstr("--device_memory"));
  EXPECT_THAT(message(cudaErrorECCUncorrectable), HasSubstr("replace the GPU"));
  EXPECT_THAT(message(cudaErrorDevicesUnavailable), HasSubstr("exclusively"));
  EXPECT_THAT(message(cudaErrorLaunchFailure), HasSubstr("restart the daemon"));
  EXPECT_FALSE(cuda::NoGpuStatus(cudaSuccess, 13000, 13000).ok());
}

// --- What the machine says of itself.

TEST(PciLink, GenerationAndWidthAreReadFromSysfs) {
  const std::string folder = testing::TempDir() + "pci_link_test/0000:65:00.0";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/max_link_speed") << "16.0 GT/s PCIe\n";
  std::ofstream(folder + "/max_link_width") << "16\n";
  EXPECT_EQ(cuda::DescribePciLink("0000:65:00.0", testing::TempDir() + "pci_link_test"), "PCIe 4.0 x16");
  EXPECT_EQ(cuda::DescribePciLink("0000:66:00.0", testing::TempDir() + "pci_link_test"), "");
  EXPECT_EQ(cuda::NumaNodeOf("0000:65:00.0", testing::TempDir() + "pci_link_test"), -1);
  for (const auto& [text, node] : {std::pair{"1\n", 1}, {"0\n", 0}, {"-1\n", -1}, {"?", -1}}) {
    std::ofstream(folder + "/numa_node") << text;
    EXPECT_EQ(cuda::NumaNodeOf("0000:65:00.0", testing::TempDir() + "pci_link_test"), node);
  }
  std::ofstream(folder + "/version")
      << "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n";
  EXPECT_EQ(cuda::NvidiaDriverVersion(folder + "/version"), "580.65.06");
  EXPECT_EQ(cuda::NvidiaDriverVersion(folder + "/none"), "");
  std::filesystem::remove_all(testing::TempDir() + "pci_link_test");
}

TEST_F(CudaStartTest, TheDeviceSaysItsLinkAndTheNodeThatItLeadsTo) {
  CudaDeviceOptions options = Small();
  options.pci_devices = testing::TempDir() + "pci_devices_test";
  const std::string folder = options.pci_devices + "/0000:01:00.0";  // as the emulated GPU says
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/max_link_speed") << "32.0 GT/s PCIe\n";
  std::ofstream(folder + "/max_link_width") << "16\n";
  std::ofstream(folder + "/numa_node") << "3\n";
  ResetMachine(machine_);
  {
    const auto device = CreateCudaDevice(options).value();
    EXPECT_EQ(device->info().link, "PCIe 5.0 x16");
    EXPECT_EQ(device->info().numa_node, 3);
  }
  std::filesystem::remove_all(options.pci_devices);
  EXPECT_EQ(CreateCudaDevice(options).value()->info().numa_node, -1);
}

// --- Host memory.

// Copies whole, by runs that end anywhere and cannot be merged, and by runs that can; all must come back as
// they went.
void CopyThereAndBack(Device& device, uint8_t* from, uint8_t* to, int64_t size_bytes) {
  const StreamId stream = device.CreateStream("test");
  const EventId done = device.CreateEvent();
  const DevicePtr memory = device.Allocate(size_bytes, "copies").value();
  for (const int64_t run_bytes : {size_bytes, int64_t{100000}, int64_t{4096}}) {
    std::vector<CopyRun> in, out;
    for (int64_t first = 0; first < size_bytes; first += run_bytes) {
      const int64_t bytes = std::min(run_bytes, size_bytes - first);
      in.push_back({memory + first, from + first, bytes});
      out.push_back({memory + first, to + first, bytes});
    }
    if (run_bytes == 100000) std::reverse(in.begin(), in.end());
    for (int64_t i = 0; i < size_bytes; ++i) from[i] = static_cast<uint8_t>(i / 97 + run_bytes);
    device.CopyInBatch(stream, in);
    device.CopyOutBatch(stream, out);
    device.Record(done, stream);
    ASSERT_TRUE(device.Synchronize(done).ok()) << device.status();
    EXPECT_TRUE(std::equal(from, from + size_bytes, to)) << "by " << run_bytes;
    std::fill_n(to, size_bytes, uint8_t{0});
  }
  device.CopyIn(stream, memory, from, size_bytes);
  device.CopyOut(stream, to, memory, size_bytes);
  device.Record(done, stream);
  ASSERT_TRUE(device.Synchronize(done).ok()) << device.status();
  EXPECT_TRUE(std::equal(from, from + size_bytes, to));
  device.Free(memory);
}

TEST_F(CudaStartTest, LongHostMemoryIsRegisteredPieceByPieceAndCopiedAsOne) {
  constexpr int64_t kBytes = 3 * kMiB + 4096;
  machine_.registrable_at_once_bytes = kMiB;
  ResetMachine(machine_);
  CudaDeviceOptions options = Small();
  options.registered_at_once_bytes = kMiB;
  const auto device = CreateCudaDevice(options).value();
  const int64_t before_bytes = fakes::cuda::Counts().pinned_bytes;
  // Neighbours, registered one after the other.
  std::vector<uint8_t> host(2 * kBytes);
  ASSERT_TRUE(device->RegisterHost(host.data(), kBytes).ok());
  ASSERT_TRUE(device->RegisterHost(host.data() + kBytes, kBytes).ok());
  EXPECT_EQ(fakes::cuda::Counts().pinned_bytes - before_bytes, 2 * kBytes);
  CopyThereAndBack(*device, host.data(), host.data() + kBytes, kBytes);
  EXPECT_EQ(fakes::cuda::Counts().pageable_copies, 0);
  EXPECT_GT(fakes::cuda::Counts().batches, 0);
  device->UnregisterHost(host.data());
  device->UnregisterHost(host.data() + kBytes);
  EXPECT_EQ(fakes::cuda::Counts().pinned_bytes, before_bytes);
}

TEST_F(CudaStartTest, HostMemoryOfWhichAPieceIsRefusedIsNotRegisteredAtAll) {
  machine_.registrable_bytes = 2 * kMiB;
  ResetMachine(machine_);
  CudaDeviceOptions options = Small();
  options.registered_at_once_bytes = kMiB;
  const auto device = CreateCudaDevice(options).value();
  std::vector<uint8_t> host(3 * kMiB), other(2 * kMiB);
  EXPECT_THAT(std::string(device->RegisterHost(host.data(), 3 * kMiB).message()), HasSubstr("3.0 MiB"));
  EXPECT_TRUE(device->RegisterHost(other.data(), 2 * kMiB).ok()) << "nothing is left of it";
  device->UnregisterHost(other.data());
}

TEST_F(CudaStartTest, RegisteredMemoryIsNotCopiedByBatchesWhereTheDeviceReachesItElsewhere) {
  constexpr int64_t kBytes = kMiB;
  machine_.host_addresses_differ = true;
  ResetMachine(machine_);
  const auto device = CreateCudaDevice(Small()).value();
  std::vector<uint8_t> host(2 * kBytes);
  ASSERT_TRUE(device->RegisterHost(host.data(), 2 * kBytes).ok());
  CopyThereAndBack(*device, host.data(), host.data() + kBytes, kBytes);
  EXPECT_EQ(fakes::cuda::Counts().batches, 0);
  device->UnregisterHost(host.data());
}

}  // namespace
}  // namespace spillway::device
