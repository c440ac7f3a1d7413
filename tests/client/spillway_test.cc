// Whole command lines against a daemon by script: what is printed where, what is sent, and how it exits.
#include "client/spillway.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "client/conversation.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "profiler/machine_profile.h"
#include "tests/client/fake_daemon.h"
#include "tests/client/spillway_fixture.h"
#include "tests/scheduler/profiles.h"

namespace spillway::client {
namespace {

using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(SpillwayTest, CompletePrintsOnlyTheText) {
  daemon_.Answer(
      {{StartedEvent(3), QueuedEvent(1), ProgressEvent(v1::STAGE_PREFILL, 3, 3), DeltaEvent("Paris", {1}),
        DeltaEvent(".", {2}), FinishedEvent(v1::FINISH_REASON_LENGTH), UsageEvent(3, 2)},
       grpc::Status::OK});
  const Result result = Run({"complete", "--max_tokens=2", "--temperature=0", "The capital of France is"});
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_EQ(result.out, "Paris.");
  EXPECT_EQ(result.err, "");
  ASSERT_EQ(daemon_.completes().size(), 1U);
  EXPECT_EQ(daemon_.completes()[0].text(), "The capital of France is");
}

TEST_F(SpillwayTest, EveryOptionReachesItsField) {
  const Result result = Run({"complete",
                             "--max_tokens=1",
                             "--min_tokens=1",
                             "--temperature=0.5",
                             "--top_k=2",
                             "--top_p=0.25",
                             "--min_p=0.125",
                             "--repetition_penalty=1.5",
                             "--seed=42",
                             "--stop=\\n",
                             "--stop=END",
                             "--stop_token_id=7",
                             "--ignore_eos",
                             "--include_stop_string",
                             "--frequency_penalty=-1",
                             "--presence_penalty=2",
                             "--priority=-3",
                             "--objective=latency",
                             "--request_id=run 7",
                             "--cache_salt=tenant",
                             "--logprobs=0",
                             "--json",
                             "--keep_special_tokens",
                             "--model=demo",
                             "p"});
  ASSERT_EQ(daemon_.completes().size(), 1U) << result.err;
  const v1::CompleteRequest request = daemon_.completes()[0];
  const v1::GenerationOptions& options = request.options();
  EXPECT_EQ(request.model(), "demo");
  EXPECT_EQ(options.max_tokens(), 1);
  EXPECT_EQ(options.min_tokens(), 1);
  EXPECT_EQ(options.sampling().temperature(), 0.5F);
  EXPECT_EQ(options.sampling().top_k(), 2);
  EXPECT_EQ(options.sampling().top_p(), 0.25F);
  EXPECT_EQ(options.sampling().min_p(), 0.125F);
  EXPECT_EQ(options.sampling().repetition_penalty(), 1.5F);
  EXPECT_EQ(options.sampling().frequency_penalty(), -1);
  EXPECT_EQ(options.sampling().presence_penalty(), 2);
  EXPECT_EQ(options.sampling().seed(), 42U);
  EXPECT_THAT(options.stop().strings(), ElementsAre("\n", "END"));
  EXPECT_THAT(options.stop().token_ids(), ElementsAre(7));
  EXPECT_TRUE(options.stop().ignore_eos());
  EXPECT_TRUE(options.stop().include_stop_string());
  EXPECT_EQ(options.priority(), -3);
  EXPECT_EQ(options.objective(), v1::OBJECTIVE_LATENCY);
  EXPECT_EQ(options.request_id(), "run 7");
  EXPECT_EQ(options.cache_salt(), "tenant");
  EXPECT_TRUE(options.has_logprobs());
  EXPECT_TRUE(options.keep_special_tokens());
}

TEST_F(SpillwayTest, FlagsThatAreNotGivenStayUnset) {
  Run({"complete", "p"});
  ASSERT_EQ(daemon_.completes().size(), 1U);
  v1::CompleteRequest expected;
  expected.set_text("p");
  expected.mutable_options();
  EXPECT_EQ(daemon_.completes()[0].SerializeAsString(), expected.SerializeAsString());
}

TEST_F(SpillwayTest, JsonIsTheWholeReplyWithEveryField) {
  const Result result = Run({"complete", "--json", "p"});
  EXPECT_EQ(result.exit_code, kExitOk);
  const nlohmann::json reply = nlohmann::json::parse(result.out);
  EXPECT_EQ(reply["model"], "fake");
  EXPECT_EQ(reply["seed"], "17");
  EXPECT_EQ(reply["choices"][0]["text"], "Hello world");
  EXPECT_EQ(reply["choices"][0]["index"], 0);
  EXPECT_EQ(reply["choices"][0]["token_ids"], (std::vector<int>{100, 101}));
  EXPECT_EQ(reply["choices"][0]["finished"]["reason"], "FINISH_REASON_LENGTH");
  EXPECT_EQ(reply["usage"]["generated_tokens"], 2);
  EXPECT_EQ(reply["usage"]["cached_tokens"], 0);
}

TEST_F(SpillwayTest, StreamJsonIsALinePerEvent) {
  const Result result = Run({"complete", "--stream_json", "p"});
  std::istringstream lines(result.out);
  std::vector<std::string> kinds;
  for (std::string line; std::getline(lines, line);) {
    kinds.push_back(nlohmann::json::parse(line).begin().key());
  }
  EXPECT_THAT(kinds, ElementsAre("started", "delta", "delta", "finished", "usage"));
}

TEST_F(SpillwayTest, ControlCharactersReachAPipeButNoTerminal) {
  daemon_.Answer(AnswerOf({"\x1b[2J", "ok"}));
  EXPECT_EQ(Run({"complete", "p"}).out, "\x1b[2Jok");
  EXPECT_EQ(Run({"complete", "p"}, {.out_is_terminal = true}).out, "\\x1b[2Jok\n");
}

TEST_F(SpillwayTest, OnATerminalTheLastLineIsEndedOnce) {
  daemon_.Answer(AnswerOf({"ends itself\n"}));
  EXPECT_EQ(Run({"complete", "p"}, {.out_is_terminal = true}).out, "ends itself\n");
}

TEST_F(SpillwayTest, ProgressIsForATerminalOnStderr) {
  Script script = AnswerOf({"x"});
  script.events.insert(script.events.begin() + 1, ProgressEvent(v1::STAGE_PREFILL, 512, 4096, 128));
  script.events.insert(script.events.begin() + 1, ProgressEvent(v1::STAGE_PREFILL, 7, 9, 0, 2));
  script.events.insert(script.events.begin() + 1, QueuedEvent(3));
  daemon_.Answer(script);
  const Result result = Run({"complete", "p"}, {.err_is_terminal = true});
  EXPECT_EQ(result.out, "x");
  EXPECT_THAT(result.err, HasSubstr("queued, 3 ahead"));
  EXPECT_THAT(result.err, HasSubstr("reading: 512/4096 tokens (128 cached)"));
  EXPECT_THAT(result.err, HasSubstr("choice 2: reading: 7/9 tokens\r"));
  EXPECT_THAT(result.err, ::testing::EndsWith("\r\x1b[K")) << "the line is cleared before text";
  EXPECT_EQ(Run({"complete", "p"}).err, "");
}

TEST_F(SpillwayTest, StatsGoToStderr) {
  const Result result = Run({"complete", "--stats", "p"});
  EXPECT_EQ(result.out, "Hello world");
  EXPECT_THAT(result.err, HasSubstr("prompt 3 tokens (0 cached), generated 2 in 1.01 s"));
  EXPECT_THAT(result.err, HasSubstr("then 1.0 tokens/s"));
}

TEST_F(SpillwayTest, TemplateVariablesKeepTheirTypes) {
  EXPECT_EQ(Run({"chat", "--template_variable=enable_thinking=false", "--template_variable=n=3",
                 "--template_variable=t=0.5", "--template_variable=name=zed", "--template_variable=q=\"3\"",
                 "--continue_final_message", "hi"})
                .exit_code,
            kExitOk);
  const std::vector<v1::ChatRequest> chats = daemon_.chats();
  ASSERT_EQ(chats.size(), 1U);
  const v1::ChatRequest& chat = chats[0];
  EXPECT_TRUE(chat.continue_final_message());
  const auto& variables = chat.template_variables();
  ASSERT_EQ(variables.size(), 5U);
  EXPECT_TRUE(variables.at("enable_thinking").has_bool_value());
  EXPECT_EQ(variables.at("n").int_value(), 3);
  EXPECT_EQ(variables.at("t").double_value(), 0.5);
  EXPECT_EQ(variables.at("name").string_value(), "zed");
  EXPECT_EQ(variables.at("q").string_value(), "3");
  EXPECT_EQ(Run({"chat", "--template_variable=oops", "hi"}).exit_code, kExitUsage);
}

TEST_F(SpillwayTest, SeveralChoicesAreWrittenOneAfterTheOther) {
  daemon_.Answer({{StartedEvent(3), DeltaEvent("b0", {1}, 1), DeltaEvent("a0", {2}, 0),
                   DeltaEvent("b1", {3}, 1), FinishedEvent(v1::FINISH_REASON_LENGTH, 0),
                   FinishedEvent(v1::FINISH_REASON_LENGTH, 1), UsageEvent(3, 3)},
                  grpc::Status::OK});
  const Result result = Run({"complete", "--choices=2", "p"});
  EXPECT_EQ(result.out, "--- choice 0 ---\na0\n--- choice 1 ---\nb0b1\n");
}

TEST_F(SpillwayTest, ADashReadsTheInputLessItsLastNewline) {
  Run({"complete", "-"}, {.input = "line one\nline two\n"});
  ASSERT_EQ(daemon_.completes().size(), 1U);
  EXPECT_EQ(daemon_.completes()[0].text(), "line one\nline two");
}

TEST_F(SpillwayTest, APromptMayBeTokenIds) {
  Run({"complete", "--prompt_id=5", "--prompt_id=6"});
  ASSERT_EQ(daemon_.completes().size(), 1U);
  EXPECT_THAT(daemon_.completes()[0].tokens().ids(), ElementsAre(5, 6));
}

TEST_F(SpillwayTest, BytesThatAreNotUtf8AreRefusedHere) {
  const Result result = Run({"complete", "-"}, {.input = "abc\xFF"});
  EXPECT_EQ(result.exit_code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("byte 3 begins no character"));
  EXPECT_THAT(daemon_.completes(), IsEmpty());
}

TEST_F(SpillwayTest, WrongUsageExitsTwoAndSendsNothing) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"compete", "p"},
      {"complete"},
      {"complete", "two", "prompts"},
      {"complete", "--max_tokens=x", "p"},
      {"complete", "--unknown", "p"},
      {"complete", "--json", "--stream_json", "p"},
      {"complete", "--logprobs=3", "p"},
      {"complete", "--prompt_id=3", "p"},
      {"chat", "two", "messages"},
      {"chat", "--choices=2"},
      {"tokenize"},
      {"tokenize", "--ids", "--count", "t"},
      {"detokenize"},
      {"detokenize", "x"},
      {"status", "x"},
      {"models", "x"},
      {"profile", "x"},
  };
  for (const auto& args : wrong) {
    const Result result = Run(args);
    EXPECT_EQ(result.exit_code, kExitUsage) << ::testing::PrintToString(args);
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, Not(IsEmpty()));
  }
  EXPECT_THAT(daemon_.completes(), IsEmpty());
  EXPECT_THAT(daemon_.chats(), IsEmpty());
  EXPECT_THAT(Run({"compete"}).err, HasSubstr("did you mean complete?"));
}

