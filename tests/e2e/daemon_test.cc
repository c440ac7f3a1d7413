// What a person and a supervisor see of spillwayd: starting, failing to start, answering, stopping.
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "spillway/v1/admin.grpc.pb.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/e2e/spawned_daemon.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::e2e {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

v1::CompleteRequest Request(int32_t max_tokens) {
  v1::CompleteRequest request;
  request.set_text("the quick brown fox");
  request.mutable_options()->set_max_tokens(max_tokens);
  request.mutable_options()->mutable_sampling()->set_temperature(0);
  request.mutable_options()->mutable_stop()->set_ignore_eos(true);
  return request;
}

// The one line that a failed start leaves, without log lines of what went well before.
std::string LastLine(const std::string& output) {
  const std::vector<std::string> lines = absl::StrSplit(output, '\n', absl::SkipEmpty());
  return lines.empty() ? "" : lines.back();
}

void ExpectRefusal(const ExitResult& result, const std::vector<std::string>& words) {
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_EQ(result.signal, 0) << result.output;
  const std::string line = LastLine(result.output);
  EXPECT_THAT(line, testing::StartsWith("spillwayd: "));
  for (const std::string& word : words) EXPECT_THAT(line, HasSubstr(word));
}

TEST(Daemon, AnswersAndStopsWithZero) {
  SpawnedDaemon daemon(ModelFlags());
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  EXPECT_EQ(Get(daemon.metrics_address(), "/livez").code, 200);
  EXPECT_THAT(Get(daemon.metrics_address(), "/metrics").body, HasSubstr("spillway_ready 1"));
  EXPECT_THAT(Get(daemon.metrics_address(), "/metrics").body,
              HasSubstr("spillway_requests_finished_total{code=\"OK\",reason=\"LENGTH\"} 0"))
      << "the warm-up does not count";
  for (const char* phase : {"model", "profile", "pool", "executor", "warm_up"}) {
    const std::string body = Get(daemon.metrics_address(), "/metrics").body;
    const std::string series = absl::StrCat("spillway_start_seconds{phase=\"", phase, "\"} ");
    const size_t at = body.find(series);
    ASSERT_NE(at, std::string::npos) << series;
    EXPECT_GE(std::stod(body.substr(at + series.size())), 0);
  }
  EXPECT_THAT(daemon.output(), HasSubstr("warm_up 0."));

  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  v1::CompleteResponse unary;
  ASSERT_TRUE(stub->Complete(NewContext().get(), Request(12), &unary).ok());
  EXPECT_EQ(unary.choices(0).token_ids_size(), 12);
  const auto context = NewContext();
  const auto reader = stub->StreamComplete(context.get(), Request(12));
  v1::StreamEvent event;
  std::string text;
  while (reader->Read(&event)) text += event.delta().text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, unary.choices(0).text());

  v1::GetModelResponse model;
  ASSERT_TRUE(stub->GetModel(NewContext().get(), {}, &model).ok());
  EXPECT_EQ(model.model().name(), "tiny-llama");
  EXPECT_EQ(model.model().architecture(), "llama");
  EXPECT_EQ(model.model().context_tokens(), 512);
  EXPECT_TRUE(model.model().features().chat());

  v1::GetStatusResponse status;
  ASSERT_TRUE(v1::AdminService::NewStub(daemon.Connect())->GetStatus(NewContext().get(), {}, &status).ok());
  EXPECT_EQ(status.limits().max_sequences(), 8);
  EXPECT_GT(status.limits().max_queue(), 0);
  EXPECT_GT(status.limits().context_tokens(), 0);
  EXPECT_GT(status.limits().max_connections(), 0);
  EXPECT_EQ(status.state(), v1::SERVER_STATE_SERVING);
  EXPECT_THAT(status.device(), HasSubstr("cpu: "));

  daemon.Signal(SIGTERM);
  const ExitResult result = daemon.Wait();
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("serving"), HasSubstr("request finished"), HasSubstr("stopped")));
  EXPECT_THAT(result.output, Not(HasSubstr("quick brown"))) << "prompts are never logged";
  EXPECT_NE(access(daemon.address_file().c_str(), F_OK), 0) << "the address is nobody's any more";
}

