// `spillway-bench gpu`: its arithmetic by known numbers, and whole runs of it at a tiny shape, over the CPU
// behind an emulated link and over the emulated GPU. What those print means nothing; that it is whole does.
#include "bench/gpu.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/gpu_bounds.h"
#include "bench/gpu_measurement.h"
#include "bench/gpu_session.h"
#include "bench/gpu_shape.h"
#include "bench/gpu_targets.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

model::ModelConfig Small() {
  model::ModelConfig config;
  config.n_layers = 2;
  config.d_model = 8;
  config.n_heads = 4;
  config.n_kv_heads = 2;
  config.d_head = 2;
  config.d_ff = 16;
  config.vocab_size = 100;
  config.activation = model::ActivationKind::kSiluGated;
  return config;
}

TEST(GpuBounds, KeysAndValuesOfATokenAreThoseOfAllLayers) {
  EXPECT_EQ(KvBytesPerToken(Small(), 2), 2 * 4 * 2 * 2);
}

TEST(GpuBounds, APromptIsItsMatricesAndEachPairOfATokenAndOneNotAfterIt) {
  const PromptFlop flop = FlopOfPrompt(Small(), 3);
  const double layer = 8 * (8 + 2 * 4) + 8 * 8 + 3 * 8 * 16;  // q|k|v, output, gate|up and down
  EXPECT_EQ(flop.linear, 2 * (3 * 2 * layer + 8 * 100)) << "the head for one row";
  EXPECT_EQ(flop.attention, 2 * 4 * 6 * 4 * 2) << "2 layers, 4 heads, 6 pairs, q.k and p.v of 2 elements";
  model::ModelConfig plain = Small();
  plain.activation = model::ActivationKind::kRelu;
  EXPECT_EQ(FlopOfPrompt(plain, 3).linear, flop.linear - 2 * 3 * 2 * 8 * 16) << "up and down alone";
}

TEST(GpuBounds, AShareIsOfTheRateThatTheWorkTook) {
  EXPECT_DOUBLE_EQ(ShareOfRate(3e9, 2e-3, 2e12), 0.75);
  EXPECT_EQ(ShareOfRate(3e9, 0, 2e12), 0);
}

TEST(GpuBounds, MoreLayersTakeWhatTheLayersTookAndTheRestOnce) {
  const PassTime pass{1.5e-3, 1e-3, 8};
  EXPECT_DOUBLE_EQ(pass.SecondsWith(8), 1.5e-3);
  EXPECT_DOUBLE_EQ(pass.SecondsWith(32), 4.5e-3);
}

TEST(GpuBounds, RatesArePrintedInTheirUnits) {
  EXPECT_EQ(FormatRate(3.014e12, "B"), "3.01 TB/s");
  EXPECT_EQ(FormatRate(55.1e9, "B"), "55.1 GB/s");
  EXPECT_EQ(FormatRate(7.8e14, "FLOP"), "780 TFLOP/s");
}

TEST(GpuShape, FewerLayersAreRunWhereMemoryIsSmall) {
  const GpuShape shape = Llama8BShape();
  const auto fit = [&](double gigabytes) {
    return LayersThatFit(shape, device::Encoding::kBF16, 2, static_cast<int64_t>(gigabytes * 1e9));
  };
  EXPECT_EQ(fit(78), 8);
  EXPECT_EQ(fit(22), 8) << "a card of 24 GB";
  EXPECT_GT(fit(7.5), 0);
  EXPECT_LT(fit(7.5), 8);
  EXPECT_EQ(fit(3), 0);
  EXPECT_EQ(shape.ChunkTokens(4096, 2), 256);
}

