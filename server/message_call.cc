#include "server/message_call.h"

#include "absl/strings/str_cat.h"
#include "base/reason.h"
#include "base/status_macros.h"
#include "grpcpp/impl/codegen/rpc_service_method.h"
#include "grpcpp/impl/codegen/server_callback_handlers.h"
#include "server/call_labels.h"
#include "server/error_status.h"
#include "server/refused_call.h"
#include "server/telemetry.h"

namespace spillway::server {

using grpc::ByteBuffer;
using grpc::internal::RpcMethod;
using grpc::internal::RpcServiceMethod;

void MessageCall::Begin() {
  waits_.traffic.OnReceiving(peer());
  {
    MutexLock lock(mutex_);
    receiving_ = waits_.receiving.Begin(context_.c_call());
  }
  StartRead(&request_);
}

void MessageCall::OnReadDone(bool ok) {
  waits_.traffic.OnReceived(peer());
  {
    MutexLock lock(mutex_);
    waits_.receiving.End(receiving_);
  }
  if (ok) {
    OnMessage(request_);
  } else if (context_.IsCancelled()) {
    OnNoMessage(MakeError(Reason::kCancelled, "the call was cancelled before its message had come"));
  } else {
    OnNoMessage(MakeFieldError({{"", "the call came without a message"}}));
  }
}

void MessageCall::AwaitReader() {
  MutexLock lock(mutex_);
  if (unread_ == 0) unread_ = waits_.unread.Begin(context_.c_call());
}

void MessageCall::LeavePlace() {
  Tenant::Place place;
  MutexLock lock(mutex_);
  place = std::move(place_);
}

void MessageCall::Conclude(const grpc::Status& status) {
  AwaitReader();
  LeavePlace();
  Finish(status);
}

void MessageCall::ConcludeWith(const ByteBuffer& last, const grpc::Status& status) {
  AwaitReader();
  LeavePlace();
  StartWriteAndFinish(&last, grpc::WriteOptions(), status);
}

absl::Status MessageCall::KeepUnread(size_t bytes) {
  std::string caller = tenant_ == nullptr ? peer() : tenant_->name();
  SPILLWAY_RETURN_IF_ERROR(waits_.answers.Begin(caller, static_cast<int64_t>(bytes)));
  MutexLock lock(mutex_);
  kept_for_ = std::move(caller);
  kept_bytes_ = static_cast<int64_t>(bytes);
  return absl::OkStatus();
}

void MessageCall::OnDone() {
  {
    MutexLock lock(mutex_);
    waits_.unread.End(unread_);
    if (!kept_for_.empty()) waits_.answers.End(kept_for_, kept_bytes_);
  }
  Release();
}

void AnswerCall::WhenGone(std::function<void()> then) {
  {
    MutexLock lock(gone_mutex_);
    if (!gone_) {
      when_gone_ = std::move(then);
      return;
    }
  }
  then();
}

void AnswerCall::OnCancel() {
  std::function<void()> then;
  {
    MutexLock lock(gone_mutex_);
    gone_ = true;
    then = std::move(when_gone_);
  }
  if (then != nullptr) then();
}

void AnswerCall::AnswerWith(TextPool& pool, std::function<absl::StatusOr<ByteBuffer>()> read) {
  if (message_bytes() <= kInlineRequestBytes) return Answer(read());
  const absl::Status submitted =
      pool.Submit(static_cast<int64_t>(message_bytes()), [this, read = std::move(read)] {
        // Its deadline cancels a call too.
        if (context().IsCancelled()) {
          return Answer(MakeError(Reason::kCancelled, "the call ended before its text was read"));
        }
        Answer(read());
      });
  if (!submitted.ok()) Answer(submitted);
}

void AnswerCall::Answer(absl::StatusOr<ByteBuffer> answer) {
  if (answer.ok()) {
    if (const absl::Status kept = KeepUnread(answer->Length()); !kept.ok()) answer = kept;
  }
  if (!answer.ok()) {
    const absl::Status& why = answer.status();
    if (telemetry_ != nullptr) {
      telemetry_->OnRefused(RefusalOf(why, method_, context(), tenant_name()));
    }
    return Refuse(FinishStatus(why, 0, context()));
  }
  ForgetMessage();
  response_ = *std::move(answer);
  ConcludeWith(response_, grpc::Status::OK);
}

void AnswerCall::Refuse(const grpc::Status& status) {
  ForgetMessage();
  Conclude(status);
}

absl::StatusOr<Caller> Guard::Admit(const grpc::CallbackServerContext& context,
                                    const std::string& method) const {
  if (authorizer == nullptr) return Caller();
  absl::StatusOr<Caller> caller = authorizer->Admit(context, access);
  if (!caller.ok() && telemetry != nullptr) {
    telemetry->OnRefused(RefusalOf(caller.status(), method, context, TenantRefused(caller.status())));
  }
  return caller;
}

void MessageService::AddMethod(const std::string& method, Start start) {
  const std::string& path = paths_.emplace_back(absl::StrCat("/", name_, "/", method));
  const auto index = static_cast<int>(paths_.size()) - 1;
  // As gRPC's own StreamedUnaryHandler has it: to the server both kinds are streams of one message.
  grpc::Service::AddMethod(new RpcServiceMethod(path.c_str(), RpcMethod::BIDI_STREAMING, nullptr));
  const auto handle =
      [this, method, start = std::move(start)](
          grpc::CallbackServerContext* context) -> grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* {
    absl::StatusOr<Caller> caller = guard_.Admit(*context, method);
    if (caller.ok()) return start(*context, *std::move(caller));
    waits_.traffic.OnRefused(context->peer());
    return new RefusedCall<ByteBuffer, ByteBuffer>(waits_.unread, *context,
                                                   FinishStatus(caller.status(), 0, *context));
  };
  MarkMethodCallback(index, new grpc::internal::CallbackBidiHandler<ByteBuffer, ByteBuffer>(handle));
}

void MessageService::AddAnswer(const std::string& method, AnswerCall::Work work) {
  AddMethod(
      method, [this, method, work = std::move(work)](grpc::CallbackServerContext& context, Caller caller) {
        auto* const call = new AnswerCall(waits_, context, std::move(caller), work, guard_.telemetry, method);
        call->Begin();
        return call;
      });
}

}  // namespace spillway::server
