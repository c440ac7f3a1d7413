#include "client/answer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "client/call_error.h"
#include "google/protobuf/util/json_util.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kClearLine = "\r\x1b[K";

std::string DescribeStage(const v1::Progress& progress) {
  switch (progress.stage()) {
    case v1::STAGE_QUEUED:
      return progress.requests_ahead() > 0 ? absl::StrCat("queued, ", progress.requests_ahead(), " ahead")
                                           : "queued";
    case v1::STAGE_PREFILL:
      return absl::StrCat(
          "reading: ", progress.done_tokens(), "/", progress.total_tokens(), " tokens",
          progress.cached_tokens() > 0 ? absl::StrCat(" (", progress.cached_tokens(), " cached)") : "");
    case v1::STAGE_PREEMPTED:
      return "preempted: waits for memory and then continues";
    default:
      return "";
  }
}

std::string DescribeProgress(const v1::Progress& progress) {
  std::string text = DescribeStage(progress);
  return progress.index() == 0 || text.empty() ? text : absl::StrCat("choice ", progress.index(), ": ", text);
}

// A line on stderr that is rewritten while there is nothing else to look at.
class ProgressLine {
 public:
  explicit ProgressLine(Console& console) : console_(console) {}
  ~ProgressLine() { Clear(); }

  void Show(absl::string_view text) {
    if (!console_.err_is_terminal || text.empty()) return;
    console_.err << kClearLine << text << std::flush;
    shown_ = true;
  }
  void Clear() {
    if (shown_) console_.err << kClearLine << std::flush;
    shown_ = false;
  }

 private:
  Console& console_;
  bool shown_ = false;
};

class TextView : public EventView {
 public:
  TextView(int32_t choices, Console& console) : choices_(choices), console_(console), progress_(console) {}

  void OnEvent(const v1::StreamEvent& event) override {
    if (event.event_case() == v1::StreamEvent::kProgress) {
      // In the middle of a line of text there is no place for a progress line.
      if (!wrote_ || !console_.out_is_terminal) progress_.Show(DescribeProgress(event.progress()));
    } else if (event.event_case() == v1::StreamEvent::kDelta && choices_ == 1) {
      Write(event.delta().text());
    }
  }

  void OnEnd(const v1::CompleteResponse& reply, bool ok) override {
    progress_.Clear();
    if (choices_ > 1 && ok) {
      for (const v1::Choice& choice : reply.choices()) {
        EndLine();
        console_.out << "--- choice " << choice.index() << " ---\n";
        Write(choice.text());
        if (!last_was_newline_) Write("\n");
      }
    }
    if (console_.out_is_terminal) EndLine();
    console_.out.flush();
  }

 private:
  void Write(absl::string_view text) {
    if (text.empty()) return;
    progress_.Clear();
    console_.out << (console_.out_is_terminal ? EscapeForTerminal(text) : std::string(text)) << std::flush;
    wrote_ = true;
    last_was_newline_ = text.back() == '\n';
  }
  void EndLine() {
    if (wrote_ && !last_was_newline_) Write("\n");
  }

  const int32_t choices_;
  Console& console_;
  ProgressLine progress_;
  bool wrote_ = false;
  bool last_was_newline_ = false;
};

class JsonView : public EventView {
 public:
  JsonView(bool every_event, Console& console)
      : every_event_(every_event), console_(console), progress_(console) {}

  void OnEvent(const v1::StreamEvent& event) override {
    if (every_event_) {
      console_.out << ToJson(event) << "\n" << std::flush;
    } else if (event.event_case() == v1::StreamEvent::kProgress) {
      progress_.Show(DescribeProgress(event.progress()));
    } else if (event.event_case() == v1::StreamEvent::kDelta) {
      tokens_ += event.delta().token_ids_size();
      progress_.Show(absl::StrCat("generated ", tokens_, " tokens"));
    }
  }

  void OnEnd(const v1::CompleteResponse& reply, bool ok) override {
    progress_.Clear();
    // Half a reply that looks like a whole one would mislead a script.
    if (!every_event_ && ok) console_.out << ToJson(reply) << "\n" << std::flush;
  }

 private:
  const bool every_event_;
  Console& console_;
  ProgressLine progress_;
  int64_t tokens_ = 0;
};

