// GenerationOptions of the wire to the scheduler's parameters: ranges, defaults, what is not served.
#ifndef SPILLWAY_SERVER_OPTIONS_READER_H_
#define SPILLWAY_SERVER_OPTIONS_READER_H_

#include "scheduler/request.h"
#include "server/served_model.h"
#include "server/violations.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::server {

// Fills everything of `request` but prompt, max_tokens and times; field paths begin with "options.". A seed
// that is not given is drawn at random. max_tokens and min_tokens are checked for their ranges alone: what
// the context leaves is known only with the prompt (SettleMaxTokens).
void ReadOptions(const v1::GenerationOptions& options, const ServedModel& model, scheduler::Request* request,
                 Violations* violations);

// Checks the prompt against the context and sets max_tokens: what the client asked for, which must fit, else
// the daemon's default within what the context leaves. REQUIRES: ReadOptions was called.
void SettleMaxTokens(const v1::GenerationOptions& options, const ServedModel& model,
                     scheduler::Request* request, Violations* violations);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_OPTIONS_READER_H_
