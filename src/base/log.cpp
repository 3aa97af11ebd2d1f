// Logger over spdlog: spdlog stamps, locks and writes the line; this file makes its body.
// A value can never end its line or forge another field: both formats escape control characters.
#include "base/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <atomic>
#include <cmath>
#include <mutex>

namespace fathom {
namespace {

constexpr const char* kTextPattern = "%Y-%m-%dT%H:%M:%S.%e%z %-5l %v";
constexpr const char* kJsonPattern = R"({"ts":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l",%v})";

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace: return spdlog::level::trace;
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarn: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
    case LogLevel::kOff: break;
  }
  return spdlog::level::off;
}

// Hands each line to the function of LogOptions.
class FunctionSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit FunctionSink(std::function<void(std::string_view)> write) : write_(std::move(write)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    write_({line.data(), line.size()});
  }
  void flush_() override {}

  std::function<void(std::string_view)> write_;
};

// What start_logging chose. Replaced whole, so a line that is being written keeps the one it began
// with.
struct Output {
  LogFormat format;
  spdlog::logger logger;
};

std::shared_ptr<Output> make_output(LogOptions options) {
  spdlog::sink_ptr sink;
  if (options.write) {
    sink = std::make_shared<FunctionSink>(std::move(options.write));
  } else {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  }
  sink->set_pattern(options.format == LogFormat::kJson ? kJsonPattern : kTextPattern);
  auto output =
      std::make_shared<Output>(Output{options.format, spdlog::logger("fathom", std::move(sink))});
  output->logger.set_level(spdlog::level::trace);
  return output;
}

std::atomic<LogLevel> g_level{LogLevel::kInfo};

std::atomic<std::shared_ptr<Output>>& output() {
  static std::atomic<std::shared_ptr<Output>> current{make_output({})};
  return current;
}

void append_escaped(std::string& out, std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.append({'\\', c});
    } else if (c == '\n') {
      out.append("\\n");
    } else if (byte < 0x20 || byte == 0x7f) {
      out.append("\\u00").append({kHex[byte >> 4], kHex[byte & 15]});
    } else {
      out.push_back(c);
    }
  }
}

void append_quoted(std::string& out, std::string_view text) {
  out.push_back('"');
  append_escaped(out, text);
  out.push_back('"');
}

bool is_plain(std::string_view text) {
  if (text.empty()) return false;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte <= 0x20 || byte == 0x7f || c == '"' || c == '\\' || c == '=') return false;
  }
  return true;
}

void append_number(std::string& out, double value, LogFormat format) {
  if (!std::isfinite(value) && format == LogFormat::kJson) {
    out.append("null");
    return;
  }
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", value);
  out.append(digits);
}

void append_value(std::string& out, const LogField::Value& value, LogFormat format) {
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    if (format == LogFormat::kText && is_plain(*text)) {
      out.append(*text);
    } else {
      append_quoted(out, *text);
    }
  } else if (const auto* i = std::get_if<int64_t>(&value)) {
    out.append(std::to_string(*i));
  } else if (const auto* u = std::get_if<uint64_t>(&value)) {
    out.append(std::to_string(*u));
  } else if (const auto* b = std::get_if<bool>(&value)) {
    out.append(*b ? "true" : "false");
  } else {
    append_number(out, std::get<double>(value), format);
  }
}

void append_json_key(std::string& out, std::string_view key) {
  out.push_back(',');
  append_quoted(out, key);
  out.push_back(':');
}

std::string json_body(std::string_view component, std::string_view request_id,
                      std::string_view message, Logger::Fields fields) {
  std::string body = "\"component\":";
  append_quoted(body, component);
  append_json_key(body, "msg");
  append_quoted(body, message);
  if (!request_id.empty()) {
    append_json_key(body, "request_id");
    append_quoted(body, request_id);
  }
  for (const LogField& field : fields) {
    append_json_key(body, field.key());
    append_value(body, field.value(), LogFormat::kJson);
  }
  return body;
}

std::string text_body(std::string_view component, std::string_view request_id,
                      std::string_view message, Logger::Fields fields) {
  std::string body(component);
  body.append(": ");
  append_escaped(body, message);
  if (!request_id.empty()) {
    body.append(" request_id=");
    append_value(body, LogField::Value(request_id), LogFormat::kText);
  }
  for (const LogField& field : fields) {
    body.append(" ").append(field.key()).append("=");
    append_value(body, field.value(), LogFormat::kText);
  }
  return body;
}

}  // namespace

void start_logging(LogOptions options) {
  set_log_level(options.level);
  output().store(make_output(std::move(options)));
}

void set_log_level(LogLevel level) { g_level.store(level, std::memory_order_relaxed); }

LogLevel log_level() { return g_level.load(std::memory_order_relaxed); }

Logger Logger::with_request(std::string_view request_id) const {
  Logger copy = *this;
  copy.request_id_ = request_id;
  return copy;
}

void Logger::write(LogLevel level, std::string_view message, Fields fields) const {
  std::shared_ptr<Output> current = output().load();
  std::string body = current->format == LogFormat::kJson
                         ? json_body(component_, request_id_, message, fields)
                         : text_body(component_, request_id_, message, fields);
  current->logger.log(to_spdlog(level), spdlog::string_view_t(body.data(), body.size()));
}

}  // namespace fathom