TEST(Daemon, ChatAndGenerationDefaultsComeFromTheFile) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_defaults.gguf";
  fakes::TinyLlamaOptions options;
  options.amend = [](fakes::GgufWriter& writer) {
    writer.Float32("general.sampling.temp", 0.25F);
    writer.Uint32("general.sampling.top_k", 7);
    writer.Float32("general.sampling.top_p", 5);  // nonsense is passed over, and said
  };
  ASSERT_TRUE(fakes::WriteTinyLlama(path, options).ok());
  SpawnedDaemon daemon(
      {"--model=" + path, "--host_pool=64MiB", "--served_model_name=mine,also", "--threads=1"});
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  EXPECT_THAT(daemon.output(), HasSubstr("general.sampling.top_p"));
  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  v1::GetModelRequest request;
  request.set_model("also");
  v1::GetModelResponse model;
  ASSERT_TRUE(stub->GetModel(NewContext().get(), request, &model).ok());
  EXPECT_EQ(model.model().name(), "mine");
  EXPECT_FLOAT_EQ(model.model().defaults().sampling().temperature(), 0.25F);
  EXPECT_EQ(model.model().defaults().sampling().top_k(), 7);
  EXPECT_FLOAT_EQ(model.model().defaults().sampling().top_p(), 1);
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("hello");
  chat.mutable_options()->set_max_tokens(5);
  v1::ChatResponse answer;
  EXPECT_TRUE(stub->Chat(NewContext().get(), chat, &answer).ok());
}

TEST(Daemon, RandomWeightsServeTokenIdsOnly) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_config.json";
  ASSERT_TRUE(fakes::WriteFile(path, R"({"model_type": "opt", "hidden_size": 64, "ffn_dim": 256,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 500, "max_position_embeddings": 128})")
                  .ok());
  const auto answer_of = [&](const std::string& seed) {
    SpawnedDaemon daemon(
        {"--random_weights=" + path, "--random_seed=" + seed, "--host_pool=64MiB", "--threads=1"});
    EXPECT_TRUE(daemon.WaitUntilReady()) << daemon.output();
    EXPECT_THAT(daemon.output(), HasSubstr("RANDOM WEIGHTS"));
    const auto stub = v1::InferenceService::NewStub(daemon.Connect());
    EXPECT_EQ(stub->Complete(NewContext().get(), Request(4), std::make_unique<v1::CompleteResponse>().get())
                  .error_code(),
              grpc::StatusCode::FAILED_PRECONDITION);
    v1::GetModelResponse model;
    EXPECT_TRUE(stub->GetModel(NewContext().get(), {}, &model).ok());
    EXPECT_EQ(model.model().architecture(), "opt");
    EXPECT_EQ(model.model().vocab_size(), 500);
    EXPECT_TRUE(model.model().features().token_ids_only());
    v1::CompleteRequest request = Request(12);
    for (int32_t id = 1; id < 30; ++id) request.mutable_tokens()->add_ids(id * 16);
    v1::CompleteResponse answer;
    const grpc::Status status = stub->Complete(NewContext().get(), request, &answer);
    EXPECT_TRUE(status.ok()) << status.error_message();
    if (answer.choices().empty()) return std::vector<int32_t>();
    EXPECT_EQ(answer.choices(0).text(), "");
    return std::vector<int32_t>(answer.choices(0).token_ids().begin(), answer.choices(0).token_ids().end());
  };
  const std::vector<int32_t> one = answer_of("1");
  EXPECT_EQ(one.size(), 12u);
  EXPECT_EQ(answer_of("1"), one);
  EXPECT_NE(answer_of("2"), one);
}

TEST(Daemon, AHuggingFaceDirectoryIsServedAndSaysWhyItHasNoText) {
  SpawnedDaemon daemon({"--model=tests/golden/model/opt/", "--host_pool=64MiB", "--threads=1"});
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  EXPECT_THAT(daemon.output(), AllOf(HasSubstr("NO TOKENIZER"), HasSubstr("tokenizer.json")));
  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  v1::GetModelResponse model;
  ASSERT_TRUE(stub->GetModel(NewContext().get(), {}, &model).ok());
  EXPECT_EQ(model.model().name(), "opt");
  EXPECT_EQ(model.model().context_tokens(), 64);
  ASSERT_EQ(model.model().stop_token_ids_size(), 1);
  EXPECT_EQ(model.model().stop_token_ids(0), 2);
  v1::CompleteRequest request = Request(5);
  for (int32_t id = 3; id < 30; ++id) request.mutable_tokens()->add_ids(id);
  v1::CompleteResponse answer;
  ASSERT_TRUE(stub->Complete(NewContext().get(), request, &answer).ok());
  EXPECT_EQ(answer.choices(0).token_ids_size(), 5);
}

