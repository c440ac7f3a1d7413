#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace spillway {
namespace {

// Logging is the one process-wide setting: a logger handed through every constructor would be noise.
std::atomic<LogLevel> min_log_level{LogLevel::kInfo};
std::atomic<LogFormat> log_format{LogFormat::kText};

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "error";
}

// What moves a terminal's cursor, ends a line or turns the direction of what follows: controls of one byte
// and of two (C1), line and paragraph separators, marks of direction and of no width.
bool MovesText(const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](size_t ahead) {
      return i + ahead < text.size() ? static_cast<unsigned char>(text[i + ahead]) : 0;
    };
    const int first = byte(0), second = byte(1), third = byte(2);
    if (first < 0x20 || first == 0x7f || (first == 0xc2 && second >= 0x80 && second < 0xa0)) return true;
    if (first == 0xe2 && second == 0x80 &&
        ((third >= 0x8b && third <= 0x8f) || (third >= 0xa8 && third <= 0xae)))
      return true;
    if (first == 0xe2 && second == 0x81 && third >= 0xa0 && third <= 0xaf) return true;
    if (first == 0xef && second == 0xbb && third == 0xbf) return true;
  }
  return false;
}

// A JSON string, with invalid UTF-8 replaced; of what moves text nothing but escapes is left.
std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/MovesText(text),
                                   nlohmann::json::error_handler_t::replace);
}

// Thousandths are enough for a reader; what is smaller keeps three digits.
std::string FormatReal(double value) {
  const double rounded = std::abs(value) >= 0.001 ? std::round(value * 1000) / 1000 : value;
  if (rounded != 0 && std::abs(rounded) < 0.001) return absl::StrFormat("%.3g", rounded);
  return nlohmann::json(rounded).dump();  // the shortest digits; null where JSON has no number
}

std::string FormatValue(const LogField& field, LogFormat format) {
  if (const auto* text = std::get_if<std::string>(&field.value)) {
    const bool plain = format == LogFormat::kText && !text->empty() &&
                       text->find_first_of(" \"\\=") == std::string::npos && !MovesText(*text);
    return plain ? *text : Quoted(*text);
  }
  if (const auto* integer = std::get_if<int64_t>(&field.value)) return absl::StrCat(*integer);
  if (const auto* real = std::get_if<double>(&field.value)) return FormatReal(*real);
  return std::get<bool>(field.value) ? "true" : "false";
}

}  // namespace

void SetLogging(LogLevel min_level, LogFormat format) {
  min_log_level = min_level;
  log_format = format;
}

std::string FormatLogLine(LogFormat format, LogLevel level, int64_t unix_ms, absl::string_view message,
                          std::initializer_list<LogField> fields) {
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixMillis(unix_ms), absl::UTCTimeZone());
  std::string line;
  if (format == LogFormat::kJson) {
    line = absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", LevelName(level),
                        "\",\"message\":", Quoted(std::string(message)));
    for (const LogField& field : fields) {
      absl::StrAppend(&line, ",", Quoted(std::string(field.name)), ":", FormatValue(field, format));
    }
    return line + "}";
  }
  line = absl::StrCat(time, " ", absl::StrFormat("%-7s", LevelName(level)), " ", message);
  for (const LogField& field : fields) {
    absl::StrAppend(&line, " ", field.name, "=", FormatValue(field, format));
  }
  return line;
}

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  if (level < min_log_level.load(std::memory_order_relaxed)) return;
  const int64_t unix_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count();
  const std::string line =
      FormatLogLine(log_format.load(std::memory_order_relaxed), level, unix_ms, message, fields) + "\n";
  // A log that cannot be written must not stop the daemon.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

void LogLast(absl::string_view program, absl::string_view error) {
  if (log_format.load(std::memory_order_relaxed) == LogFormat::kJson) {
    return Log(LogLevel::kError, absl::StrCat(program, " ends"), {{"error", error}});
  }
  const std::string line = absl::StrCat(program, ": ", absl::StrReplaceAll(error, {{"\n", " "}}), "\n");
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace spillway
