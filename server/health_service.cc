#include "server/health_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/reason.h"
#include "server/error_status.h"
#include "server/message_bytes.h"

namespace spillway::server {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

namespace {

// Of a name that nobody has.
constexpr size_t kNameBytesShown = 256;

// Each is a call that lasts: they must not add up without bound, nor one client take them all. A client has
// one for each name that it watches; a proxy has those of many.
constexpr size_t kWatchersMax = 10'000;
constexpr int kConnectionWatchersMax = 64;

}  // namespace

// Sends the state now and every change, the latest one where several come during a write. Deletes itself.
class HealthService::Watcher final : public MessageCall {
 public:
  Watcher(HealthService& service, CallWaits& waits, grpc::CallbackServerContext& context)
      : MessageCall(waits, context, Caller()), service_(service), peer_(context.peer()) {}

  const std::string& peer() const { return peer_; }  // of its connection: address and port

  // `known`: whether the service that it watches is one of ours, which updates concern.
  void First(HealthCheckResponse::ServingStatus status, bool known) {
    known_ = known;
    Set(status);
  }

  void Update(HealthCheckResponse::ServingStatus status) {
    if (known_) Set(status);
  }

  void End() {
    Step step = Step::kNothing;
    {
      MutexLock lock(mutex_);
      cancelled_ = true;
      step = Next();
    }
    Take(step);
  }

 private:
  enum class Step { kNothing, kWrite, kFinish };

  void OnMessage(const grpc::ByteBuffer& bytes) override {
    HealthCheckRequest request;
    if (const absl::Status parsed = ParseSmallMessage(bytes, &request); !parsed.ok()) {
      return Refuse(FinishStatus(parsed, 0, context()));
    }
    if (service_.Register(*this, request.service())) return;
    // The one code upon which gRPC's clients go on without watching; after any other a server is unhealthy.
    Refuse({grpc::StatusCode::UNIMPLEMENTED,
            absl::StrCat("there are ", kConnectionWatchersMax, " watches of this connection already, or ",
                         kWatchersMax, " in all; use Check")});
  }

  void OnNoMessage(const absl::Status& why) override { Refuse(FinishStatus(why, 0, context())); }

  void Refuse(const grpc::Status& why) {
    {
      MutexLock lock(mutex_);
      if (std::exchange(finished_, true)) return;
    }
    Conclude(why);
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

  void Release() override {
    {
      MutexLock lock(service_.mutex_);
      service_.ForgetLocked(*this);
    }
    delete this;
  }

  Step Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return Step::kNothing;  // a write in flight comes back here
    if (cancelled_) {
      finished_ = true;
      return Step::kFinish;
    }
    if (latest_ == sent_) return Step::kNothing;
    sent_ = latest_;
    writing_ = true;
    HealthCheckResponse message;
    message.set_status(sent_);
    message_ = SerializeMessage(message);
    return Step::kWrite;
  }

  void Take(Step step) {
    if (step == Step::kWrite) StartWrite(&message_);
    if (step != Step::kFinish) return;
    Conclude(grpc::Status::CANCELLED);
  }

  HealthService& service_;
  const std::string peer_;
  bool known_ = false;        // set before the service knows the watcher
  grpc::ByteBuffer message_;  // belongs to the write in flight
  Mutex mutex_;
  HealthCheckResponse::ServingStatus latest_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  HealthCheckResponse::ServingStatus sent_ ABSL_GUARDED_BY(mutex_) = HealthCheckResponse::UNKNOWN;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

HealthService::HealthService(std::vector<std::string> names, CallWaits& waits)
    : MessageService(std::string(grpc::health::v1::Health::service_full_name()), waits),
      names_(std::move(names)) {
  AddAnswer("Check", [this](AnswerCall& call, const grpc::ByteBuffer& bytes) { Check(call, bytes); });
  AddMethod("Watch", [this, &waits](grpc::CallbackServerContext& context, Caller /*anybody*/) {
    auto* const watcher = new Watcher(*this, waits, context);
    watcher->Begin();
    return watcher;
  });
}

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

void HealthService::Check(AnswerCall& call, const grpc::ByteBuffer& bytes) {
  HealthCheckRequest request;
  if (const absl::Status parsed = ParseSmallMessage(bytes, &request); !parsed.ok())
    return call.Answer(parsed);
  if (!Knows(request.service())) {
    return call.Refuse(
        {grpc::StatusCode::NOT_FOUND,
         absl::StrCat("no service \"", request.service().substr(0, kNameBytesShown), "\" here")});
  }
  HealthCheckResponse response;
  {
    MutexLock lock(mutex_);
    response.set_status(StatusLocked());
  }
  call.Answer(SerializeMessage(response));
}

bool HealthService::Register(Watcher& watcher, const std::string& name) {
  // An unknown service is watched too, as the protocol wants it: its state never changes here.
  const bool known = Knows(name);
  MutexLock lock(mutex_);
  if (watchers_.size() >= kWatchersMax) return false;
  int& of_connection = watchers_by_peer_[watcher.peer()];
  if (of_connection >= kConnectionWatchersMax) return false;
  ++of_connection;
  watchers_.insert(&watcher);
  watcher.First(known ? StatusLocked() : HealthCheckResponse::SERVICE_UNKNOWN, known);
  if (ended_) watcher.End();
  return true;
}

void HealthService::ForgetLocked(Watcher& watcher) {
  if (watchers_.erase(&watcher) == 0) return;  // it was never told of
  const auto of_connection = watchers_by_peer_.find(watcher.peer());
  if (--of_connection->second == 0) watchers_by_peer_.erase(of_connection);
}

}  // namespace spillway::server
