#include "server/generation_call.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "server/call_deadline.h"
#include "server/call_labels.h"
#include "server/error_status.h"
#include "server/message_bytes.h"

namespace spillway::server {
namespace {

// Events that may wait for a reader: one delta a choice, and some of the others.
constexpr int32_t kWaitingEvents = 64;
// A unary answer beyond this would hurt everybody; clients accept 4 MiB unless told otherwise.
constexpr size_t kUnaryBytesMax = size_t{64} << 20;
// A part of a millisecond to serialise.
constexpr size_t kInlineAnswerBytes = size_t{256} << 10;

std::string RandomRequestId() {
  static thread_local std::mt19937_64 random{std::random_device()()};
  return absl::StrFormat("%016x", random());
}

}  // namespace

GenerationCall::GenerationCall(const CallParts& parts, CallWaits& waits, grpc::CallbackServerContext& context,
                               Caller caller, std::string method, ReadRequest read)
    : MessageCall(waits, context, std::move(caller)),
      parts_(parts),
      method_(std::move(method)),
      read_(std::move(read)),
      arrival_ns_(parts.clock.NowNs()),
      deadline_ns_(DeadlineNs(context, arrival_ns_)) {}

void GenerationCall::Start() {
  self_ = shared_from_this();
  Begin();
}

void GenerationCall::OnMessage(const grpc::ByteBuffer& bytes) {
  const absl::StatusOr<const Backend*> backend = parts_.state.Accepting();
  if (!backend.ok()) {
    Refuse(backend.status());
    return;
  }
  backend_ = *backend;
  if (bytes.Length() <= kInlineRequestBytes) {
    Intake(bytes);
    return;
  }
  const absl::Status submitted = parts_.text_pool.Submit(
      static_cast<int64_t>(bytes.Length()), [call = shared_from_this(), &bytes] { call->Intake(bytes); });
  if (!submitted.ok()) Refuse(submitted);
}

void GenerationCall::Intake(const grpc::ByteBuffer& bytes) {
  // A text may have waited for the pool longer than its client did.
  if (deadline_ns_ != 0 && parts_.clock.NowNs() >= deadline_ns_) {
    Refuse(MakeError(Reason::kDeadlineExceeded, "the deadline passed before the text was read"));
    return;
  }
  Reason cancelled = Reason::kNone;
  {
    MutexLock lock(mutex_);
    cancelled = why_cancelled_;
  }
  if (cancelled != Reason::kNone) {
    Refuse(MakeError(cancelled, "the call ended before its text was read"));
    return;
  }
  absl::StatusOr<scheduler::Request> request = read_(backend_->reader, bytes);
  ForgetMessage();
  if (!request.ok()) {
    Refuse(request.status());
    return;
  }
  Label(&*request);
  std::string request_id = request->label;
  const absl::Status submitted = PayAndSubmit(*std::move(request));
  if (submitted.ok()) return;
  const Refusal refusal = MakeRefusal(submitted, std::move(request_id));
  if (refusal.reason == Reason::kTenantTokens) {
    parts_.telemetry.OnRefused(refusal);
  } else {
    parts_.telemetry.LogRefused(refusal);  // the scheduler has counted its refusal
  }
  AnswerOnly(submitted);
}

void GenerationCall::Label(scheduler::Request* request) {
  // Every request has a name in the log: its own, that of a proxy, or one that is drawn.
  if (request->label.empty()) request->label = RequestIdOf(context());
  if (request->label.empty()) request->label = RandomRequestId();
  request->method = method_;
  request->peer = context().peer();
  TraceContext trace = TraceContextOf(context());
  request->trace_id = std::move(trace.trace_id);
  request->parent_span_id = std::move(trace.parent_span_id);
  request->arrival_ns = arrival_ns_;
  request->deadline_ns = deadline_ns_;
  if (tenant() == nullptr) return;
  // Nobody finds out what another tenant asked. A name has no zero in it, so no two pairs are alike.
  request->tenant = tenant()->name();
  request->cache_salt.insert(request->cache_salt.begin(), 0);
  request->cache_salt.insert(request->cache_salt.begin(), request->tenant.begin(), request->tenant.end());
}

absl::Status GenerationCall::PayAndSubmit(scheduler::Request request) {
  if (tenant() == nullptr) return Submit(std::move(request));
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  SPILLWAY_RETURN_IF_ERROR(tenant()->Spend(prompt_tokens, parts_.clock.NowNs()));
  absl::Status submitted = Submit(std::move(request));
  if (!submitted.ok()) tenant()->GiveBack(prompt_tokens);
  return submitted;
}

absl::Status GenerationCall::Submit(scheduler::Request request) {
  std::weak_ptr<GenerationCall> weak = weak_from_this();
  auto stream = std::make_shared<scheduler::TokenStream>(
      kWaitingEvents, [weak = std::move(weak), &delivery = parts_.delivery] {
        if (std::shared_ptr<GenerationCall> call = weak.lock()) delivery.Notify(std::move(call));
      });
  {
    MutexLock lock(mutex_);
    if (why_cancelled_ != Reason::kNone) {
      parts_.telemetry.OnRejected(why_cancelled_);
      return MakeError(why_cancelled_, "the call ended before it was queued");
    }
    stream_ = stream;
    event_writer_.emplace(*backend_->model.tokenizer, backend_->model.name(), request.label,
                          request.sampling.seed);
  }
  return backend_->scheduler.Submit(std::move(request), std::move(stream));
}

void GenerationCall::Refuse(const absl::Status& status) {
  parts_.telemetry.OnRefused(MakeRefusal(status));
  AnswerOnly(status);
}

Refusal GenerationCall::MakeRefusal(const absl::Status& status, std::string request_id) {
  Refusal refusal = RefusalOf(status, method_, context(), tenant_name());
  if (!request_id.empty()) refusal.request_id = std::move(request_id);
  return refusal;
}

void GenerationCall::AnswerOnly(const absl::Status& status) {
  ForgetMessage();
  {
    MutexLock lock(mutex_);
    answered_ = true;
  }
  Conclude(WireStatus(status));
}

grpc::Status GenerationCall::WireStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const int64_t queue_ms = backend_ == nullptr ? 0 : backend_->scheduler.retry_after_ms();
  return FinishStatus(status, queue_ms, context());
}

