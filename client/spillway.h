// `spillway`: the command line of a Spillway daemon.
#ifndef SPILLWAY_CLIENT_SPILLWAY_H_
#define SPILLWAY_CLIENT_SPILLWAY_H_

#include <string>

#include "absl/types/span.h"
#include "client/connection.h"
#include "client/console.h"

namespace spillway::client {

// Runs one command line, without the program's name. `active` is what Ctrl-C cancels.
ExitCode RunSpillway(absl::Span<const std::string> args, Console& console, ActiveCall& active);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_SPILLWAY_H_