TEST_F(SpillwayTest, HelpTeachesAndSucceeds) {
  for (const char* command :
       {"complete", "chat", "tokenize", "detokenize", "status", "plan", "profile", "trace", "models"}) {
    const Result result = Run({command, "--help"});
    EXPECT_EQ(result.exit_code, kExitOk);
    EXPECT_THAT(result.out, HasSubstr("Examples:")) << command;
    EXPECT_THAT(result.out, HasSubstr("--server=HOST:PORT")) << command;
    EXPECT_EQ(Run({"help", command}).out, result.out);
    EXPECT_THAT(Run({"--help"}).out, HasSubstr(command));
  }
}

TEST_F(SpillwayTest, TheVersionIsPrintedWithoutADaemon) {
  const Result result = Run({"--version"});
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_THAT(result.out, StartsWith("spillway "));
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(SpillwayTest, EveryViolationIsPrintedWithReasonAndRemedy) {
  daemon_.Answer({{},
                  DaemonError(Reason::kInvalidField, "two fields",
                              {{"options.sampling.top_p", "must be in (0, 1], is 1.5"},
                               {"options.max_tokens", "must be at least 1, is 0"}})});
  const Result result = Run({"complete", "--top_p=1.5", "--max_tokens=0", "p"});
  EXPECT_EQ(result.exit_code, kExitFailed);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err,
            "spillway: INVALID_ARGUMENT (INVALID_FIELD): 2 fields are wrong\n"
            "  options.sampling.top_p: must be in (0, 1], is 1.5\n"
            "  options.max_tokens: must be at least 1, is 0\n"
            "  remedy: Correct the listed fields.\n");
}

