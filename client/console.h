// Console: where a command reads and writes, and what it may assume about who reads. Injected, so that tests
// run whole commands in memory.
#ifndef SPILLWAY_CLIENT_CONSOLE_H_
#define SPILLWAY_CLIENT_CONSOLE_H_

#include <istream>
#include <ostream>
#include <string>

#include "absl/strings/string_view.h"

namespace spillway::client {

// What a command exits with; scripts rely on the numbers.
enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitInterrupted = 130,  // Ctrl-C, as shells report it
};

// The streams are borrowed. Used by one thread.
struct Console {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
};

// Text of a model or a server as a terminal may show it: control characters (C0 but newline and tab, DEL, and
// C1 in its UTF-8 form) become "\x1b", so that no text can move the cursor, rename the window or paste a
// command. Everything else passes unchanged. `text` is valid UTF-8.
std::string EscapeForTerminal(absl::string_view text);

// The same, with newlines and tabs escaped too: one line stays one line.
std::string EscapeToOneLine(absl::string_view text);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_CONSOLE_H_
