// A call that generates, from its bytes to its last event: parsing and tokenising on the right thread,
// submission, cancellation, and reading its TokenStream. What streamed and unary calls share is here; how
// they answer is theirs.
//
// Life: a call owns itself from its start until gRPC's OnDone; the text pool and the delivery hold references
// while they work for it, the scheduler's side (TokenStream) knows it weakly. Thread-safe.
#ifndef SPILLWAY_SERVER_GENERATION_CALL_H_
#define SPILLWAY_SERVER_GENERATION_CALL_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/reason.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "scheduler/token_stream.h"
#include "server/delivery.h"
#include "server/event_writer.h"
#include "server/message_call.h"
#include "server/serving_state.h"
#include "server/telemetry.h"
#include "server/text_pool.h"

namespace spillway::server {

// What calls share; outlives them.
struct CallParts {
  const ServingState& state;
  TextPool& text_pool;
  Delivery& delivery;
  Telemetry& telemetry;
  const Clock& clock;
};

class GenerationCall : public MessageCall,
                       public Deliverable,
                       public std::enable_shared_from_this<GenerationCall> {
 public:
  // Bytes to a request of the scheduler: the message's type is bound in.
  using ReadRequest =
      std::function<absl::StatusOr<scheduler::Request>(const RequestReader&, const grpc::ByteBuffer&)>;

  // Once, right after creation, from when on the call owns itself.
  void Start();

 protected:
  // What `parts` refers to, and `waits`, must outlive the call.
  GenerationCall(const CallParts& parts, CallWaits& waits, grpc::CallbackServerContext& context,
                 Caller caller, std::string method, ReadRequest read);

  void OnCancel() override;
  virtual bool streams() const = 0;

  // Why the client, or the deadline, has just ended the call.
  Reason WhyGone() const;
  grpc::Status WireStatus(const absl::Status& status);
  TextPool& text_pool() const { return parts_.text_pool; }

  Mutex mutex_;
  // Set by whoever decides to send the status, which happens once.
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<scheduler::TokenStream> stream_ ABSL_GUARDED_BY(mutex_);  // null until submitted
  std::optional<EventWriter> event_writer_ ABSL_GUARDED_BY(mutex_);

 private:
  void OnMessage(const grpc::ByteBuffer& bytes) override;
  void OnNoMessage(const absl::Status& why) override { Refuse(why); }
  void Release() override;

  void Intake(const grpc::ByteBuffer& bytes);
  // What the call says of the request besides its message.
  void Label(scheduler::Request* request);
  // The tenant pays for the prompt, and has it back where the request is refused.
  absl::Status PayAndSubmit(scheduler::Request request);
  absl::Status Submit(scheduler::Request request);
  void Refuse(const absl::Status& status);
  Refusal MakeRefusal(const absl::Status& status, std::string request_id = {});
  // Before anything of the stream was sent.
  void AnswerOnly(const absl::Status& status);

  const CallParts parts_;
  const std::string method_;
  const ReadRequest read_;
  const MonotonicNs arrival_ns_;
  const MonotonicNs deadline_ns_;     // 0: none
  const Backend* backend_ = nullptr;  // set by OnMessage
  std::shared_ptr<GenerationCall> self_;
  Reason why_cancelled_ ABSL_GUARDED_BY(mutex_) = Reason::kNone;
};

// Writes every event as it comes; never two writes in flight.
class StreamCall final : public GenerationCall {
 public:
  StreamCall(const CallParts& parts, CallWaits& waits, grpc::CallbackServerContext& context, Caller caller,
             std::string method, ReadRequest read)
      : GenerationCall(parts, waits, context, std::move(caller), std::move(method), std::move(read)) {}

  void Pump() override;

 private:
  enum class Step { kNothing, kWrite, kWriteAndAnswer, kAnswer };

  void OnWriteDone(bool ok) override;
  bool streams() const override { return true; }
  // What to send next; a message goes to message_.
  Step Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool headers_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // the connection is gone: nothing is written any more
  std::vector<scheduler::Event> events_ ABSL_GUARDED_BY(mutex_);
  size_t next_event_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  v1::StreamEvent wire_ ABSL_GUARDED_BY(mutex_);
  // Belong to whoever set writing_ or answered_.
  grpc::ByteBuffer message_;
  grpc::WriteOptions options_;
};

// Gathers all events into one answer.
class UnaryCall final : public GenerationCall {
 public:
  // Folds events into the answer and serialises it in the end; the message's type is bound in.
  class Gatherer {
   public:
    virtual ~Gatherer() = default;
    virtual void Fold(v1::StreamEvent& event) = 0;
    virtual grpc::ByteBuffer Serialize() const = 0;
  };

  UnaryCall(const CallParts& parts, CallWaits& waits, grpc::CallbackServerContext& context, Caller caller,
            std::string method, ReadRequest read, std::unique_ptr<Gatherer> gatherer)
      : GenerationCall(parts, waits, context, std::move(caller), std::move(method), std::move(read)),
        gatherer_(std::move(gatherer)) {}

  void Pump() override;

 private:
  bool streams() const override { return false; }
  // By whoever set answered_, or in its place.
  void SendWhole();

  const std::unique_ptr<Gatherer> gatherer_;
  grpc::ByteBuffer response_;  // belongs to whoever set answered_
  std::vector<scheduler::Event> events_ ABSL_GUARDED_BY(mutex_);
  v1::StreamEvent wire_ ABSL_GUARDED_BY(mutex_);
  size_t gathered_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_GENERATION_CALL_H_
