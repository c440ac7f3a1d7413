#include "server/configuration.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Strings = std::vector<std::string>;

std::string WriteTemp(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + name;
  std::ofstream(path) << text;
  return path;
}

const Configuration::Value& ValueOf(const Configuration& configuration, absl::string_view name) {
  for (const auto& value : configuration.values) {
    if (value.flag->name == name) return value;
  }
  static const Configuration::Value none;
  return none;
}

std::string ErrorOf(const Strings& arguments, const Strings& environment = {}) {
  const auto read = ReadConfiguration(arguments, environment);
  EXPECT_FALSE(read.ok());
  EXPECT_EQ(read.status().message().find('\n'), absl::string_view::npos) << "an error is one line";
  return std::string(read.status().message());
}

TEST(Configuration, FlagsGoBeforeEnvironmentBeforeFileBeforeDefault) {
  const std::string file =
      WriteTemp("order.json", R"({"schema_version": 1, "model": "file.gguf", "threads": 3,
      "max_queue": "7", "context": 1024, "host_pool": "2GiB"})");
  const auto read = ReadConfiguration(Strings{"--threads=1", "--config=" + file},
                                      Strings{"SPILLWAY_THREADS=2", "SPILLWAY_MAX_QUEUE=6", "PATH=/bin"});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->settings.threads, 1);
  EXPECT_EQ(read->settings.max_queue, 6);
  EXPECT_EQ(read->settings.context_tokens, 1024);
  EXPECT_EQ(read->settings.host_pool_bytes, int64_t{2} << 30);
  EXPECT_EQ(read->settings.max_sequences, 64);
  EXPECT_EQ(read->settings.model, "file.gguf");
  EXPECT_EQ(ValueOf(*read, "threads").origin, "--threads");
  EXPECT_EQ(ValueOf(*read, "max_queue").origin, "SPILLWAY_MAX_QUEUE");
  EXPECT_EQ(ValueOf(*read, "context").origin, file);
  EXPECT_EQ(ValueOf(*read, "max_sequences").origin, "default");
  EXPECT_THAT(PrintedConfiguration(*read), HasSubstr("--max_queue=6"));
}

