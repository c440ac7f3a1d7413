#include "scheduler/sequence.h"

#include <utility>

#include "scheduler/active_request.h"

namespace spillway::scheduler {

Sequence::Sequence(ActiveRequest& owner, int32_t choice, const text::Tokenizer& tokenizer,
                   text::StopMatcher matcher, const CacheRoom& room)
    : request(owner),
      index(choice),
      cache(room, owner.root_hash(), owner.prompt_hashes()),
      output(tokenizer, owner.stop_rules(), std::move(matcher)) {}

bool Sequence::RunsBefore(const Sequence& other) const {
  const int32_t priority = request.request().priority;
  const int32_t other_priority = other.request.request().priority;
  if (priority != other_priority) return priority > other_priority;
  if (request.number() != other.request.number()) return request.number() < other.request.number();
  return index < other.index;
}

int32_t Sequence::n_generated() const { return tokens.empty() ? 0 : n_tokens() - request.n_prompt(); }

}  // namespace spillway::scheduler