std::string DescribeUsage(const v1::Usage& usage, int32_t choices) {
  const v1::Timings& timings = usage.timings();
  std::string text =
      absl::StrFormat("prompt %d tokens (%d cached), generated %d in %.2f s, first token after %.0f ms",
                      usage.prompt_tokens(), usage.cached_tokens(), usage.generated_tokens(),
                      timings.total_ms() / 1e3, timings.first_token_ms());
  // The first token of each choice comes out of the prefill.
  const int32_t decoded = usage.generated_tokens() - choices;
  if (decoded > 0 && timings.decode_ms() > 0) {
    absl::StrAppendFormat(&text, ", then %.1f tokens/s", decoded / (timings.decode_ms() / 1e3));
  }
  if (usage.preemptions() > 0) absl::StrAppend(&text, ", preempted ", usage.preemptions(), " times");
  return text;
}

}  // namespace

void AddAnswerFlags(FlagTable& flags, AnswerOptions* options) {
  flags.Section("Output");
  flags.AddSwitch("json", &options->json, "The whole reply as one JSON object, when it is complete.");
  flags.AddSwitch("stream_json", &options->stream_json, "Every event as a line of JSON, as it comes.");
  flags.AddSwitch("stats", &options->stats, "Token counts and timings on stderr at the end.");
}

Reply::Reply(int32_t choices) : checker_(choices) {
  for (int32_t index = 0; index < choices; ++index) response_.add_choices()->set_index(index);
}

absl::Status Reply::Add(const v1::StreamEvent& event) {
  if (absl::Status status = checker_.OnEvent(event); !status.ok()) return status;
  switch (event.event_case()) {
    case v1::StreamEvent::kStarted:
      response_.set_model(event.started().model());
      response_.set_seed(event.started().seed());
      response_.set_request_id(event.started().request_id());
      break;
    case v1::StreamEvent::kDelta: {
      const v1::Delta& delta = event.delta();
      v1::Choice& choice = *response_.mutable_choices(delta.index());
      choice.mutable_text()->append(delta.text());
      choice.mutable_token_ids()->MergeFrom(delta.token_ids());
      choice.mutable_logprobs()->MergeFrom(delta.logprobs());
      break;
    }
    case v1::StreamEvent::kFinished:
      *response_.mutable_choices(event.finished().index())->mutable_finished() = event.finished();
      break;
    case v1::StreamEvent::kUsage:
      *response_.mutable_usage() = event.usage();
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

std::unique_ptr<EventView> NewEventView(const AnswerOptions& options, int32_t choices, Console& console) {
  if (options.json || options.stream_json) return std::make_unique<JsonView>(options.stream_json, console);
  return std::make_unique<TextView>(choices, console);
}

ExitCode FollowStream(grpc::ClientReaderInterface<v1::StreamEvent>& stream, grpc::ClientContext& context,
                      const AnswerOptions& options, int32_t choices, const ActiveCall& active,
                      absl::string_view server, Console& console, std::string* text) {
  Reply reply(choices);
  const std::unique_ptr<EventView> view = NewEventView(options, choices, console);
  absl::Status contract;
  v1::StreamEvent event;
  while (contract.ok() && console.out.good() && stream.Read(&event)) {
    contract = reply.Add(event);
    if (contract.ok()) view->OnEvent(event);
  }
  if (!contract.ok() || !console.out.good()) {
    context.TryCancel();
    while (stream.Read(&event)) {
    }
  }
  const grpc::Status status = stream.Finish();
  if (contract.ok() && status.ok()) contract = reply.CheckEnd();
  view->OnEnd(reply.response(), contract.ok() && status.ok());
  if (text != nullptr) *text = reply.response().choices(0).text();

  if (!console.out.good()) {
    console.err << "spillway: cannot write to standard output\n";
    return kExitFailed;
  }
  if (!contract.ok()) {
    console.err << "spillway: " << EscapeToOneLine(std::string(contract.message())) << "\n";
    return kExitFailed;
  }
  if (!status.ok()) {
    if (active.cancelled() && status.error_code() == grpc::StatusCode::CANCELLED) return kExitInterrupted;
    console.err << DescribeError(DecodeError(status), server);
    return kExitFailed;
  }
  if (options.stats) console.err << DescribeUsage(reply.response().usage(), choices) << "\n";
  return kExitOk;
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  SPILLWAY_CHECK_MSG(status.ok(), "a message without Any or custom types always prints");
  return json;
}

}  // namespace spillway::client
