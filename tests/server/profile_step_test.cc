#include "server/profile_step.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/engine.h"
#include "server/pool_setup.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A tiny model on the CPU, and a folder of its own.
class ProfileStep : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "profile_step_" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
    const std::string path = folder_ + "/tiny.gguf";
    ASSERT_TRUE(fakes::WriteTinyLlama(path, fakes::TinyLlamaOptions()).ok());
    device::CpuDeviceOptions cpu;
    cpu.threads = 1;
    device_ = *device::CreateCpuDevice(cpu);
    model_ = *model::LoadModel(path, *device_, {});
    settings_.model = path;
    settings_.prefill_chunk_tokens = 16;
  }
  void TearDown() override {
    model_ = {};
    std::filesystem::remove_all(folder_);
  }

  std::string folder_;
  Settings settings_;
  std::unique_ptr<device::Device> device_;
  model::Model model_;
};

TEST_F(ProfileStep, WithoutALinkNothingIsMeasuredUnasked) {
  const auto profile = ObtainProfile(settings_, *device_, model_);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_FALSE(profile->profile.has_value());
}

TEST_F(ProfileStep, IsMeasuredOnceReadAgainAndRefusedElsewhere) {
  settings_.profile = folder_ + "/profile.json";
  const auto first = ObtainProfile(settings_, *device_, model_);
  ASSERT_TRUE(first.ok() && first->profile.has_value()) << first.status();
  EXPECT_EQ(access(settings_.profile.c_str(), R_OK), 0);
  const auto second = ObtainProfile(settings_, *device_, model_);
  ASSERT_TRUE(second.ok() && second->profile.has_value()) << second.status();
  EXPECT_EQ(profiler::ProfileToJson(*second->profile), profiler::ProfileToJson(*first->profile))
      << "not measured anew";

  profiler::MachineProfile other = *first->profile;
  other.identity.machine = "0000";
  other.identity.machine_parts = "processor: Another; threads: 99";
  ASSERT_TRUE(profiler::SaveProfile(other, settings_.profile).ok());
  const auto refused = ObtainProfile(settings_, *device_, model_);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("--profile="), HasSubstr("threads: 99, here 1"), HasSubstr("--reprofile")));
  std::ofstream(settings_.profile) << "{}";
  const auto unread = ObtainProfile(settings_, *device_, model_);
  EXPECT_EQ(unread.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(unread.status().message()),
            "--profile: " + settings_.profile +
                ": profile: schema_version is missing; measure again with --reprofile, or name another file");

  // Plans go as far as the served model's context, whichever's it was when the profile was saved.
  profiler::MachineProfile longer = *first->profile;
  longer.model.context_length *= 4;
  ASSERT_TRUE(profiler::SaveProfile(longer, settings_.profile).ok());
  const auto own = ObtainProfile(settings_, *device_, model_);
  ASSERT_TRUE(own.ok() && own->profile.has_value()) << own.status();
  EXPECT_EQ(own->profile->model.context_length, model_.config.context_length);

  // Steps are planned with its numbers, so that an edited one is another model's.
  profiler::MachineProfile edited = *first->profile;
  edited.model.n_layers += 1;
  ASSERT_TRUE(profiler::SaveProfile(edited, settings_.profile).ok());
  const auto foreign = ObtainProfile(settings_, *device_, model_);
  EXPECT_EQ(foreign.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(foreign.status().message()), HasSubstr("model.n_layers"));
}

TEST_F(ProfileStep, AWrongFileIsRefusedByTheModelsHeaderAlone) {
  settings_.profile = folder_ + "/profile.json";
  const auto check = [&](const device::DeviceInfo& info) {
    const auto header = ReadModelHeader(settings_);
    EXPECT_TRUE(header.ok()) << header.status();
    return CheckProfileFlag(settings_, header->config, info);
  };
  EXPECT_TRUE(check(device_->info()).ok()) << "what is not there is measured later";
  const auto measured = ObtainProfile(settings_, *device_, model_);
  ASSERT_TRUE(measured.ok() && measured->profile.has_value()) << measured.status();
  EXPECT_TRUE(check(device_->info()).ok());

  device::DeviceInfo info = device_->info();
  info.threads = 99;
  EXPECT_THAT(std::string(check(info).message()), HasSubstr("(threads: 1, here 99)"));
  info = device_->info();
  info.compute_dtype = info.compute_dtype == device::DType::kF32 ? device::DType::kBF16 : device::DType::kF32;
  EXPECT_THAT(std::string(check(info).message()), HasSubstr("another model (dtype: "));
  // Chunks of the ring, which it was measured with, are smaller on a device this small.
  info = device_->info();
  info.memory_bytes = 2 << 20;
  EXPECT_THAT(std::string(check(info).message()), HasSubstr("another model (ring chunk: not said, here "));
  for (const int64_t gib : {1, 80}) {
    info.memory_bytes = gib << 30;
    EXPECT_TRUE(check(info).ok()) << check(info);
  }

  // And curves of fewer rows than a visit has.
  settings_.prefill_chunk_tokens = 1024;
  EXPECT_THAT(std::string(check(device_->info()).message()),
              HasSubstr("another model (rows of a visit: not said, here 1024)"));
  settings_.prefill_chunk_tokens = 16;

  // What only the packed weights tell is left to them.
  profiler::MachineProfile packed = *measured->profile;
  const size_t at = packed.identity.model_parts.find("encodings: ");
  ASSERT_NE(at, std::string::npos);
  packed.identity.model_parts.insert(at + 11, "Q4_K+");
  packed.identity.model = "0000";
  ASSERT_TRUE(profiler::SaveProfile(packed, settings_.profile).ok());
  EXPECT_TRUE(check(device_->info()).ok());
  EXPECT_THAT(std::string(ObtainProfile(settings_, *device_, model_).status().message()),
              HasSubstr("another model (encodings: Q4_K+"));

  profiler::MachineProfile edited = *measured->profile;
  edited.model.vocab_size += 1;
  ASSERT_TRUE(profiler::SaveProfile(edited, settings_.profile).ok());
  EXPECT_THAT(std::string(check(device_->info()).message()), HasSubstr("model.vocab_size"));
  std::ofstream(settings_.profile) << "{\"schema_version\": 1}";
  EXPECT_THAT(std::string(check(device_->info()).message()),
              AllOf(HasSubstr("--profile: "), HasSubstr("schema_version"), HasSubstr("--reprofile")));
  settings_.reprofile = true;
  EXPECT_TRUE(check(device_->info()).ok()) << "it is replaced";
}

