#include "server/health_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spillway::server {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// Sends the state now and every change, the latest one where several come during a write. Deletes itself.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  // `known`: whether updates concern it.
  Watcher(HealthService& service, HealthCheckResponse::ServingStatus status, bool known)
      : service_(service), known_(known) {
    Set(status);
  }

  void Update(HealthCheckResponse::ServingStatus status) {
    if (known_) Set(status);
  }

  void Set(HealthCheckResponse::ServingStatus status) {
    Step step = Step::kNothing;
    {
      MutexLock lock(mutex_);
      latest_ = status;
      step = Next();
    }
    Take(step);
  }

  void OnWriteDone(bool ok) override {
    Step step = Step::kNothing;
    {
      MutexLock lock(mutex_);
      writing_ = false;
      cancelled_ = cancelled_ || !ok;
      step = Next();
    }
    Take(step);
  }

  void OnCancel() override { End(); }

  void End() {
    Step step = Step::kNothing;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      step = Next();
    }
    Take(step);
  }

  void OnDone() override {
    {
      MutexLock lock(service_.mutex_);
      service_.watchers_.erase(this);
    }
    delete this;
  }

 private:
  enum class Step { kNothing, kWrite, kFinish };

  Step Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return Step::kNothing;  // a write in flight comes back here
    if (cancelled_) {
      finished_ = true;
      return Step::kFinish;
    }
    if (latest_ == sent_) return Step::kNothing;
    sent_ = latest_;
    writing_ = true;
    message_.set_status(sent_);
    return Step::kWrite;
  }

  void Take(Step step) {
    if (step == Step::kWrite) StartWrite(&message_);
    if (step == Step::kFinish) Finish(grpc::Status::CANCELLED);
  }

  HealthService& service_;
  const bool known_;
  HealthCheckResponse message_;  // belongs to the write in flight
  Mutex mutex_;
  HealthCheckResponse::ServingStatus latest_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  HealthCheckResponse::ServingStatus sent_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

HealthService::HealthService(std::vector<std::string> names) : names_(std::move(names)) {}

bool HealthService::Knows(const std::string& name) const {
  return name.empty() || std::find(names_.begin(), names_.end(), name) != names_.end();
}

HealthCheckResponse::ServingStatus HealthService::StatusLocked() const {
  return serving_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

void HealthService::SetServing(bool serving) {
  // Under the lock, so that no watcher goes away meanwhile and changes arrive in order. An update starts a
  // write at most and does not come back here.
  MutexLock lock(mutex_);
  if (std::exchange(serving_, serving) == serving) return;
  for (Watcher* watcher : watchers_) watcher->Update(StatusLocked());
}

void HealthService::EndWatches() {
  MutexLock lock(mutex_);
  ended_ = true;
  for (Watcher* watcher : watchers_) watcher->End();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!Knows(request->service())) {
    reactor->Finish(
        {grpc::StatusCode::NOT_FOUND, absl::StrCat("no service \"", request->service(), "\" here")});
    return reactor;
  }
  {
    MutexLock lock(mutex_);
    response->set_status(StatusLocked());
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(grpc::CallbackServerContext* /*context*/,
                                                                    const HealthCheckRequest* request) {
  // An unknown service is watched too, as the protocol wants it: its state never changes here.
  const bool known = Knows(request->service());
  MutexLock lock(mutex_);
  auto* watcher = new Watcher(*this, known ? StatusLocked() : HealthCheckResponse::SERVICE_UNKNOWN, known);
  watchers_.insert(watcher);
  if (ended_) watcher->End();
  return watcher;
}

}  // namespace spillway::server
