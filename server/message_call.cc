#include "server/message_call.h"

#include "absl/strings/str_cat.h"
#include "base/reason.h"
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
  {
    MutexLock lock(mutex_);
    receiving_ = waits_.receiving.Begin(context_.c_call());
  }
  StartRead(&request_);
}

void MessageCall::OnReadDone(bool ok) {
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

void MessageCall::OnDone() {
  {
    MutexLock lock(mutex_);
    waits_.unread.End(unread_);
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
  if (!answer.ok()) {
    const absl::Status& why = answer.status();
    if (telemetry_ != nullptr) {
      telemetry_->OnRefused(RefusalOf(why, method_, context(), caller().tenant_name()));
    }
    return Refuse(FinishStatus(why, 0, context()));
  }
  ForgetMessage();
  AwaitReader();
  response_ = *std::move(answer);
  StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
}

void AnswerCall::Refuse(const grpc::Status& status) {
  ForgetMessage();
  AwaitReader();
  Finish(status);
}

void MessageService::AddMethod(const std::string& method, Start start) {
  const std::string& path = paths_.emplace_back(absl::StrCat("/", name_, "/", method));
  const auto index = static_cast<int>(paths_.size()) - 1;
  // As gRPC's own StreamedUnaryHandler has it: to the server both kinds are streams of one message.
  grpc::Service::AddMethod(new RpcServiceMethod(path.c_str(), RpcMethod::BIDI_STREAMING, nullptr));
  const auto handle =
      [this, method, start = std::move(start)](
          grpc::CallbackServerContext* context) -> grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* {
    if (guard_.authorizer == nullptr) return start(*context, Caller());
    absl::StatusOr<Caller> caller = guard_.authorizer->Admit(*context, guard_.access);
    if (caller.ok()) return start(*context, *std::move(caller));
    if (guard_.telemetry != nullptr) {
      guard_.telemetry->OnRefused(RefusalOf(caller.status(), method, *context, ""));
    }
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