TEST(GpuTargets, AMissIsToldFromWhatWasNotMeasured) {
  std::vector<GpuTarget> targets(4);
  for (GpuTarget& target : targets) target.asked = 0.7;
  targets[0].measured = 0.7;
  targets[0].whole = 0.755;
  targets[1].measured = 0.699;
  targets[2].kind = GpuTarget::Kind::kError;
  targets[2].measured = 0.71;
  std::ostringstream out;
  PrintTargets(targets, 32, out);
  std::vector<std::string> lines;
  std::istringstream in(out.str());
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  EXPECT_THAT(lines, ElementsAre(HasSubstr("as 32 layers"), AllOf(HasSubstr("ok"), HasSubstr("~ 75.5 %")),
                                 HasSubstr("MISS"), AllOf(HasSubstr("<= 70.0 %"), HasSubstr("MISS")),
                                 HasSubstr("skipped")));
  EXPECT_EQ(ToJson(targets[1])["met"], false);
  EXPECT_EQ(ToJson(targets[3])["met"], nullptr);
}

nlohmann::json SplitReport() {
  return nlohmann::json::parse(R"({"benchmark": "split", "link": "cuda",
    "machines": [{"model": "multi-head", "link_mb_per_s": 0, "profiled_link_in_bytes_per_s": 1000.0}],
    "rows": [
      {"model": "multi-head", "link_mb_per_s": 0, "mode": "transfer", "resident_share": 0.0,
       "carried_bytes": 100, "step_s": [9.0], "link_busy_share": 0.5},
      {"model": "multi-head", "link_mb_per_s": 0, "mode": "transfer", "resident_share": 0.0,
       "carried_bytes": 1900, "step_s": [3.0, 2.0, 1.0], "link_busy_share": 0.99},
      {"model": "multi-head", "link_mb_per_s": 0, "mode": "auto", "resident_share": 0.0,
       "carried_bytes": 5000, "step_s": [1.0], "link_busy_share": 0.9}],
    "prediction": {"profile alone": {"shapes": 12, "error_median": 0.04}}})");
}

TEST(GpuTargets, OfTheSplitBenchmarkTheLargestRowAndThePrediction) {
  const auto targets = TargetsOfSplit(SplitReport());
  ASSERT_TRUE(targets.ok()) << targets.status();
  ASSERT_EQ(targets->size(), 2u);
  EXPECT_DOUBLE_EQ(*targets->front().measured, 0.95);
  EXPECT_TRUE(targets->front().met());
  EXPECT_DOUBLE_EQ(*targets->back().measured, 0.04);
  EXPECT_TRUE(targets->back().met());
}

TEST(GpuTargets, AnotherReportIsRefused) {
  EXPECT_FALSE(TargetsOfSplit({{"benchmark", "serve"}}).ok());
  nlohmann::json broken = SplitReport();
  broken["rows"][1].erase("step_s");
  EXPECT_THAT(std::string(TargetsOfSplit(broken).status().message()), HasSubstr("step_s"));
}

std::unique_ptr<device::Device> MakeDevice(double link_bytes_per_s, int64_t memory_bytes = 64 << 20) {
  device::CpuDeviceOptions cpu;
  cpu.threads = 1;
  cpu.memory_bytes = memory_bytes;
  device::StreamEngineOptions link;
  link.link_bytes_per_s = link_bytes_per_s;
  return device::CreateEmulatedLinkDevice(device::CreateCpuDevice(cpu).value(), link).value();
}

model::Model LoadModel(device::Device& device, const GpuShape& shape) {
  const std::string path = absl::StrCat(testing::TempDir(), getpid(), "_gpu_config.json");
  std::ofstream(path) << ConfigJson(shape, shape.layers);
  auto model = model::LoadRandomModel(path, 1, device, {});
  EXPECT_TRUE(model.ok()) << model.status();
  std::remove(path.c_str());
  return std::move(model).value();
}