TEST_F(SpillwayTest, EveryReasonIsDecodedWithItsRemedy) {
  for (const ReasonInfo& info : AllReasons()) {
    daemon_.Answer({{}, DaemonError(info.reason, "what happened", {}, info.retryable ? 1500 : 0)});
    const Result result = Run({"complete", "p"});
    EXPECT_EQ(result.exit_code, kExitFailed) << info.name;
    EXPECT_THAT(result.err, HasSubstr("(" + std::string(info.name) + "): what happened"));
    EXPECT_THAT(result.err, HasSubstr("remedy: " + std::string(info.remedy)));
    EXPECT_THAT(result.err, info.retryable ? HasSubstr("retry after 1500 ms") : HasSubstr(""));
  }
}

TEST_F(SpillwayTest, AnErrorMessageCannotDriveTheTerminal) {
  daemon_.Answer({{}, grpc::Status(grpc::StatusCode::INTERNAL, "\x1b[2J\nsecond line")});
  EXPECT_EQ(Run({"complete", "p"}).err, "spillway: INTERNAL: \\x1b[2J\\nsecond line\n");
}

TEST_F(SpillwayTest, AnErrorInTheMiddleKeepsTheTextAndFails) {
  daemon_.Answer({{StartedEvent(3), DeltaEvent("half", {1})}, DaemonError(Reason::kEngineFailed, "lost")});
  const Result result = Run({"complete", "p"}, {.out_is_terminal = true});
  EXPECT_EQ(result.exit_code, kExitFailed);
  EXPECT_EQ(result.out, "half\n");
  EXPECT_THAT(result.err, HasSubstr("ENGINE_FAILED"));
  const Result json = Run({"complete", "--json", "p"});
  EXPECT_EQ(json.out, "") << "half a reply must not look like a whole one";
}

