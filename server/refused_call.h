// RefusedCall: a call that ends before anything of it is read. Deletes itself.
#ifndef SPILLWAY_SERVER_REFUSED_CALL_H_
#define SPILLWAY_SERVER_REFUSED_CALL_H_

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "grpcpp/support/status.h"
#include "server/call_timeouts.h"

namespace spillway::server {

template <typename Request, typename Response>
class RefusedCall final : public grpc::ServerBidiReactor<Request, Response> {
 public:
  // `unread` outlives the call, and gives it up where nobody reads the status.
  RefusedCall(CallTimeouts& unread, grpc::CallbackServerContext& context, const grpc::Status& status)
      : unread_(unread), ticket_(unread.Begin(context.c_call())) {
    this->Finish(status);
  }

 private:
  void OnDone() override {
    unread_.End(ticket_);
    delete this;
  }

  CallTimeouts& unread_;
  const CallTimeouts::Ticket ticket_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_REFUSED_CALL_H_
