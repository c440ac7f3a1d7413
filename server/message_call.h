// MessageCall: a call that takes one message and gives one or many - on the wire, every unary and every
// server-streaming call. gRPC's own classes for these tell nobody of a call before its message has come
// whole, however long that takes; this one reads the message itself, so that a client which stops halfway, or
// does not read its answer, is given up after a time.
//
// Life: the maker calls Begin; gRPC's OnDone is the last that is heard of the call (Release). Thread-safe.
#ifndef SPILLWAY_SERVER_MESSAGE_CALL_H_
#define SPILLWAY_SERVER_MESSAGE_CALL_H_

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/authorizer.h"
#include "server/call_timeouts.h"
#include "server/call_traffic.h"
#include "server/text_pool.h"
#include "server/unread_answers.h"

namespace spillway::server {

// Requests up to this size are parsed and tokenised on the gRPC thread that brought them (well below a
// millisecond); longer ones go to the text pool.
constexpr size_t kInlineRequestBytes = 2048;

class Telemetry;

// Calls that wait for their client, and what they keep of it meanwhile. Outlives the calls.
struct CallWaits {
  CallTimeouts receiving;    // until a message has come whole
  CallTimeouts unread;       // until the end of the answer has left
  CallTraffic traffic = {};  // of each connection's calls
  UnreadAnswers answers = UnreadAnswers({});
};

class MessageCall : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Begins to read the message. Once, right after creation.
  void Begin();

  // Empty: nobody was asked for a token.
  std::string tenant_name() const { return tenant_ == nullptr ? "" : tenant_->name(); }
  std::string peer() const { return context_.peer(); }

 protected:
  MessageCall(CallWaits& waits, grpc::CallbackServerContext& context, Caller caller)
      : waits_(waits),
        context_(context),
        tenant_(std::move(caller.tenant)),
        place_(std::move(caller.place)) {}

  // The message is here; it lives until ForgetMessage, or as long as the call. Never blocks.
  virtual void OnMessage(const grpc::ByteBuffer& bytes) = 0;
  // None came, and none will: kCancelled, or kInvalidField where the client has sent its end without one. The
  // call is to be finished.
  virtual void OnNoMessage(const absl::Status& why) = 0;
  // The last use of the call.
  virtual void Release() = 0;

  // The message has been read: a call may live on for long, and its message can be large. Again does
  // no harm.
  void ForgetMessage() { request_.Clear(); }

  // Nothing follows but what is on the way already: from here on the client has a time to read it. Again does
  // no harm.
  void AwaitReader();

  // The call's end, instead of gRPC's Finish and StartWriteAndFinish. The caller's place is free before the
  // client can know of the end, and ask for the next.
  void Conclude(const grpc::Status& status);
  void ConcludeWith(const grpc::ByteBuffer& last,
                    const grpc::Status& status);  // `last` lives as long as the call

  // Of an answer before ConcludeWith, once: kAnswersUnread where its caller reads too little of others. It is
  // not to be kept then.
  absl::Status KeepUnread(size_t bytes);

  grpc::CallbackServerContext& context() { return context_; }
  // Null: nobody was asked for a token.
  Tenant* tenant() const { return tenant_.get(); }
  // 0 before the message is here.
  size_t message_bytes() const { return request_.Length(); }

 private:
  void OnReadDone(bool ok) final;
  void OnDone() final;
  void LeavePlace();

  CallWaits& waits_;
  grpc::CallbackServerContext& context_;
  const std::shared_ptr<Tenant> tenant_;
  grpc::ByteBuffer request_;
  Mutex mutex_;
  Tenant::Place place_ ABSL_GUARDED_BY(mutex_);
  CallTimeouts::Ticket receiving_ ABSL_GUARDED_BY(mutex_) = 0;
  CallTimeouts::Ticket unread_ ABSL_GUARDED_BY(mutex_) = 0;
  // The tenant, or the connection where nobody was asked for a token: gRPC has forgotten it in the end. Empty
  // where no answer is kept.
  std::string kept_for_ ABSL_GUARDED_BY(mutex_);
  int64_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A call that is answered once. Deletes itself.
class AnswerCall final : public MessageCall {
 public:
  // Answers the call, on this thread or later on another.
  using Work = std::function<void(AnswerCall& call, const grpc::ByteBuffer& request)>;

  // `telemetry`, where there is one, outlives the call and hears of a refusal, by `method`.
  AnswerCall(CallWaits& waits, grpc::CallbackServerContext& context, Caller caller, Work work,
             Telemetry* telemetry, std::string method)
      : MessageCall(waits, context, std::move(caller)),
        work_(std::move(work)),
        telemetry_(telemetry),
        method_(std::move(method)) {}

  // One of the two, once. The request is gone then.
  void Answer(absl::StatusOr<grpc::ByteBuffer> answer);
  void Refuse(const grpc::Status& status);  // with a status as another interface's definition wants it

  // Calls `then` when the client has gone away or its deadline has passed: at once where that was so before,
  // else on another thread, beside Answer or after it, while the call lives. Once, from within Work.
  void WhenGone(std::function<void()> then);

  // Answers with what `read` makes of the request: at once where that is short, else on the pool, where it
  // may have waited for longer than its client did, and is then not read at all.
  void AnswerWith(TextPool& pool, std::function<absl::StatusOr<grpc::ByteBuffer>()> read);

 private:
  void OnMessage(const grpc::ByteBuffer& bytes) override { work_(*this, bytes); }
  void OnNoMessage(const absl::Status& why) override { Answer(why); }
  void OnCancel() override;
  void Release() override { delete this; }

  const Work work_;
  Telemetry* const telemetry_;
  const std::string method_;
  grpc::ByteBuffer response_;
  Mutex gone_mutex_;
  bool gone_ ABSL_GUARDED_BY(gone_mutex_) = false;
  std::function<void()> when_gone_ ABSL_GUARDED_BY(gone_mutex_);
};

// Who may make a service's calls, and who hears of those that are refused. What it refers to outlives the
// service.
struct Guard {
  const Authorizer* authorizer = nullptr;  // null: everybody may
  Access access = Access::kOpen;
  Telemetry* telemetry = nullptr;

  // As Authorizer::Admit; of a refusal the telemetry hears, by `method`.
  absl::StatusOr<Caller> Admit(const grpc::CallbackServerContext& context, const std::string& method) const;
};

// A service of such calls.
class MessageService : public grpc::Service {
 protected:
  // Makes the call, begins it and returns it.
  using Start = std::function<MessageCall*(grpc::CallbackServerContext&, Caller)>;

  // `name` is the service's full name; `waits` outlives the service.
  MessageService(std::string name, CallWaits& waits, const Guard& guard = {})
      : name_(std::move(name)), waits_(waits), guard_(guard) {}

  // A call by somebody who may not make it ends before its message is read.
  void AddMethod(const std::string& method, Start start);
  // One that is answered once.
  void AddAnswer(const std::string& method, AnswerCall::Work work);

 private:
  const std::string name_;
  CallWaits& waits_;
  const Guard guard_;
  std::deque<std::string> paths_;  // gRPC keeps pointers into them
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_MESSAGE_CALL_H_