TEST(Daemon, ProfilesAMachineWithoutServing) {
  const std::string file = testing::TempDir() + std::to_string(getpid()) + "_profile.json";
  const ExitResult result =
      RunDaemon({"--model=" + TinyModelPath(), "--threads=1", "--profile_only", "--profile=" + file});
  EXPECT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("profile measured"), HasSubstr("link in"), HasSubstr("one layer")));
  EXPECT_THAT(result.output, Not(HasSubstr("listening")));
  EXPECT_EQ(access(file.c_str(), R_OK), 0);
  unlink(file.c_str());
}

TEST(Daemon, SigtermLetsStreamsFinish) {
  // Long enough for the calls below on a busy machine.
  SpawnedDaemon daemon(ModelFlags({"--lame_duck_ms=3000"}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  const auto channel = daemon.Connect();
  const auto stub = v1::InferenceService::NewStub(channel);
  const auto context = NewContext();
  const auto reader = stub->StreamComplete(context.get(), Request(450));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  daemon.Signal(SIGTERM);
  // Health turns while the stream goes on.
  const auto health = grpc::health::v1::Health::NewStub(channel);
  grpc::health::v1::HealthCheckResponse response;
  do {
    ASSERT_TRUE(health->Check(NewContext().get(), {}, &response).ok());
  } while (response.status() == grpc::health::v1::HealthCheckResponse::SERVING);
  EXPECT_EQ(Get(daemon.metrics_address(), "/readyz").code, 503);
  // The lame duck still accepts.
  v1::CompleteResponse unary;
  EXPECT_TRUE(stub->Complete(NewContext().get(), Request(2), &unary).ok());
  int32_t generated = 0;
  while (reader->Read(&event)) {
    if (event.has_usage()) generated = event.usage().generated_tokens();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(generated, 450);
  EXPECT_EQ(daemon.Wait().code, 0);
}

// A stub whose client takes in no more than it must before it is read from.
std::unique_ptr<v1::InferenceService::Stub> LazyStub(const SpawnedDaemon& daemon) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return v1::InferenceService::NewStub(
      grpc::CreateCustomChannel(daemon.grpc_address(), grpc::InsecureChannelCredentials(), arguments));
}

// A kilobyte a token.
v1::CompleteRequest WideRequest(int32_t max_tokens) {
  v1::CompleteRequest request = Request(max_tokens);
  request.mutable_options()->set_logprobs(20);
  return request;
}

bool Logs(const SpawnedDaemon& daemon, const std::string& text) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < until) {
    if (daemon.output().find(text) != std::string::npos) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return false;
}

TEST(Daemon, DrainTimeoutEndsStreamsAndStillExitsZero) {
  // On a device so slow that the stream cannot end by itself meanwhile: 490 tokens take ten seconds at least.
  const std::string fault_file = absl::StrCat(testing::TempDir(), getpid(), "_slow");
  std::ofstream(fault_file) << "slow";
  SpawnedDaemon daemon(ModelFlags({"--lame_duck_ms=0", "--drain_timeout_ms=0"}), {"FAULT_FILE=" + fault_file},
                       {.binary = SPILLWAY_BIN_DIR "/faulty-spillwayd"});
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  const auto context = NewContext();
  const auto reader = stub->StreamComplete(context.get(), Request(490));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  daemon.Signal(SIGINT);
  while (reader->Read(&event)) EXPECT_FALSE(event.has_usage());
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("shut down"));
  const ExitResult result = daemon.Wait();
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.output, HasSubstr("reason=DRAINING"));
  std::remove(fault_file.c_str());
}

TEST(Daemon, ADrainLeavesItsTimeToThoseWhoReadLate) {
  SpawnedDaemon daemon(ModelFlags({"--lame_duck_ms=0", "--drain_timeout_ms=60000"}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  const auto stub = LazyStub(daemon);
  const auto context = NewContext();
  // More than the client takes in unread, and less than makes the sequence pause.
  const auto reader = stub->StreamComplete(context.get(), WideRequest(150));
  ASSERT_TRUE(Logs(daemon, "request finished")) << daemon.output();
  daemon.Signal(SIGTERM);
  ASSERT_TRUE(Logs(daemon, "draining")) << daemon.output();
  // Longer than the last bytes need where somebody reads.
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));
  v1::StreamEvent event;
  int32_t generated = 0;
  while (reader->Read(&event)) generated = event.usage().generated_tokens();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(generated, 150);
  const ExitResult result = daemon.Wait();
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.output, Not(HasSubstr("cut off")));
}

