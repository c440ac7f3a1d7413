#include "scheduler/scheduler.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "scheduler/active_request.h"
#include "scheduler/inbox.h"
#include "scheduler/retry_advice.h"
#include "scheduler/step_loop.h"
#include "scheduler/step_state.h"

namespace spillway::scheduler {
namespace {

// Sleeps are cut, so that sums of times stay far from overflow.
constexpr int64_t kLongestWaitMs = 24LL * 3600 * 1000;
// Before so many pieces of prefill were measured no first token is predicted.
constexpr int64_t kLeastSamplesToPredict = 16;
// A call is refused early only when the prediction misses its deadline by so much.
constexpr double kClearMiss = 2;

absl::Status ValidateOptions(const Scheduler::Parts& parts, const SchedulerOptions& options) {
  if (options.context_tokens < 2) return absl::InvalidArgumentError("the context must have 2 tokens or more");
  if (options.max_sequences < 1) return absl::InvalidArgumentError("max_sequences must be 1 or more");
  if (options.max_queue < 1) return absl::InvalidArgumentError("max_queue must be 1 or more");
  if (options.batch_sequences < 0) return absl::InvalidArgumentError("batch_sequences must not be negative");
  if (!(options.throughput_share >= 0 && options.throughput_share < 1)) {
    return absl::InvalidArgumentError("throughput_share must be in 0..1, 1 excluded");
  }
  if (options.prefill_rows < 4) return absl::InvalidArgumentError("prefill_rows must be 4 or more");
  if (!(options.max_gap_ms > 0)) return absl::InvalidArgumentError("max_gap_ms must be more than 0");
  if (options.reserve_output_tokens < 0 || options.slow_reader_timeout_ms <= 0) {
    return absl::InvalidArgumentError(
        "reserve_output_tokens must not be negative and slow_reader_timeout_ms must be more than 0");
  }
  if (parts.blocks.Counts().total_blocks * parts.geometry.block_tokens < 2) {
    return absl::InvalidArgumentError("the host pool holds less than 2 tokens");
  }
  return absl::OkStatus();
}

ReasonMetadata LimitAndValue(int64_t limit, int64_t value) {
  return {{"limit", absl::StrCat(limit)}, {"value", absl::StrCat(value)}};
}

}  // namespace

struct Scheduler::Impl {
  Impl(const Parts& the_parts, const SchedulerOptions& the_options)
      : parts(the_parts),
        options(the_options),
        hasher(the_parts.geometry.block_tokens),
        room{the_parts.blocks, hasher, the_parts.geometry.block_tokens, the_options.prefix_cache},
        max_sequence_tokens(static_cast<int32_t>(
            std::min<int64_t>(the_options.context_tokens,
                              the_parts.blocks.Counts().total_blocks * the_parts.geometry.block_tokens))),
        inbox(std::make_shared<Inbox>(the_options.max_queue)) {}

  absl::Status CheckSize(const Request& request) const;
  absl::Status CheckDeadline(const Request& request) const;
  absl::Status Refusal(Reason reason) const;
  absl::Status Submit(Request request, std::shared_ptr<TokenStream> stream);
  void Run();