TEST_F(SpillwayTest, AStreamThatBreaksItsContractFails) {
  Script script = AnswerOf({"x"});
  script.events.pop_back();
  daemon_.Answer(script);
  const Result result = Run({"complete", "p"});
  EXPECT_EQ(result.exit_code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("it ended without usage"));

  daemon_.Answer({{DeltaEvent("x", {1})}, grpc::Status::OK, /*endless=*/true});
  EXPECT_THAT(Run({"complete", "p"}).err, HasSubstr("an event before started"));
}

TEST_F(SpillwayTest, AnUnreachableDaemonIsNamedWithTheWayOut) {
  std::istringstream in;
  std::ostringstream out;
  std::ostringstream err;
  Console console{in, out, err};
  // Port 1 of the loopback has no listener.
  EXPECT_EQ(RunSpillway({"--server=127.0.0.1:1", "models"}, console, active_), kExitFailed);
  EXPECT_THAT(err.str(), StartsWith("spillway: UNAVAILABLE: "));
  EXPECT_THAT(err.str(), AllOf(HasSubstr("no daemon answers at 127.0.0.1:1 ("),
                               HasSubstr("\n  remedy: Start spillwayd")));
}

TEST_F(SpillwayTest, ADeadlineEndsTheCall) {
  daemon_.Answer({{StartedEvent(3)}, grpc::Status::OK, /*endless=*/true});
  const Result result = Run({"complete", "--timeout=50ms", "p"});
  EXPECT_EQ(result.exit_code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("DEADLINE_EXCEEDED"));
}

TEST_F(SpillwayTest, CancellingEndsTheCallOnBothSides) {
  daemon_.Answer({{StartedEvent(3)}, grpc::Status::OK, /*endless=*/true});
  std::thread interrupt([this] {
    daemon_.WaitForEndless();
    EXPECT_TRUE(active_.Cancel());
    active_.Cancel();  // a second Ctrl-C may find the call gone
  });
  const Result result = Run({"complete", "p"});
  interrupt.join();
  EXPECT_EQ(result.exit_code, kExitInterrupted);
  EXPECT_EQ(result.err, "");
  daemon_.WaitForCancelled();
  EXPECT_FALSE(active_.Cancel()) << "no call is active any more";
}

TEST_F(SpillwayTest, AFullDiskIsAnError) {
  std::istringstream in;
  std::ostringstream err;
  std::ofstream full("/dev/full");
  Console console{in, full, err};
  EXPECT_EQ(RunSpillway({"--server=" + daemon_.address(), "complete", "p"}, console, active_), kExitFailed);
  EXPECT_THAT(err.str(), HasSubstr("cannot write to standard output"));
}