TEST(Daemon, AStopRightAfterReadinessDrains) {
  SpawnedDaemon daemon(ModelFlags({}));
  ASSERT_TRUE(daemon.WaitUntilListening());
  while (Get(daemon.metrics_address(), "/readyz").code != 200) std::this_thread::yield();
  daemon.Signal(SIGTERM);
  const ExitResult result = daemon.Wait();
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.output, AllOf(HasSubstr("draining"), Not(HasSubstr("stopped before serving"))));
}

TEST(Daemon, AHangupIsNoReasonToStop) {
  SpawnedDaemon daemon(ModelFlags({}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  daemon.Signal(SIGHUP);
  ASSERT_TRUE(Logs(daemon, "signal=SIGHUP")) << daemon.output();
  EXPECT_EQ(Get(daemon.metrics_address(), "/readyz").code, 200);
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait().code, 0);
}

TEST(Daemon, ASecondSignalExitsAtOnce) {
  SpawnedDaemon daemon(ModelFlags({"--lame_duck_ms=60000"}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  daemon.Signal(SIGTERM);
  while (Get(daemon.metrics_address(), "/readyz").code == 200) std::this_thread::yield();
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(std::chrono::seconds(20)).code, 1);
  EXPECT_NE(access(daemon.address_file().c_str(), F_OK), 0) << "the address is nobody's any more";
}

TEST(Daemon, LogsJsonLinesWhenAsked) {
  SpawnedDaemon daemon(ModelFlags({"--log_format=json"}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  v1::CompleteRequest request = Request(3);
  request.mutable_options()->set_request_id("my \"label\"");
  v1::CompleteResponse response;
  ASSERT_TRUE(
      v1::InferenceService::NewStub(daemon.Connect())->Complete(NewContext().get(), request, &response).ok());
  daemon.Signal(SIGTERM);
  const ExitResult result = daemon.Wait();
  bool found = false;
  const std::vector<std::string> lines = absl::StrSplit(result.output, '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(json.is_object()) << line;
    if (json["message"] != "request finished") continue;
    found = true;
    EXPECT_EQ(json["request_id"], "my \"label\"");
    EXPECT_EQ(json["reason"], "LENGTH");
    EXPECT_EQ(json["generated_tokens"], 3);
    EXPECT_EQ(json["method"], "Complete");
    EXPECT_THAT(json["peer"].get<std::string>(), HasSubstr("127.0.0.1"));
    EXPECT_GT(json["first_token_ms"].get<double>(), 0);
  }
  EXPECT_TRUE(found) << result.output;
}

// --- What cannot start says why in one line and exits 1.

TEST(DaemonStart, BadFlagsAreRefused) {
  ExpectRefusal(RunDaemon({"--modle=x"}), {"--modle", "--model"});
  ExpectRefusal(RunDaemon({}), {"--model"});
  ExpectRefusal(RunDaemon(ModelFlags({"--threads=many"})), {"--threads=many", "whole number"});
  ExpectRefusal(RunDaemon(ModelFlags(), {"SPILLWAY_THRAEDS=1"}), {"SPILLWAY_THREADS"});
  ExpectRefusal(RunDaemon(ModelFlags({"--device=cuda"})), {"--device=cuda", "--device=cpu"});
  ExpectRefusal(RunDaemon(ModelFlags({"--weights=packed"})), {"--weights=packed", "expanded"});
  ExpectRefusal(RunDaemon(ModelFlags({"--context=1000000"})), {"--context=1000000", "512"});
  ExpectRefusal(RunDaemon(ModelFlags({"--address_file=/no/such/folder/x"})), {"--address_file"});
  ExpectRefusal(RunDaemon(ModelFlags({"--chat_template=/no/such.jinja"})), {"--chat_template"});
  ExpectRefusal(RunDaemon(ModelFlags({"--chat_template=/dev/zero"})), {"--chat_template"});
  ExpectRefusal(RunDaemon(ModelFlags({"--served_model_name=a\xFFz"})), {"--served_model_name", "UTF-8"});
  ExpectRefusal(RunDaemon(ModelFlags({"--split=fixed:1.5"})), {"--split=fixed:1.5", "0..1"});
  ExpectRefusal(RunDaemon(ModelFlags({"--residency=half"})), {"--residency=half", "auto, off or fixed:F"});
  ExpectRefusal(RunDaemon(ModelFlags({"--split=transfer"})), {"--split=transfer", "--split=auto"});
  ExpectRefusal(RunDaemon(ModelFlags({"--schedule=column"})), {"--schedule=column", "--schedule=row"});
  ExpectRefusal(RunDaemon(ModelFlags({"--profile=/no/such/profile.json"})), {"--profile", "/no/such"});
}

TEST(DaemonStart, AWrongProfileIsRefusedBeforeAnyWeightsAreRead) {
  const std::string folder = testing::TempDir() + std::to_string(getpid()) + "_no_weights";
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file("tests/golden/model/opt/config.json", folder + "/config.json");
  const std::vector<std::string> flags = {"--model=" + folder, "--threads=1"};
  ExpectRefusal(RunDaemon(flags), {"safetensors"});
  const auto expect = [&](const std::string& profile, const std::vector<std::string>& words) {
    std::vector<std::string> more = flags;
    more.push_back("--profile=" + profile);
    ExpectRefusal(RunDaemon(more), words);
    more.push_back("--profile_only");
    ExpectRefusal(RunDaemon(more), words);
  };
  expect("examples/profiles/a100-pcie4-opt-6.7b.json", {"--profile=", "another machine", "--reprofile"});
  expect(folder + "/config.json", {"--profile: ", "schema_version", "--reprofile"});
  std::filesystem::remove_all(folder);
}

TEST(DaemonStart, HelpVersionAndConfigurationNeedNoModel) {
  const ExitResult help = RunDaemon({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_THAT(help.output, AllOf(HasSubstr("--host_pool=SIZE"), HasSubstr("spillwayd --model=")));
  EXPECT_EQ(RunDaemon({"--version"}).output.substr(0, 10), "spillwayd ");
  const ExitResult printed = RunDaemon({"--print_config", "--threads=3"}, {"SPILLWAY_MAX_QUEUE=9"});
  EXPECT_EQ(printed.code, 0);
  EXPECT_THAT(printed.output,
              AllOf(HasSubstr("--threads=3"), HasSubstr("SPILLWAY_MAX_QUEUE"), HasSubstr("default")));
}

TEST(Daemon, AHealthcheckAsksWhetherItServes) {
  SpawnedDaemon daemon(ModelFlags({"--lame_duck_ms=20000"}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  const std::string port = daemon.metrics_address().substr(daemon.metrics_address().rfind(':'));
  // By flag or environment, and where the daemon listens on every address.
  EXPECT_EQ(RunDaemon({"--healthcheck", "--metrics_listen=127.0.0.1" + port}).code, 0);
  EXPECT_EQ(RunDaemon({"--healthcheck"}, {"SPILLWAY_METRICS_LISTEN=0.0.0.0" + port}).code, 0);
  const ExitResult odd = RunDaemon({"--healthcheck", "--metrics_listen=" + daemon.grpc_address()});
  EXPECT_EQ(odd.code, 1) << "not HTTP/1";
  daemon.Signal(SIGTERM);
  ExitResult draining;
  do {
    draining = RunDaemon({"--healthcheck", "--metrics_listen=127.0.0.1" + port});
  } while (draining.code == 0);
  EXPECT_EQ(draining.code, 1);
  EXPECT_THAT(draining.output, HasSubstr("503"));
  daemon.Signal(SIGTERM);  // at once
  daemon.Wait();
  const ExitResult gone = RunDaemon({"--healthcheck", "--metrics_listen=127.0.0.1" + port});
  EXPECT_EQ(gone.code, 1);
  EXPECT_THAT(gone.output, HasSubstr("nobody answers at 127.0.0.1" + port));
  EXPECT_THAT(RunDaemon({"--healthcheck", "--metrics_listen=127.0.0.1:0"}).output, HasSubstr("port 0"));
}

TEST(DaemonStart, FilesThatAreNoModelAreRefused) {
  ExpectRefusal(RunDaemon({"--model=/no/such.gguf"}), {"/no/such.gguf"});
  const std::string garbage = testing::TempDir() + std::to_string(getpid()) + "_garbage.gguf";
  ASSERT_TRUE(fakes::WriteFile(garbage, "this is not a model, whatever its name says").ok());
  ExpectRefusal(RunDaemon({"--model=" + garbage}), {garbage});
  const std::string whole = fakes::TinyLlamaBytes({});
  const std::string truncated = testing::TempDir() + std::to_string(getpid()) + "_truncated.gguf";
  for (const size_t size : {size_t{3}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    ASSERT_TRUE(fakes::WriteFile(truncated, absl::string_view(whole).substr(0, size)).ok());
    ExpectRefusal(RunDaemon({"--model=" + truncated}), {truncated});
  }
}

TEST(DaemonStart, UnsupportedArchitecturesAreRefusedByName) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_mamba.gguf";
  fakes::GgufWriter writer;
  writer.String("general.architecture", "mamba");
  ASSERT_TRUE(fakes::WriteFile(path, writer.Bytes()).ok());
  ExpectRefusal(RunDaemon({"--model=" + path}), {path, "mamba"});
}

TEST(DaemonStart, AnUnsupportedTemplateIsRefusedWithAWayOut) {
  const std::string jinja = testing::TempDir() + std::to_string(getpid()) + "_bad.jinja";
  std::ofstream(jinja) << "{% call nothing() %}x{% endcall %}";
  ExpectRefusal(RunDaemon(ModelFlags({"--chat_template=" + jinja})), {jinja, "none"});
  SpawnedDaemon daemon(ModelFlags({"--chat_template=none"}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  v1::GetModelResponse model;
  ASSERT_TRUE(v1::InferenceService::NewStub(daemon.Connect())->GetModel(NewContext().get(), {}, &model).ok());
  EXPECT_FALSE(model.model().features().chat());
}

TEST(DaemonStart, PortsInUseAreRefused) {
  SpawnedDaemon first(ModelFlags());
  ASSERT_TRUE(first.WaitUntilReady()) << first.output();
  ExpectRefusal(RunDaemon(ModelFlags({"--listen=" + first.grpc_address(), "--metrics_listen=127.0.0.1:0"})),
                {"--listen", first.grpc_address(), "address already in use"});
  ExpectRefusal(
      RunDaemon(ModelFlags({"--listen=127.0.0.1:0", "--metrics_listen=" + first.metrics_address()})),
      {"--metrics_listen", first.metrics_address(), "address already in use", "another port"});
  // An address of the documentation's, which no machine has.
  ExpectRefusal(RunDaemon(ModelFlags({"--listen=192.0.2.1:0", "--metrics_listen=127.0.0.1:0"})),
                {"--listen", "192.0.2.1", "address of this machine"});
}

TEST(DaemonStart, TooLittleMemoryIsRefused) {
  ExpectRefusal(RunDaemon({"--model=" + TinyModelPath(), "--listen=127.0.0.1:0",
                           "--metrics_listen=127.0.0.1:0", "--host_pool=1KiB"}),
                {"--host_pool", "least"});
  ExpectRefusal(RunDaemon({"--model=" + TinyModelPath(), "--listen=127.0.0.1:0",
                           "--metrics_listen=127.0.0.1:0", "--host_pool=500TiB"}),
                {"--host_pool", "available"});
  ExpectRefusal(RunDaemon(ModelFlags({"--numa_node=999"})), {"--numa_node=999", "no such node"});
  // Before the weights are loaded, and with the number that would work.
  const ExitResult tiny = RunDaemon({"--model=" + TinyModelPath(), "--listen=127.0.0.1:0",
                                     "--metrics_listen=127.0.0.1:0", "--dtype=f32", "--host_pool=32KiB"});
  ExpectRefusal(tiny, {"--host_pool", "one sequence of 128 tokens", "65536"});
  EXPECT_THAT(tiny.output, Not(HasSubstr("loading weights")));
}

TEST(DaemonStart, ASmallPoolClampsTheContext) {
  // 2 layers of K and V of 32 floats or half of that: a few blocks of 16 tokens.
  SpawnedDaemon daemon({"--model=" + TinyModelPath(), "--host_pool=64KiB", "--dtype=f32"});
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  EXPECT_THAT(daemon.output(), HasSubstr("context clamped"));
  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  v1::GetModelResponse model;
  ASSERT_TRUE(stub->GetModel(NewContext().get(), {}, &model).ok());
  EXPECT_LT(model.model().context_tokens(), 512);
  EXPECT_EQ(model.model().trained_context_tokens(), 512);
  v1::CompleteRequest request = Request(model.model().context_tokens());
  v1::CompleteResponse response;
  EXPECT_EQ(stub->Complete(NewContext().get(), request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace spillway::e2e
