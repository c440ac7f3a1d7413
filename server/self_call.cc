#include "server/self_call.h"

#include <chrono>
#include <utility>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/client_context.h"

namespace spillway::server {
namespace {

constexpr std::chrono::milliseconds kPeriod(100);

}  // namespace

SelfCall::SelfCall(std::shared_ptr<grpc::Channel> channel)
    : channel_(std::move(channel)), thread_([this] { Work(); }) {}

SelfCall::~SelfCall() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void SelfCall::Work() {
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!stopping_) changed_.WaitFor(mutex_, kPeriod);
      if (stopping_) return;
    }
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
    grpc::health::v1::HealthCheckResponse response;
    // Whatever the answer, the threads have been awake for it.
    stub->Check(&context, {}, &response);
  }
}

}  // namespace spillway::server