TEST(GpuSession, StepsReadTheCacheThatTheShapeSays) {
  const auto device = MakeDevice(1e9);
  const GpuShape shape = TinyShape();
  const model::Model model = LoadModel(*device, shape);
  const auto session = GpuSession::Create(*device, model, shape, CachePlace::kDevice);
  ASSERT_TRUE(session.ok()) << session.status();
  ASSERT_TRUE((*session)->FillContexts().ok());
  const auto steps = (*session)->Decode(2, 2);
  ASSERT_TRUE(steps.ok()) << steps.status();
  EXPECT_EQ(steps->at(0).reads_tokens, 2 * (shape.context + 1));
  EXPECT_EQ(steps->at(1).reads_tokens, 2 * (shape.context + 2));
  EXPECT_EQ(steps->at(1).tokens.resident_kv_tokens, 2 * (shape.context + 1));
  const auto pieces = (*session)->Prefill(32);
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  ASSERT_EQ(pieces->size(), 2u);
  EXPECT_EQ(pieces->at(1).rows, 32);
  EXPECT_EQ(pieces->at(1).sampled_rows, 1);
  ASSERT_TRUE((*session)->Prefill(16).ok()) << "the same blocks again";
}

TEST(GpuSession, AllKeysAndValuesOfACacheOnTheHostCrossTheLink) {
  const auto device = MakeDevice(20e6);
  GpuShape shape = TinyShape();
  shape.batches = {8};
  shape.context = 256;
  const model::Model model = LoadModel(*device, shape);
  const auto session = GpuSession::Create(*device, model, shape, CachePlace::kHost);
  ASSERT_TRUE(session.ok()) << session.status();
  const auto steps = (*session)->Decode(8, 4);
  ASSERT_TRUE(steps.ok()) << steps.status();
  const int64_t step_bytes =
      8 * 256 * KvBytesPerToken(model.config, device::SizeOf(device->info().compute_dtype));
  int64_t bytes = 0;
  for (const exec::StepStats& stats : *steps) {
    EXPECT_EQ(stats.tokens.carried_kv_tokens, 8 * 256);
    bytes += stats.lanes[static_cast<size_t>(exec::Lane::kKvLoad)].bytes;
  }
  // But for what the last one fetched ahead.
  EXPECT_GE(bytes, 4 * step_bytes);
  EXPECT_LE(bytes, 5 * step_bytes);
}

// A model whose numbers are not there is not passed over.
TEST(GpuMeasurement, WhatHasNoRoomIsSkippedByName) {
  const auto device = MakeDevice(1e9, 3 << 20);
  const std::atomic<bool> stop{false};
  std::ostringstream progress;
  GpuMeasurement measurement(*device, TinyShape(), 60, stop, progress);
  ASSERT_TRUE(measurement.Measure().ok());
  int decodes = 0;
  for (const GpuTarget& target : measurement.targets()) {
    if (target.name.rfind("decode_bf16", 0) != 0) continue;
    ++decodes;
    EXPECT_FALSE(target.measured.has_value());
    EXPECT_THAT(target.of, HasSubstr("holds no layer"));
  }
  EXPECT_EQ(decodes, 2);
}

TEST(GpuMeasurement, NothingBeginsOnceItIsStopped) {
  const auto device = MakeDevice(1e9);
  const std::atomic<bool> stop{true};
  std::ostringstream progress;
  GpuMeasurement measurement(*device, TinyShape(), 60, stop, progress);
  ASSERT_TRUE(measurement.Measure().ok());
  EXPECT_FALSE(measurement.targets().empty());
  for (const GpuTarget& target : measurement.targets()) EXPECT_EQ(target.of, "stopped") << target.name;
}

struct Result {
  client::ExitCode code;
  std::string out, err;
  nlohmann::json json;
};

Result RunTiny(std::vector<std::string> args) {
  const std::string path = absl::StrCat(testing::TempDir(), getpid(), "_gpu.json");
  args.push_back("--json=" + path);
  std::istringstream in;
  std::ostringstream out, err;
  client::Console console{in, out, err, false, false, false};
  const std::atomic<bool> stop{false};
  Result result{RunGpu(args, console, stop), out.str(), err.str(), {}};
  std::ifstream file(path);
  if (file) result.json = nlohmann::json::parse(file);
  std::remove(path.c_str());
  return result;
}