  const Parts parts;
  const SchedulerOptions options;
  kv::BlockHasher hasher;  // the step thread's
  const CacheRoom room;
  const int32_t max_sequence_tokens;
  const std::shared_ptr<Inbox> inbox;
  SharedStepState shared;
  std::unique_ptr<StepLoop> loop;
  std::atomic<uint64_t> next_number{1};
  RetryAdvice retry_advice;
  std::atomic<bool> stopping{false};
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(const Parts& parts,
                                                             const SchedulerOptions& options) {
  SPILLWAY_RETURN_IF_ERROR(ValidateOptions(parts, options));
  auto impl = std::make_unique<Impl>(parts, options);
  SPILLWAY_ASSIGN_OR_RETURN(
      impl->loop, StepLoop::Create(impl->parts, impl->room, impl->options, impl->max_sequence_tokens,
                                   *impl->inbox, impl->shared));
  return std::unique_ptr<Scheduler>(new Scheduler(std::move(impl)));
}

Scheduler::Scheduler(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Scheduler::~Scheduler() { Stop(); }

absl::Status Scheduler::Impl::CheckSize(const Request& request) const {
  const int64_t n_prompt = static_cast<int64_t>(request.prompt.size());
  if (n_prompt == 0 || request.max_tokens < 1 || request.n_choices < 1) {
    return MakeError(Reason::kInvalidField,
                     "a request needs a prompt, max_tokens and n_choices of 1 or more");
  }
  if (n_prompt >= max_sequence_tokens) {
    const int64_t limit = max_sequence_tokens - 1;
    return MakeError(
        Reason::kPromptTooLong,
        absl::StrCat("the prompt has ", n_prompt, " tokens; the longest that leaves room for one",
                     " generated token has ", limit),
        LimitAndValue(limit, n_prompt));
  }
  const int64_t n_tokens = n_prompt + request.max_tokens;
  if (n_tokens > max_sequence_tokens) {
    return MakeError(Reason::kRequestTooLarge,
                     absl::StrCat("prompt and max_tokens are ", n_tokens,
                                  " tokens; the largest that fit are ", max_sequence_tokens),
                     LimitAndValue(max_sequence_tokens, n_tokens));
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Impl::CheckDeadline(const Request& request) const {
  if (request.deadline_ns == 0) return absl::OkStatus();
  const double left_ns = static_cast<double>(request.deadline_ns - parts.clock.NowNs());
  if (left_ns <= 0) {
    return MakeError(Reason::kDeadlineUnreachable, "the deadline had passed when the request was accepted");
  }
  const StepState state = shared.Get();
  if (state.prefill_token_ns.samples() < kLeastSamplesToPredict) return absl::OkStatus();
  // What must be computed before its first token at least: nothing is counted for decoding in between.
  const int64_t tokens =
      inbox->WaitingTokensFrom(request.priority) + static_cast<int64_t>(request.prompt.size());
  const double predicted_ns =
      static_cast<double>(tokens) * (1 - state.hit_share.value()) * state.prefill_token_ns.value();
  if (predicted_ns <= kClearMiss * left_ns) return absl::OkStatus();
  const int64_t predicted_ms = static_cast<int64_t>(predicted_ns / 1e6);
  const int64_t left_ms = static_cast<int64_t>(left_ns / 1e6);
  return MakeError(Reason::kDeadlineUnreachable,
                   absl::StrCat("the first token is predicted in ", predicted_ms, " ms, the deadline is in ",
                                left_ms, " ms"),
                   LimitAndValue(left_ms, predicted_ms));
}

absl::Status Scheduler::Impl::Refusal(Reason reason) const {
  switch (reason) {
    case Reason::kQueueFull:
      return MakeError(reason, absl::StrCat(inbox->waiting().requests, " requests are waiting"),
                       LimitAndValue(options.max_queue, inbox->waiting().requests));
    case Reason::kDraining:
      return MakeError(reason, "the daemon is shutting down");
    default:
      return MakeError(reason, "the device failed");
  }
}

absl::Status Scheduler::Impl::Submit(Request request, std::shared_ptr<TokenStream> stream) {
  if (const Reason reason = inbox->WouldRefuse(); reason != Reason::kNone) return Refusal(reason);
  SPILLWAY_RETURN_IF_ERROR(CheckSize(request));
  SPILLWAY_RETURN_IF_ERROR(CheckDeadline(request));
  auto matcher = text::StopMatcher::Create(request.stop_strings);
  if (!matcher.ok()) {
    return MakeFieldError({{"stop.strings", std::string(matcher.status().message())}});
  }
  if (request.arrival_ns == 0) request.arrival_ns = parts.clock.NowNs();
  const uint64_t number = next_number.fetch_add(1, std::memory_order_relaxed);
  auto active = std::make_unique<ActiveRequest>(std::move(request), stream, number, parts.tokenizer,
                                                *std::move(matcher), room, options.model_fingerprint);
  stream->SetListener([inbox = inbox, number] { inbox->NoteMoved(number); });
  if (const Reason reason = inbox->Offer(active); reason != Reason::kNone) {
    stream->SetListener(nullptr);
    return Refusal(reason);
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Submit(Request request, std::shared_ptr<TokenStream> stream) {
  absl::Status status = impl_->Submit(std::move(request), std::move(stream));
  if (status.ok()) {
    impl_->retry_advice.OnAccepted();
  } else {
    const Reason reason = ReasonOf(status);
    if (reason == Reason::kQueueFull) impl_->retry_advice.OnRefused();
    impl_->parts.observer.OnRejected(reason);
  }
  return status;
}

int32_t Scheduler::max_sequence_tokens() const { return impl_->max_sequence_tokens; }

SchedulerSnapshot Scheduler::Snapshot() const {
  const StepState state = impl_->shared.Get();
  const Inbox::Waiting waiting = impl_->inbox->waiting();
  SchedulerSnapshot snapshot = state.snapshot;
  snapshot.running_requests = waiting.live_requests - waiting.requests;
  snapshot.waiting_requests = waiting.requests;
  snapshot.waiting_tokens = waiting.tokens;
  snapshot.returned_sequences = waiting.returned.sequences;
  snapshot.returned_tokens = waiting.returned.tokens;
  const MonotonicNs now = impl_->parts.clock.NowNs();
  snapshot.prompt_tokens_per_s = state.prompt_rate.PerSecond(now);
  snapshot.generated_tokens_per_s = state.generated_rate.PerSecond(now);
  snapshot.blocks = impl_->parts.blocks.Counts();
  snapshot.kv_block_bytes = impl_->parts.geometry.block_bytes(kv::Form::kKv);
  snapshot.x_block_bytes = impl_->parts.geometry.block_bytes(kv::Form::kX);
  if (impl_->parts.planner != nullptr) snapshot.planner = impl_->parts.planner->Snapshot();
  return snapshot;
}

int64_t Scheduler::retry_after_ms() const {
  const SchedulerSnapshot snapshot = Snapshot();
  return impl_->retry_advice.AfterMs(snapshot.waiting_tokens + snapshot.returned_tokens,
                                     snapshot.prompt_tokens_per_s + snapshot.generated_tokens_per_s);
}

bool Scheduler::RunOnce() { return impl_->loop->RunOnce(); }

void Scheduler::Start() {
  SPILLWAY_CHECK_MSG(!impl_->thread.joinable(), "the step thread runs already");
  impl_->thread = std::thread([this] { impl_->Run(); });
}

void Scheduler::Impl::Run() {
  while (!stopping.load(std::memory_order_acquire)) {
    if (loop->RunOnce() || stopping.load(std::memory_order_acquire)) continue;
    inbox->WaitForMail(std::min(loop->NsToNextTimer(), kLongestWaitMs * kNsPerMs));
  }
  loop->EndAll(Reason::kDraining);
}

int64_t Scheduler::Drain(int64_t timeout_ms) {
  impl_->inbox->Close(Reason::kDraining);
  timeout_ms = std::clamp<int64_t>(timeout_ms, 0, kLongestWaitMs);
  if (impl_->thread.joinable()) {
    if (impl_->inbox->WaitForAllEnded(timeout_ms * kNsPerMs)) return 0;
    const int64_t left = impl_->inbox->live_requests();
    impl_->inbox->EndAll();
    impl_->inbox->WaitForAllEnded(kLongestWaitMs * kNsPerMs);
    return left;
  }
  const MonotonicNs until = impl_->parts.clock.NowNs() + timeout_ms * kNsPerMs;
  while (impl_->inbox->live_requests() > 0 && impl_->parts.clock.NowNs() < until && RunOnce()) {
  }
  const int64_t left = impl_->inbox->live_requests();
  impl_->loop->EndAll(Reason::kDraining);
  return left;
}

void Scheduler::Stop() {
  impl_->inbox->Close(Reason::kDraining);
  if (!impl_->thread.joinable()) {
    impl_->loop->EndAll(Reason::kDraining);
    return;
  }
  impl_->stopping.store(true, std::memory_order_release);
  impl_->inbox->EndAll();
  impl_->thread.join();
}

}  // namespace spillway::scheduler
