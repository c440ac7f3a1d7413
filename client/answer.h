// Following a generation's stream to its end: text as it comes, or JSON, with progress for who waits.
#ifndef SPILLWAY_CLIENT_ANSWER_H_
#define SPILLWAY_CLIENT_ANSWER_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "client/connection.h"
#include "client/console.h"
#include "client/flags.h"
#include "client/stream_checker.h"
#include "grpcpp/support/sync_stream.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::client {

struct AnswerOptions {
  bool json = false;         // the whole reply as one JSON object
  bool stream_json = false;  // every event as a line of JSON
  bool stats = false;        // a line of usage and timings on stderr
};

void AddAnswerFlags(FlagTable& flags, AnswerOptions* options);

// A reply put together from its events. ChatResponse has the same shape.
class Reply {
 public:
  explicit Reply(int32_t choices);
  // The error is StreamChecker's; the event was not added then.
  absl::Status Add(const v1::StreamEvent& event);
  absl::Status CheckEnd() const { return checker_.OnEnd(); }
  const v1::CompleteResponse& response() const { return response_; }

 private:
  StreamChecker checker_;
  v1::CompleteResponse response_;
};

// What the events of one stream look like on the console. Used by one thread.
class EventView {
 public:
  virtual ~EventView() = default;
  virtual void OnEvent(const v1::StreamEvent& event) = 0;
  // The stream ended well (`reply` is whole) or not; either way the console is left at the start of a line.
  virtual void OnEnd(const v1::CompleteResponse& reply, bool ok) = 0;
};

// Text and nothing else goes to console.out. A single choice is written as it comes; several are written one
// after the other at the end. On a terminal, control characters are escaped and the last line is ended.
std::unique_ptr<EventView> NewEventView(const AnswerOptions& options, int32_t choices, Console& console);

// Reads the stream to its end, shows it and reports what went wrong. `reply` (may be null) receives the text
// of choice 0 that arrived, even when the stream then failed.
ExitCode FollowStream(grpc::ClientReaderInterface<v1::StreamEvent>& stream, grpc::ClientContext& context,
                      const AnswerOptions& options, int32_t choices, const ActiveCall& active,
                      absl::string_view server, Console& console, std::string* text);

// `message` as JSON with the proto's field names, every field present. One line, no newline at its end.
std::string ToJson(const google::protobuf::Message& message);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_ANSWER_H_