TEST_F(SpillwayTest, ChatSendsSystemAndMessage) {
  const Result result = Run({"chat", "--system=Be brief.", "--temperature=0", "Hello?"});
  EXPECT_EQ(result.out, "Hello world");
  ASSERT_EQ(daemon_.chats().size(), 1U);
  const v1::ChatRequest request = daemon_.chats()[0];
  ASSERT_EQ(request.messages_size(), 2);
  EXPECT_EQ(request.messages(0).role(), "system");
  EXPECT_EQ(request.messages(0).content(), "Be brief.");
  EXPECT_EQ(request.messages(1).role(), "user");
  EXPECT_EQ(request.messages(1).content(), "Hello?");
  EXPECT_TRUE(request.options().sampling().has_temperature());
}

TEST_F(SpillwayTest, AConversationKeepsWhatWasSaid) {
  daemon_.Answer([](int call) { return AnswerOf({call == 0 ? "first answer" : "second answer"}); });
  const Result result = Run({"chat", "--system=S"}, {.input = "one\n\ntwo\n"});
  EXPECT_EQ(result.exit_code, kExitOk);
  ASSERT_EQ(daemon_.chats().size(), 2U);
  const v1::ChatRequest second = daemon_.chats()[1];
  std::vector<std::string> said;
  for (const auto& message : second.messages()) said.push_back(message.role() + ": " + message.content());
  EXPECT_THAT(said, ElementsAre("system: S", "user: one", "assistant: first answer", "user: two"));
}

TEST_F(SpillwayTest, AFailedMessageLeavesTheConversation) {
  daemon_.Answer([](int call) {
    return call == 0 ? Script{{}, DaemonError(Reason::kQueueFull, "full", {}, 100)} : AnswerOf({"ok"});
  });
  const Result result = Run({"chat"}, {.input = "one\ntwo\n"});
  EXPECT_EQ(result.exit_code, kExitFailed) << "a script should hear of it";
  ASSERT_EQ(daemon_.chats().size(), 2U);
  ASSERT_EQ(daemon_.chats()[1].messages_size(), 1);
  EXPECT_EQ(daemon_.chats()[1].messages(0).content(), "two");
}

TEST_F(SpillwayTest, ConversationCommandsAreNotSent) {
  const Result result = Run({"chat"}, {.input = "one\n/system T\n\"\"\"two\nlines\"\"\"\n/clear\nthree\n"
                                                "/history\n/nonsense\n/quit\nnever\n",
                                       .in_is_terminal = true});
  ASSERT_EQ(daemon_.chats().size(), 3U);
  EXPECT_EQ(daemon_.chats()[1].messages_size(), 2) << "/system forgets the conversation";
  EXPECT_EQ(daemon_.chats()[1].messages(0).content(), "T");
  EXPECT_EQ(daemon_.chats()[1].messages(1).content(), "two\nlines");
  EXPECT_EQ(daemon_.chats()[2].messages_size(), 2) << "/clear keeps the system message";
  EXPECT_EQ(daemon_.chats()[2].messages(1).content(), "three");
  EXPECT_THAT(result.err, HasSubstr("user: three"));
  EXPECT_THAT(result.err, HasSubstr("unknown command /nonsense"));
}

TEST(ConversationTest, AnAnswerCutShortStaysAsFarAsItCame) {
  std::istringstream in("one\ntwo\nthree\n");
  std::ostringstream out;
  std::ostringstream err;
  Console console{in, out, err};
  std::vector<int> sizes;
  const AskFunction ask = [&sizes](const v1::ChatRequest& request, std::string* answer) {
    sizes.push_back(request.messages_size());
    if (sizes.size() == 1) *answer = "half an ans";
    return kExitInterrupted;
  };
  Conversation({}, console, ask).Run();
  EXPECT_THAT(sizes, ElementsAre(1, 3, 3)) << "one with no answer at all is taken out again";
}

TEST_F(SpillwayTest, MessagesComeFromAFile) {
  const std::string path = ::testing::TempDir() + std::to_string(getpid()) + "_messages.json";
  std::ofstream(path) << R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"}])";
  Run({"chat", "--messages=" + path, "c"});
  ASSERT_EQ(daemon_.chats().size(), 1U);
  EXPECT_EQ(daemon_.chats()[0].messages_size(), 3);
  std::ofstream(path) << R"([{"role":"user","content":"a"},{"role":7}])";
  const Result result = Run({"chat", "--messages=" + path});
  EXPECT_EQ(result.exit_code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("message 1 of " + path));
  EXPECT_THAT(Run({"chat", "--messages=/nowhere"}).err, HasSubstr("cannot open /nowhere"));
}