TEST(Configuration, ASwitchNeedsNoValueAndTakesNoOther) {
  const auto read = ReadConfiguration(Strings{"--model=m", "--reprofile", "--profile_only=false"}, {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->settings.reprofile);
  EXPECT_FALSE(read->settings.profile_only);
  EXPECT_THAT(ErrorOf({"--model=m", "--reprofile=yes"}), HasSubstr("true or false"));
  EXPECT_TRUE(
      ReadConfiguration(Strings{"--model=m"}, Strings{"SPILLWAY_REPROFILE=true"})->settings.reprofile);
  const std::string file = WriteTemp("switch.json", R"({"model": "m", "reprofile": true})");
  EXPECT_TRUE(ReadConfiguration(Strings{"--config=" + file}, {})->settings.reprofile);
}

TEST(Configuration, DefaultsAreWithinTheirOwnBounds) {
  const auto read = ReadConfiguration(Strings{"--model=m.gguf"}, {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->values.size(), Flags().size());
  EXPECT_EQ(read->settings.listen, "127.0.0.1:8090");
}

TEST(Configuration, ValuesMayFollowTheirFlag) {
  const auto read = ReadConfiguration(Strings{"--model", "m.gguf", "--threads", "2"}, {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->settings.threads, 2);
}

TEST(Configuration, UnknownNamesAreRefusedWithTheNearest) {
  EXPECT_THAT(ErrorOf({"--modle=x"}), AllOf(HasSubstr("--modle"), HasSubstr("did you mean --model?")));
  EXPECT_THAT(ErrorOf({"--metrics-listen=x"}), HasSubstr("did you mean --metrics_listen?"));
  EXPECT_THAT(ErrorOf({"--zzzzzzzz=1"}), HasSubstr("see --help"));
  EXPECT_THAT(ErrorOf({"--model=m"}, {"SPILLWAY_THREDS=2"}), HasSubstr("did you mean SPILLWAY_THREADS?"));
  const std::string file = WriteTemp("typo.json", R"({"model": "m", "max_squences": 4})");
  EXPECT_THAT(ErrorOf({"--config=" + file}),
              AllOf(HasSubstr(file), HasSubstr("did you mean max_sequences?")));
}

TEST(Configuration, BadValuesNameTheirOriginAndTheRange) {
  EXPECT_THAT(ErrorOf({"--model=m", "--threads=-1"}), AllOf(HasSubstr("--threads=-1"), HasSubstr("0..1024")));
  EXPECT_THAT(ErrorOf({"--model=m", "--threads=two"}), HasSubstr("whole number"));
  EXPECT_THAT(ErrorOf({"--model=m", "--host_pool=12 apples"}), HasSubstr("--host_pool"));
  EXPECT_THAT(ErrorOf({"--model=m", "--device=tpu"}), HasSubstr("auto, cpu, cuda"));
  EXPECT_THAT(ErrorOf({"--model=m"}, {"SPILLWAY_MAX_QUEUE=0"}), HasSubstr("SPILLWAY_MAX_QUEUE"));
  for (const char* address : {"8090", ":8090", "localhost", "::1:80", "1.2.3.4:70000", "h:x"}) {
    EXPECT_THAT(ErrorOf({"--model=m", std::string("--listen=") + address}), HasSubstr("HOST:PORT"))
        << address;
  }
  EXPECT_TRUE(ReadConfiguration(Strings{"--model=m", "--listen=[::1]:0"}, {}).ok());
}

TEST(Configuration, AModelIsAFileOrRandom) {
  EXPECT_TRUE(ReadConfiguration(Strings{"--random_weights=config.json", "--random_seed=7"}, {}).ok());
  EXPECT_THAT(ErrorOf({"--model=m", "--random_weights=config.json"}),
              AllOf(HasSubstr("--model"), HasSubstr("--random_weights")));
}

TEST(Configuration, TlsFilesBelongTogether) {
  EXPECT_THAT(ErrorOf({"--model=m", "--tls_certificate=c.pem"}), HasSubstr("--tls_key belong together"));
  EXPECT_THAT(ErrorOf({"--model=m", "--tls_key=k.pem"}), HasSubstr("--tls_certificate and"));
  EXPECT_THAT(ErrorOf({"--model=m", "--tls_client_ca=ca.pem"}), HasSubstr("needs --tls_certificate"));
  EXPECT_TRUE(ReadConfiguration(Strings{"--model=m", "--tls_certificate=c.pem", "--tls_key=k.pem"}, {}).ok());
}

TEST(Configuration, WhatIsMissingIsNamed) {
  EXPECT_THAT(ErrorOf({}), HasSubstr("--model"));
  EXPECT_THAT(ErrorOf({"--model"}), HasSubstr("needs a value"));
  EXPECT_THAT(ErrorOf({"model.gguf"}), HasSubstr("unexpected argument"));
  EXPECT_THAT(ErrorOf({"--config=/nowhere.json"}), HasSubstr("/nowhere.json"));
  EXPECT_THAT(ErrorOf({"--help=yes"}), HasSubstr("takes no value"));
}

TEST(Configuration, FilesAreChecked) {
  EXPECT_THAT(ErrorOf({"--config=" + WriteTemp("a.json", "{\"model\": ")}), HasSubstr("not JSON at byte"));
  EXPECT_THAT(ErrorOf({"--config=" + WriteTemp("b.json", R"({"model": "a", "model": "b"})")}),
              HasSubstr("\"model\" is there twice"));
  EXPECT_THAT(ErrorOf({"--config=" + WriteTemp("b.json", "[]")}), HasSubstr("JSON object"));
  const std::string deep = std::string(250'000, '[') + std::string(250'000, ']');
  for (const char* name : {"schema_version", "model"}) {
    const std::string file = WriteTemp("deep.json", "{\"" + std::string(name) + "\": " + deep + "}");
    EXPECT_THAT(ErrorOf({"--config=" + file}), HasSubstr("nested deeper than 32 levels")) << name;
  }
  const std::string wide =
      WriteTemp("wide.json", "{\"schema_version\": \"" + std::string(100'000, 'x') + "\"}");
  EXPECT_EQ(ErrorOf({"--config=" + wide}), wide + ": schema_version must be 1, it is of type string");
  EXPECT_THAT(ErrorOf({"--config=" + WriteTemp("c.json", R"({"schema_version": 2})")}),
              HasSubstr("must be 1"));
  EXPECT_THAT(ErrorOf({"--config=" + WriteTemp("d.json", R"({"model": ["m"]})")}), HasSubstr("\"model\""));
}

TEST(Configuration, FilesThatCannotBeOneAreRefusedAtOnce) {
  const std::string pipe = testing::TempDir() + std::to_string(getpid()) + ".pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::string large = WriteTemp("large.json", std::string(32 << 20, ' '));
  for (const std::string& path : {pipe, large, std::string("/dev/zero"), testing::TempDir()}) {
    EXPECT_THAT(ErrorOf({"--config=" + path}), HasSubstr(path));
  }
  unlink(pipe.c_str());
  unlink(large.c_str());
}

TEST(Configuration, NumbersThatNoNumberHoldsAreErrors) {
  for (const char* value :
       {"1e400", "-1e400", "1e308", "123456789012345678901234567890", "1.5", "true", "null"}) {
    const std::string file = WriteTemp("number.json", "{\"threads\": " + std::string(value) + "}");
    EXPECT_THAT(ErrorOf({"--config=" + file}), HasSubstr(file)) << value;
  }
  EXPECT_THAT(ErrorOf({"--model=m", "--threads=1e400"}), HasSubstr("whole number"));
  EXPECT_THAT(ErrorOf({"--model=m", "--host_pool=1e400GiB"}), HasSubstr("--host_pool"));
  EXPECT_THAT(ErrorOf({"--model=m", "--host_pool=99999999999999999999GiB"}), HasSubstr("--host_pool"));
}

TEST(Configuration, EveryFlagIsTakenFromEverySource) {
  for (const Flag& flag : Flags()) {
    const std::string name(flag.name);
    // A value other than the default, that the flag takes.
    std::string value = "text";
    if (flag.type == FlagType::kInt) value = std::to_string(flag.min + 1);
    if (flag.type == FlagType::kSize) value = std::to_string(flag.min + 1);
    if (flag.type == FlagType::kAddress) value = "[::1]:7";
    if (flag.type == FlagType::kChoice) value = std::string(flag.choices.back());
    if (flag.type == FlagType::kSwitch) value = "true";
    const std::string file = WriteTemp("each.json", "{\"" + name + "\": \"" + value + "\"}");
    const Strings print = {"--print_config"};
    const auto by_flag = ReadConfiguration(Strings{"--print_config", "--" + name + "=" + value}, {});
    const auto by_environment = ReadConfiguration(print, Strings{EnvironmentName(flag) + "=" + value});
    const auto by_file = ReadConfiguration(Strings{"--print_config", "--config=" + file}, {});
    for (const auto* read : {&by_flag, &by_environment, &by_file}) {
      ASSERT_TRUE(read->ok()) << name << ": " << read->status();
      EXPECT_EQ(ValueOf(**read, name).text, value) << name;
      EXPECT_THAT(PrintedConfiguration(**read), HasSubstr("--" + name + "=" + value));
    }
    EXPECT_EQ(ValueOf(*by_flag, name).origin, "--" + name);
    EXPECT_EQ(ValueOf(*by_environment, name).origin, EnvironmentName(flag));
    EXPECT_EQ(ValueOf(*by_file, name).origin, file);
  }
}

TEST(Configuration, KubernetesServiceVariablesArePassedOver) {
  const auto read = ReadConfiguration(
      Strings{"--model=m"},
      Strings{"SPILLWAY_SERVICE_HOST=10.0.0.1", "SPILLWAY_SERVICE_PORT=8090",
              "SPILLWAY_SERVICE_PORT_GRPC=8090", "SPILLWAY_PORT=tcp://10.0.0.1:8090",
              "SPILLWAY_PORT_8090_TCP=tcp://10.0.0.1:8090", "SPILLWAY_PORT_8090_TCP_ADDR=10.0.0.1",
              "SPILLWAY_METRICS_SERVICE_HOST=10.0.0.2", "SPILLWAY_SERVER=127.0.0.1:8090",
              // The client's.
              "SPILLWAY_TLS_CA=ca.pem", "SPILLWAY_TOKEN=spw_x"});
  EXPECT_TRUE(read.ok()) << read.status();
}

TEST(Configuration, HelpNeedsNoModelAndTeachesEveryFlag) {
  const auto read = ReadConfiguration(Strings{"--help"}, Strings{"SPILLWAY_NONSENSE=1"});
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->action, Action::kHelp);
  EXPECT_EQ(ReadConfiguration(Strings{"-h"}, {})->action, Action::kHelp);
  for (const Flag& flag : Flags()) {
    EXPECT_THAT(HelpText(), HasSubstr("--" + std::string(flag.name) + "=")) << flag.name;
  }
  EXPECT_EQ(ReadConfiguration(Strings{"--print_config"}, {})->action, Action::kPrintConfig);
  EXPECT_EQ(ReadConfiguration(Strings{"--version"}, {})->action, Action::kVersion);
  EXPECT_EQ(ReadConfiguration(Strings{"--healthcheck"}, {})->action, Action::kHealthcheck);
}

TEST(Configuration, NearestNameDoesNotGuessWildly) {
  const std::vector<absl::string_view> known = {"listen", "threads"};
  EXPECT_EQ(NearestName("lisen", known), "listen");
  EXPECT_EQ(NearestName("thread", known), "threads");
  EXPECT_EQ(NearestName("banana", known), "");
}

}  // namespace
}  // namespace spillway::server
