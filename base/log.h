// Structured logging to stderr: one line an event, text or JSON.
//
//   Log(LogLevel::kInfo, "model loaded", {{"path", path}, {"seconds", 1.25}});
//
// Prompts and completions are never logged. Thread-safe; a line is written by one write call.
#ifndef SPILLWAY_BASE_LOG_H_
#define SPILLWAY_BASE_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"

namespace spillway {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

struct LogField {
  LogField(absl::string_view n, absl::string_view v) : name(n), value(std::string(v)) {}
  LogField(absl::string_view n, const std::string& v) : name(n), value(v) {}
  LogField(absl::string_view n, const char* v) : name(n), value(std::string(v)) {}
  LogField(absl::string_view n, int64_t v) : name(n), value(v) {}
  LogField(absl::string_view n, int v) : name(n), value(int64_t{v}) {}
  LogField(absl::string_view n, double v) : name(n), value(v) {}
  LogField(absl::string_view n, bool v) : name(n), value(v) {}

  absl::string_view name;
  std::variant<std::string, int64_t, double, bool> value;
};

// Process-wide; call once, before threads start.
void SetLogging(LogLevel min_level, LogFormat format);

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

// The last line of a process that ends because of `error`: as a command says it where the log is text
// ("spillwayd: ..."), a record like the others where it is JSON. One line, whatever is in the text.
void LogLast(absl::string_view program, absl::string_view error);

// The line Log would write, without the newline. For tests.
std::string FormatLogLine(LogFormat format, LogLevel level, int64_t unix_ms, absl::string_view message,
                          std::initializer_list<LogField> fields);

}  // namespace spillway

#endif  // SPILLWAY_BASE_LOG_H_