TEST_F(SpillwayTest, TokenizeShowsIdsAndPieces) {
  EXPECT_EQ(Run({"tokenize", "Hello"}).out, "19556\tHello\n905\t\\n\\xe2\\x82\n");
  EXPECT_EQ(Run({"tokenize", "--ids", "Hello"}).out, "19556 905\n");
  EXPECT_EQ(Run({"tokenize", "--count", "Hello"}).out, "2\n");
  EXPECT_EQ(nlohmann::json::parse(Run({"tokenize", "--json", "Hello"}).out)["token_ids"],
            (std::vector<int>{19556, 905}));
  Run({"tokenize", "--chat", "Hello"});
  EXPECT_EQ(daemon_.tokenizes().back().chat().messages(0).content(), "Hello");
  Run({"tokenize", "--noadd_special", "--parse_special", "Hello"});
  EXPECT_TRUE(daemon_.tokenizes().back().has_add_special());
  EXPECT_FALSE(daemon_.tokenizes().back().add_special());
  EXPECT_TRUE(daemon_.tokenizes().back().parse_special());
}

TEST_F(SpillwayTest, DetokenizePrintsTheText) { EXPECT_EQ(Run({"detokenize", "1", "2"}).out, "2 ids"); }

TEST_F(SpillwayTest, StatusIsATableOrJsonAndFailsUnlessServing) {
  const Result table = Run({"status"});
  EXPECT_EQ(table.exit_code, kExitOk);
  EXPECT_THAT(table.out, HasSubstr("SERVING, up 2 h 3 min"));
  EXPECT_THAT(table.out, HasSubstr("3 running"));
  EXPECT_THAT(table.out, HasSubstr("25.0 % of 200 prompt tokens"));
  EXPECT_THAT(table.out, HasSubstr("1.0 GiB"));
  const nlohmann::json json = nlohmann::json::parse(Run({"status", "--json"}).out);
  EXPECT_EQ(json["health"], "SERVING");
  EXPECT_EQ(json["status"]["blocks"]["free"], "1000") << "64-bit numbers are strings in proto JSON";

  daemon_.SetHealth(grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  const Result loading = Run({"status"});
  EXPECT_EQ(loading.exit_code, kExitFailed);
  EXPECT_THAT(loading.out, HasSubstr("NOT_SERVING"));
}

TEST_F(SpillwayTest, ModelsShowsLimitsAndDefaults) {
  const Result result = Run({"models"});
  EXPECT_EQ(result.exit_code, kExitOk);
  for (const char* wanted :
       {"fake\n", "134.5 M", "256.0 MiB, of which every pass loads 200.0 MiB over the link", "2048 tokens",
        "temperature 0.5", "chat"}) {
    EXPECT_THAT(result.out, HasSubstr(wanted));
  }
  EXPECT_EQ(nlohmann::json::parse(Run({"models", "--json"}).out)["models"][0]["context_tokens"], 2048);
}

TEST_F(SpillwayTest, ProfileIsTextOrTheWholeJson) {
  const Result text = Run({"profile"});
  EXPECT_EQ(text.exit_code, kExitOk);
  EXPECT_THAT(text.out, HasSubstr("link in  0.1 GB/s\n"));
  EXPECT_THAT(text.out, Not(HasSubstr("\x1b"))) << "no text of a server controls the terminal";
  EXPECT_EQ(nlohmann::json::parse(Run({"profile", "--json"}).out)["schema_version"], 1);
}

TEST_F(SpillwayTest, TraceIsWhatPerfettoReadsAndItsSumsAreShown) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_trace.json";
  const Result result = Run({"trace", "--duration=2s", "--output=" + path});
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("4 stretches in 2.000 s"));
  EXPECT_THAT(result.out, ContainsRegex("KV load +25.0 % +0.0 % +47.7 MiB +100.0 MB/s"));
  // 0.7 s of visits, in 0.4 of which it waited.
  EXPECT_THAT(result.out, ContainsRegex("compute +15.0 % +20.0 %"));
  std::ifstream file(path);
  const nlohmann::json trace = nlohmann::json::parse(file);
  std::map<std::string, nlohmann::json> named;
  std::map<int, std::string> lanes;
  for (const nlohmann::json& event : trace["traceEvents"]) {
    if (event["ph"] == "X") named[event["name"]] = event;
    if (event["name"] == "thread_name") lanes[event["tid"]] = event["args"]["name"];
  }
  const nlohmann::json& load = named["layer 0"];
  ASSERT_TRUE(named.contains("head") && named.contains("waits for the link") && load.is_object());
  EXPECT_EQ(lanes[named["waits for the link"]["tid"]], "compute");
  EXPECT_EQ(named["waits for the link"]["ts"], 100'000) << "microseconds";
  EXPECT_EQ(named["waits for the link"]["dur"], 400'000);
  EXPECT_EQ(named["head"]["args"]["step"], 7);
  std::remove(path.c_str());

  EXPECT_EQ(nlohmann::json::parse(Run({"trace", "--output=-"}).out)["otherData"]["schema_version"], 1);
  const Result unwritable = Run({"trace", "--output=/no/such/folder/trace.json"});
  EXPECT_EQ(unwritable.exit_code, kExitFailed);
  EXPECT_THAT(unwritable.err, HasSubstr("/no/such/folder/trace.json"));
  EXPECT_EQ(Run({"trace", "--duration=0"}).exit_code, kExitUsage);
}

TEST_F(SpillwayTest, UnaryCallsReportTheirErrors) {
  daemon_.FailUnary(DaemonError(Reason::kNotReady, "loading", {}, 500));
  for (const auto& args : std::vector<std::vector<std::string>>{{"tokenize", "t"},
                                                                {"detokenize", "1"},
                                                                {"models"},
                                                                {"status"},
                                                                {"plan"},
                                                                {"profile"},
                                                                {"trace"}}) {
    const Result result = Run(args);
    EXPECT_EQ(result.exit_code, kExitFailed);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr("NOT_READY"));
  }
}

