// The process's log: text or JSON lines on stderr, one call a line, with key/value fields and a
// request id. Any thread may log; a line is written whole. Text of users (prompts, answers) is
// never given to it.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

namespace fathom {

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError, kOff };
enum class LogFormat { kText, kJson };

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  // Takes each finished line (with its newline) in place of stderr; called under the sink's lock.
  std::function<void(std::string_view line)> write;
};

// Chooses level, format and destination for the whole process; before it, text at info level on
// stderr. The log is the one process-wide object of Fathom: stderr is.
void start_logging(LogOptions options);

void set_log_level(LogLevel level);
LogLevel log_level();

// One key and its value. Views only: it lives for the call that logs it.
class LogField {
 public:
  using Value = std::variant<std::string_view, int64_t, uint64_t, double, bool>;

  template <typename T>
  LogField(std::string_view key, const T& value) : key_(key), value_(convert(value)) {}

  std::string_view key() const { return key_; }
  const Value& value() const { return value_; }

 private:
  template <typename T>
  static Value convert(const T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      return value;
    } else if constexpr (std::is_floating_point_v<T>) {
      return static_cast<double>(value);
    } else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
      return static_cast<int64_t>(value);
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<uint64_t>(value);
    } else {
      return std::string_view(value);
    }
  }

  std::string_view key_;
  Value value_;
};

// A name for the lines of one part of the program ("net", "sched"), and optionally the request they
// are about. Cheap to copy; a call below the process's level costs one atomic load.
class Logger {
 public:
  using Fields = std::initializer_list<LogField>;

  explicit Logger(std::string_view component) : component_(component) {}

  // The same logger, whose lines carry `request_id`.
  Logger with_request(std::string_view request_id) const;

  bool enabled(LogLevel level) const { return level >= log_level(); }

  void trace(std::string_view message, Fields fields = {}) const {
    log(LogLevel::kTrace, message, fields);
  }
  void debug(std::string_view message, Fields fields = {}) const {
    log(LogLevel::kDebug, message, fields);
  }
  void info(std::string_view message, Fields fields = {}) const {
    log(LogLevel::kInfo, message, fields);
  }
  void warn(std::string_view message, Fields fields = {}) const {
    log(LogLevel::kWarn, message, fields);
  }
  void error(std::string_view message, Fields fields = {}) const {
    log(LogLevel::kError, message, fields);
  }

  void log(LogLevel level, std::string_view message, Fields fields = {}) const {
    if (enabled(level)) write(level, message, fields);
  }

 private:
  void write(LogLevel level, std::string_view message, Fields fields) const;

  std::string component_;
  std::string request_id_;
};

}  // namespace fathom