TEST_F(ProfileStep, AFolderThatIsNotThereIsRefusedAndNotMade) {
  settings_.profile = folder_ + "/new/profile.json";
  const auto refused = ObtainProfile(settings_, *device_, model_);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("no such folder"));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/new"));
}

TEST_F(ProfileStep, ABadFileInTheCacheAndAFolderThatCannotBeWrittenAreNoReasonNotToServe) {
  settings_.reprofile = true;
  settings_.cache_dir = folder_ + "/tiny.gguf/cache";  // below a file
  const auto unsaved = ObtainProfile(settings_, *device_, model_);
  ASSERT_TRUE(unsaved.ok() && unsaved->profile.has_value()) << unsaved.status();
  EXPECT_TRUE(unsaved->is_unsaved);

  settings_.cache_dir = folder_ + "/cache";
  std::filesystem::create_directories(settings_.cache_dir);
  const std::string path = ProfilePath(settings_, unsaved->profile->identity);
  EXPECT_THAT(path, testing::StartsWith(settings_.cache_dir + "/profile-"));
  std::ofstream(path) << "rubbish";
  settings_.reprofile = false;
  settings_.profile_only = true;
  const auto again = ObtainProfile(settings_, *device_, model_);
  ASSERT_TRUE(again.ok() && again->profile.has_value()) << again.status();
  EXPECT_TRUE(profiler::LoadProfile(path).ok()) << "replaced";
  EXPECT_FALSE(again->is_unsaved);
}

TEST_F(ProfileStep,
       ADeviceThatIsTooSmallForTheModelIsToldWhatSmallerBatchesSpareAndNothingWhereThatIsNothing) {
  device::CpuDeviceOptions cpu;
  cpu.threads = 1;
  cpu.memory_bytes = 100'000;
  const auto small = *device::CreateEmulatedLinkDevice(*device::CreateCpuDevice(cpu), {});
  const auto refusal = [&](int64_t max_sequences, int64_t prefill_rows) {
    settings_.max_sequences = max_sequences;
    settings_.prefill_rows = prefill_rows;
    const auto header = ReadModelHeader(settings_);
    EXPECT_TRUE(header.ok()) << header.status();
    const absl::Status status = LoadServedModel(settings_, *header, *small).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(64, 1024),
              AllOf(HasSubstr("would do"),
                    HasSubstr("--max_sequences, --prefill_rows and --prefill_chunk_tokens spare")));
  EXPECT_THAT(refusal(1, 16), AllOf(HasSubstr("would do"), testing::Not(HasSubstr("--max_sequences"))));
  settings_.prefill_chunk_tokens = 64;
  EXPECT_THAT(refusal(1, 16), HasSubstr("--prefill_chunk_tokens spare"));
}

TEST(HostNumaNode, IsTheFlagsElseTheDevicesWhereThereAreOthers) {
  const std::string root = testing::TempDir() + std::to_string(getpid()) + "_nodes";
  const std::string nodes = root + "/sys/devices/system/node";
  for (const char* node : {"/node0", "/node1"}) std::filesystem::create_directories(nodes + node);
  std::ofstream(nodes + "/online") << "0-1\n";
  Settings settings;
  device::DeviceInfo info;
  EXPECT_EQ(HostNumaNode(settings, info, root), -1) << "no link leads anywhere";
  info.numa_node = 1;
  EXPECT_EQ(HostNumaNode(settings, info, root), 1);
  settings.numa_node = 0;
  EXPECT_EQ(HostNumaNode(settings, info, root), 0);
  settings.numa_node = -1;
  std::ofstream(nodes + "/online") << "0\n";
  EXPECT_EQ(HostNumaNode(settings, info, root), -1);
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace spillway::server