// Every target of a run, each with a number.
void ExpectWhole(const Result& result) {
  ASSERT_EQ(result.code, client::kExitOk) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("mean nothing"), Not(HasSubstr("skipped"))));
  EXPECT_EQ(result.json["means_nothing"], true);
  for (const char* peak : {"memory_bytes_per_s", "pinned_copy_in_bytes_per_s", "product_flop_per_s"}) {
    EXPECT_GT(result.json["peaks"][peak].get<double>(), 0) << peak;
  }
  std::set<std::string> names;
  for (const nlohmann::json& target : result.json["targets"]) {
    names.insert(target["name"].get<std::string>());
    EXPECT_TRUE(target["measured"].is_number() && target["met"].is_boolean()) << target;
  }
  EXPECT_THAT(names,
              testing::IsSupersetOf({"link_carried", "rebuild_128_256", "rebuild_128_64", "attention_1_32",
                                     "attention_2_64", "decode_bf16_1", "decode_bf16_2", "prefill_bf16_16",
                                     "prefill_bf16_32", "decode_q4_k_1", "decode_q4_k_2", "prefill_q4_k_16",
                                     "prefill_q4_k_32", "decode_q4_k_over_bf16"}));
  ASSERT_EQ(result.json["models"].size(), 2u);
  for (const nlohmann::json& model : result.json["models"]) {
    EXPECT_EQ(model["decode"].size(), 2u);
    EXPECT_EQ(model["decode"][0]["step_s"].size(), 2u);
    EXPECT_EQ(model["prefill"].size(), 2u);
    EXPECT_EQ(model["layers"], 2);
  }
  EXPECT_GT(result.json["models"][0]["carried"]["bytes"].get<int64_t>(), 0);
}

TEST(GpuBench, IsWholeOverTheCpuBehindAnEmulatedLink) {
  const std::string split = absl::StrCat(testing::TempDir(), getpid(), "_split.json");
  std::ofstream(split) << SplitReport();
  const Result result = RunTiny({"--device=cpu", "--tiny", "--split=" + split});
  std::remove(split.c_str());
  ExpectWhole(result);
  EXPECT_THAT(result.out, AllOf(HasSubstr("EMULATED link"), HasSubstr("prediction, median error")));
  EXPECT_EQ(result.json["targets"].back()["name"], "prediction_error");
  EXPECT_EQ(result.json["models"][1]["packed"], false);
}

TEST(GpuBench, IsWholeOverTheEmulatedGpu) {
  const Result result = RunTiny({"--tiny", absl::StrCat("--cuda_module=", SPILLWAY_EMULATED_MODULE)});
  ExpectWhole(result);
  const nlohmann::json& packed = result.json["models"][1];
  EXPECT_EQ(packed["packed"], true);
  // Two steps warm up, of the other two the second counts: 32 + 4 tokens, 2 layers, K and V of 2 heads of 32.
  EXPECT_EQ(packed["decode"][0]["kv_bytes"], 36 * 2 * 2 * 64 * 2);
  // 4.5 bits of a weight for 16.
  EXPECT_LT(packed["decode"][0]["weight_bytes"].get<double>(),
            0.3 * result.json["models"][0]["decode"][0]["weight_bytes"].get<double>());
}

TEST(GpuBench, WhatCannotWorkIsRefusedBeforeAnything) {
  EXPECT_THAT(RunTiny({"--device=cpu"}).err, HasSubstr("--tiny"));
  EXPECT_THAT(RunTiny({"--layers=33"}).err, HasSubstr("1..32"));
  EXPECT_THAT(RunTiny({"--split=/nowhere/split.json"}).err, HasSubstr("cannot be read"));
  const Result gone = RunTiny({"--cuda_module=/nowhere/libspillway_cuda.so"});
  EXPECT_EQ(gone.code, client::kExitFailed);
  EXPECT_THAT(gone.err, HasSubstr("no CUDA module"));
}

}  // namespace
}  // namespace spillway::bench