TEST_F(SpillwayTest, TheServerComesFromTheFlagThenTheEnvironment) {
  ASSERT_EQ(setenv("SPILLWAY_SERVER", "10.1.2.3:4", 1), 0);
  EXPECT_EQ(DefaultConnectionOptions().server, "10.1.2.3:4");
  EXPECT_EQ(Run({"models"}).exit_code, kExitOk) << "--server wins";
  ASSERT_EQ(setenv("SPILLWAY_SERVER", "", 1), 0);
  EXPECT_EQ(DefaultConnectionOptions().server, kDefaultServer);
  unsetenv("SPILLWAY_SERVER");
}

TEST_F(SpillwayTest, PlanAsksTheDaemonAndPrintsTheSplit) {
  const Result result =
      Run({"plan", "--sequences=4", "--context=1000", "--shared=10", "--device_memory=24GiB",
           "--host_pool=100GiB", "--scratch=2GiB", "--stream_weights"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("profile   a profile"));
  EXPECT_THAT(result.out, HasSubstr("4 sequences of 1000 cached tokens (10 shared)"));
  EXPECT_THAT(result.out, HasSubstr("carried as X 300"));
  EXPECT_THAT(result.out, HasSubstr("250.000 ms  <- binds"));
  EXPECT_THAT(result.out, HasSubstr("transfer, residency off"));
  ASSERT_EQ(daemon_.plans().size(), 1U);
  const v1::ExplainPlanRequest request = daemon_.plans()[0];
  EXPECT_EQ(request.sequences(), 4);
  EXPECT_EQ(request.context_tokens(), 1000);
  EXPECT_EQ(request.shared_tokens(), 10);
  EXPECT_EQ(request.device_memory_bytes(), int64_t{24} << 30);
  EXPECT_EQ(request.host_pool_bytes(), int64_t{100} << 30);
  EXPECT_EQ(request.scratch_bytes(), int64_t{2} << 30);
  EXPECT_TRUE(request.stream_weights());
  const auto json = nlohmann::json::parse(Run({"plan", "--json"}).out);
  EXPECT_EQ(json["alternatives"][0]["carried_x_tokens"], 300);
  EXPECT_EQ(json["alternatives"][0]["binds"], "link in");
  EXPECT_EQ(json["schema_version"], 1);
}

TEST_F(SpillwayTest, PlanWorksFromASavedProfileWithoutADaemon) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_profile.json";
  ASSERT_TRUE(profiler::SaveProfile(scheduler::MultiHeadProfile(), path).ok());
  const Result result = Run({"plan", "--profile=" + path, "--sequences=32", "--context=8000"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("model     multi-head, 32 layers"));
  EXPECT_THAT(result.out, HasSubstr("<- binds"));
  EXPECT_THAT(result.out, HasSubstr("serial, residency off"));
  const auto json = nlohmann::json::parse(Run({"plan", "--profile=" + path, "--json"}).out);
  EXPECT_EQ(json["alternatives"].size(), 8U);
  EXPECT_TRUE(daemon_.plans().empty());

  const Result small = Run({"plan", "--profile=" + path, "--device_memory=8GiB"});
  EXPECT_EQ(small.exit_code, kExitFailed);
  EXPECT_THAT(small.err, HasSubstr("stream the weights"));
  EXPECT_EQ(Run({"plan", "--profile=" + path, "--sequences=0"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"plan", "--profile=" + path, "--shared=99999"}).exit_code, kExitFailed);
  const Result missing = Run({"plan", "--profile=/no/such/profile.json"});
  EXPECT_EQ(missing.exit_code, kExitFailed);
  EXPECT_THAT(missing.err, HasSubstr("/no/such/profile.json"));
  std::ofstream(path) << R"({"schema_version": 1, "copy_in": "NaN"})";
  EXPECT_EQ(Run({"plan", "--profile=" + path}).exit_code, kExitFailed);
  unlink(path.c_str());
}

TEST_F(SpillwayTest, PlanPrintsNoControlCharactersOfASavedProfile) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_profile.json";
  profiler::MachineProfile profile = scheduler::MultiHeadProfile();
  profile.description = "evil\n\x1b[2Jprofile";
  profile.model.name = "evil\x7f\xc2\x9bmodel";
  ASSERT_TRUE(profiler::SaveProfile(profile, path).ok());
  for (const char* form : {"--json=false", "--json", "--kubernetes"}) {
    const Result result = Run({"plan", "--profile=" + path, form});
    EXPECT_EQ(result.exit_code, kExitOk) << result.err;
    EXPECT_EQ(result.out.find_first_of("\x1b\x7f\xc2"), std::string::npos) << result.out;
    EXPECT_THAT(result.out, Not(HasSubstr("evil\n")));
    EXPECT_THAT(result.out, HasSubstr("evil\\"));
  }
  unlink(path.c_str());
}

