// The device suite on the CUDA device, and what is that device's own: errors, options, memory. No GPU is
// involved: the device's sources are compiled against tests/fakes/cuda, whose emulator runs the kernels.
#include "engine/device/cuda/cuda_device.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "engine/device/cuda/pci_link.h"
#include "tests/engine/device/device_suite.h"
#include "tests/fakes/cuda/machine.h"

namespace spillway::device {
namespace {

using cuda::CreateCudaDevice;
using cuda::CudaDeviceOptions;
using fakes::cuda::FailCall;
using fakes::cuda::MachineOptions;
using fakes::cuda::ResetMachine;
using testing::AllOf;
using testing::HasSubstr;

// Little of what a device keeps for itself, so that work is cut into pieces as on a device under pressure.
CudaDeviceOptions Small() {
  CudaDeviceOptions options;
  options.scratch_bytes = 256 * kKiB;
  options.workspace_bytes = 64 * kKiB;
  return options;
}

DeviceCase CudaCase(DType dtype) {
  return {NameOf(dtype),
          [dtype](int64_t memory_bytes) {
            CudaDeviceOptions options = Small();
            options.dtype = dtype;
            options.memory_bytes = memory_bytes;
            return CreateCudaDevice(options);
          },
          /*one_in=*/8};
}

std::string CaseName(const testing::TestParamInfo<DeviceCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(CudaEmulated, DeviceSuite,
                         testing::Values(CudaCase(DType::kF32), CudaCase(DType::kBF16),
                                         CudaCase(DType::kF16)),
                         CaseName);

// --- What cannot start says why.

class CudaStartTest : public testing::Test {
 protected:
  void TearDown() override { ResetMachine({}); }
  absl::Status StartError(const CudaDeviceOptions& options = Small()) const {
    ResetMachine(machine_);
    return CreateCudaDevice(options).status();
  }

  MachineOptions machine_;
};

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

class CudaFaultTest : public testing::Test {
 protected:
  void SetUp() override {
    ResetMachine({});
    device_ = CreateCudaDevice(Small()).value();
    stream_ = device_->CreateStream("test");
    event_ = device_->CreateEvent();
  }
  void TearDown() override {
    device_.reset();
    ResetMachine({});
  }
  absl::Status Synchronize() {
    device_->Record(event_, stream_);
    return device_->Synchronize(event_);
  }

  std::unique_ptr<Device> device_;
  StreamId stream_{};
  EventId event_{};
};

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

// --- Products.

TEST_F(CudaStartTest, AHeightThatItsBucketsAlgorithmRefusesGetsOneOfItsOwn) {
  constexpr int64_t kFeatures = 24, kInner = 32;
  machine_.products_refuse_other_shapes = true;
  ResetMachine(machine_);
  CudaDeviceOptions options = Small();
  options.dtype = DType::kF32;
  const auto device = CreateCudaDevice(options).value();
  const StreamId stream = device->CreateStream("test");
  const EventId done = device->CreateEvent();
  const std::vector<float> ones(100 * kInner, 1.0F);
  PackedMatrix weight;
  weight.n = kFeatures;
  weight.k = kInner;
  weight.size_bytes = kFeatures * kInner * 4;
  weight.encoding = Encoding::kF32;
  weight.data = device->Allocate(weight.size_bytes, "weights").value();
  GemmArgs args;
  args.in = device->Allocate(100 * kInner * 4, "in").value();
  args.out = device->Allocate(100 * kFeatures * 4, "out").value();
  device->CopyIn(stream, weight.data, ones.data(), weight.size_bytes);
  device->CopyIn(stream, args.in, ones.data(), 100 * kInner * 4);
  for (const int32_t rows : {3, 5, 7, 9, 33, 65, 100}) {
    args.rows = rows;
    device->Gemm(stream, weight, args);
    std::vector<float> got(static_cast<size_t>(rows * kFeatures));
    device->CopyOut(stream, got.data(), args.out, rows * kFeatures * 4);
    device->Record(done, stream);
    ASSERT_TRUE(device->Synchronize(done).ok()) << device->status();
    EXPECT_THAT(got, testing::Each(static_cast<float>(kInner))) << rows;
  }
  for (const DevicePtr memory : {weight.data, args.in, args.out}) device->Free(memory);
}

// --- Samples cross in mapped memory.

TEST_F(CudaFaultTest, ResultsOfSamplesComeWhenAnEventAfterThemHasRun) {
  constexpr int32_t kVocab = 64;
  std::vector<float> logits(kVocab, 0.0F);
  logits[7] = 1;
  const DevicePtr memory = device_->Allocate(kVocab * 4, "logits").value();
  device_->CopyIn(stream_, memory, logits.data(), kVocab * 4);
  SampleRow row{};
  row.top_p = row.repetition_penalty = 1;
  row.n_logprobs = -1;
  // More calls than there are slots between two looks at the device.
  std::vector<SampleResult> results(20);
  for (SampleResult& result : results) {
    SampleArgs args;
    args.rows = 1;
    args.vocab = kVocab;
    args.logits = memory;
    args.sample = &row;
    args.results = &result;
    device_->Sample(stream_, args);
  }
  ASSERT_TRUE(Synchronize().ok());
  for (const SampleResult& result : results) EXPECT_EQ(result.token, 7);
  device_->Free(memory);
}

TEST_F(CudaFaultTest, HistoriesLongerThanASlotAreSampledWhole) {
  constexpr int32_t kVocab = 1000;
  std::vector<float> logits(kVocab, 0.0F);
  logits[7] = 3;
  logits[8] = 2;
  logits[9] = 1;
  const DevicePtr memory = device_->Allocate(3 * kVocab * 4, "logits").value();
  for (int i = 0; i < 3; ++i) device_->CopyIn(stream_, memory + i * kVocab * 4, logits.data(), kVocab * 4);
  std::vector<int32_t> history(300000, 8);
  history.back() = 7;
  SampleRow row{};
  row.top_p = row.repetition_penalty = 1;
  row.presence_penalty = 2.5;
  row.n_logprobs = 0;
  row.history = history.data();
  row.n_history = static_cast<int32_t>(history.size());
  std::vector<SampleRow> rows(3, row);
  rows[1].n_history = 1;
  std::vector<SampleResult> results(3);
  SampleArgs args;
  args.rows = 3;
  args.vocab = kVocab;
  args.logits = memory;
  args.sample = rows.data();
  args.results = results.data();
  device_->Sample(stream_, args);
  ASSERT_TRUE(Synchronize().ok());
  EXPECT_EQ(results[0].token, 9);
  EXPECT_EQ(results[1].token, 7);
  EXPECT_EQ(results[2].token, 9);
  device_->Free(memory);
}

}  // namespace
}  // namespace spillway::device
