// What the process asks of the kernel before it serves.
#ifndef SPILLWAY_SERVER_PROCESS_SETUP_H_
#define SPILLWAY_SERVER_PROCESS_SETUP_H_

#include <cstdint>

namespace spillway::server {

// Raises the soft limit of open files to the hard one: every connection is one.
void RaiseOpenFileLimit();
// The soft limit.
int64_t MaxOpenFiles();

// A file that shrinks while it is mapped ends the process at the next read of it. This makes it end with a
// line that says so, and exit code 1.
void ExplainBusErrors();

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_PROCESS_SETUP_H_