// 32 sequences of 8000 tokens are 250 blocks of 32 each; a token takes 2 * 4096 * 2 bytes in 32 layers.
TEST_F(SpillwayTest, PlanPrintsWhatAContainerNeeds) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_profile.json";
  profiler::MachineProfile profile = scheduler::MultiHeadProfile();
  profile.model.block_tokens = 32;
  profile.description = "two\nlines";
  ASSERT_TRUE(profiler::SaveProfile(profile, path).ok());
  const std::vector<std::string> load = {"plan", "--profile=" + path, "--sequences=32", "--context=8001",
                                         "--kubernetes"};
  const auto with = [&load](std::vector<std::string> more) {
    more.insert(more.begin(), load.begin(), load.end());
    return more;
  };
  const int64_t token_bytes = static_cast<int64_t>(profile.model.beta_bytes()) * profile.model.n_layers;
  const int64_t pool_mib = 32 * 251 * 32 * token_bytes >> 20;
  const Result fits = Run(load);
  EXPECT_EQ(fits.exit_code, kExitOk) << fits.err;
  EXPECT_THAT(fits.out,
              HasSubstr("{name: SPILLWAY_HOST_POOL, value: \"" + std::to_string(pool_mib) + "MiB\"}"));
  EXPECT_THAT(fits.out, HasSubstr("{name: SPILLWAY_MAX_SEQUENCES, value: \"32\"}"));
  EXPECT_THAT(fits.out, HasSubstr("limits: {memory: " + std::to_string(pool_mib + 2048) + "Mi}"));
  EXPECT_THAT(fits.out, HasSubstr(" --weights_on=device\n"));
  EXPECT_THAT(fits.out, Not(HasSubstr("two\nlines")));

  const Result streams = Run(with({"--stream_weights", "--host_pool=200GiB", "--device_memory=24GiB"}));
  const auto weights_mib = static_cast<int64_t>(std::ceil(profile.model.weight_bytes / (1 << 20)));
  EXPECT_THAT(streams.out, HasSubstr("--host_pool=204800MiB --max_sequences=32 --context=8001 "
                                     "--device_memory=24576MiB --weights_on=host"));
  EXPECT_THAT(streams.out,
              HasSubstr("requests: {memory: " + std::to_string(204800 + weights_mib + 2048) + "Mi}"));

  EXPECT_EQ(Run({"plan", "--kubernetes"}).exit_code, kExitUsage)
      << "a daemon does not tell all that is needed";
  EXPECT_EQ(Run(with({"--json"})).exit_code, kExitUsage);
  unlink(path.c_str());
}

}  // namespace
}  // namespace spillway::client