void GenerationCall::OnCancel() {
  const Reason why = WhyGone();
  std::shared_ptr<scheduler::TokenStream> stream;
  {
    MutexLock lock(mutex_);
    why_cancelled_ = why;
    stream = stream_;
  }
  if (stream != nullptr) stream->Cancel(why);
}

Reason GenerationCall::WhyGone() const { return WhyReset(arrival_ns_, deadline_ns_, parts_.clock.NowNs()); }

void GenerationCall::Release() { const std::shared_ptr<GenerationCall> last = std::move(self_); }

// --- StreamCall

StreamCall::Step StreamCall::Next() {
  while (next_event_ == events_.size()) {
    events_.clear();
    next_event_ = 0;
    if (ended_) return Step::kAnswer;
    ended_ = stream_->Take(&events_, &status_);
    if (broken_) events_.clear();
    if (events_.empty() && !ended_) return Step::kNothing;
  }
  event_writer_->Write(events_[next_event_++], &wire_);
  message_ = SerializeMessage(wire_);
  const bool more = next_event_ < events_.size();
  if (ended_ && !more) return Step::kWriteAndAnswer;
  options_ = grpc::WriteOptions();
  // One system call for what waits together. Not with the first message: gRPC would hold back the headers
  // with it and wait for somebody else's write.
  if (more && headers_sent_) options_.set_buffer_hint();
  headers_sent_ = true;
  return Step::kWrite;
}

void StreamCall::Pump() {
  Step step = Step::kNothing;
  absl::Status status;
  bool last = false;
  {
    MutexLock lock(mutex_);
    if (answered_) return;
    // What comes meanwhile is seen when the write is done.
    last = writing_ && stream_->ended();
    if (!writing_) {
      step = Next();
      writing_ = step == Step::kWrite;
      answered_ = step == Step::kWriteAndAnswer || step == Step::kAnswer;
      if (answered_) status = std::move(status_);
    }
    last = last || ended_;
  }
  if (last) AwaitReader();
  // Only one thread gets here at a time: the one that set writing_ or answered_.
  switch (step) {
    case Step::kNothing:
      break;
    case Step::kWrite:
      StartWrite(&message_, options_);
      break;
    case Step::kWriteAndAnswer:
      ConcludeWith(message_, WireStatus(status));
      break;
    case Step::kAnswer:
      Conclude(WireStatus(status));
      break;
  }
}

void StreamCall::OnWriteDone(bool ok) {
  std::shared_ptr<scheduler::TokenStream> broken;
  {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok && !broken_) {
      broken_ = true;
      next_event_ = events_.size();
      broken = stream_;
    }
  }
  if (broken != nullptr) broken->Cancel(WhyGone());
  Pump();
}

// --- UnaryCall

void UnaryCall::Pump() {
  absl::Status status;
  size_t bytes = 0;
  {
    MutexLock lock(mutex_);
    if (answered_) return;
    events_.clear();
    answered_ = stream_->Take(&events_, &status);
    for (scheduler::Event& event : events_) {
      event_writer_->Write(event, &wire_);
      gathered_bytes_ += wire_.ByteSizeLong();
      if (gathered_bytes_ <= kUnaryBytesMax) gatherer_->Fold(wire_);
    }
    if (gathered_bytes_ > kUnaryBytesMax) {
      stream_->Cancel(Reason::kRequestTooLarge);
      status = MakeError(Reason::kRequestTooLarge,
                         "the answer is too large for a unary call; use the streamed one, or ask for less",
                         {{"limit", absl::StrCat(kUnaryBytesMax)}});
    }
    if (!answered_) return;
    bytes = gathered_bytes_;
  }
  if (!status.ok()) return Conclude(WireStatus(status));
  // The delivery thread has other streams to serve. Where the pool is full they wait all the same.
  const auto send_elsewhere = [&] {
    return text_pool().Submit(/*bytes=*/0, [self = shared_from_this(), this] { SendWhole(); });
  };
  if (bytes <= kInlineAnswerBytes || !send_elsewhere().ok()) SendWhole();
}

void UnaryCall::SendWhole() {
  response_ = gatherer_->Serialize();
  if (const absl::Status kept = KeepUnread(response_.Length()); !kept.ok()) {
    response_.Clear();
    return Conclude(WireStatus(kept));
  }
  ConcludeWith(response_, grpc::Status::OK);
}

}  // namespace spillway::server
