// See response.h.
#include "net/response.h"

#include <array>
#include <charconv>
#include <ctime>
#include <utility>

#include "net/request_checks.h"

namespace fathom::net {

namespace {

template <typename T>
void append_number(std::string& out, T number, int base = 10) {
  std::array<char, 24> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), number, base);
  out.append(text.data(), end.ptr);
}

void append_two_digits(std::string& out, int number) {
  out.push_back(static_cast<char>('0' + number / 10));
  out.push_back(static_cast<char>('0' + number % 10));
}

bool set_by_transport(std::string_view name) {
  for (const std::string_view own :
       {std::string_view("connection"), std::string_view("content-length"),
        std::string_view("transfer-encoding"), std::string_view("date"),
        std::string_view("keep-alive")}) {
    if (equals_ignoring_case(name, own)) return true;
  }
  return false;
}

}  // namespace

std::string_view close_reason_name(CloseReason reason) {
  switch (reason) {
    case CloseReason::kClientGone: return "client_gone";
    case CloseReason::kSlowClient: return "slow_client";
    case CloseReason::kServerStopped: return "server_stopped";
  }
  return "unknown";
}

bool status_has_body(int status) { return status >= 200 && status != 204 && status != 304; }

void append_date(std::string& out, int64_t unix_s) {
  static constexpr std::array<std::string_view, 7> kDays = {"Sun", "Mon", "Tue", "Wed",
                                                            "Thu", "Fri", "Sat"};
  static constexpr std::array<std::string_view, 12> kMonths = {
      "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t seconds = unix_s;
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  out.append("Date: ").append(kDays[static_cast<size_t>(utc.tm_wday)]).append(", ");
  append_two_digits(out, utc.tm_mday);
  out.append(" ").append(kMonths[static_cast<size_t>(utc.tm_mon)]).append(" ");
  append_number(out, utc.tm_year + 1900);
  out.append(" ");
  append_two_digits(out, utc.tm_hour);
  out.append(":");
  append_two_digits(out, utc.tm_min);
  out.append(":");
  append_two_digits(out, utc.tm_sec);
  out.append(" GMT\r\n");
}

void append_response_head(std::string& out, int status, const HeaderList& headers) {
  out.append("HTTP/1.1 ");
  append_number(out, status);
  out.append(" ").append(reason_phrase(status)).append("\r\n");
  append_date(out, static_cast<int64_t>(std::time(nullptr)));
  for (const auto& [name, value] : headers) {
    if (!is_token(name) || !is_safe_field_value(value) || set_by_transport(name)) continue;
    out.append(name).append(": ").append(value).append("\r\n");
  }
}

Response::Response(ResponseTraits traits, std::shared_ptr<ResponseOwner> owner)
    : traits_(traits), owner_(std::move(owner)) {}

// Status line, the caller's fields and Connection.
void Response::begin(int status, const HeaderList& headers) {
  bodiless_ = traits_.head_only || !status_has_body(status);
  append_response_head(pending_, status, headers);
  keep_alive_ = traits_.keep_alive && !owner_->closing() && (traits_.http_1_1 || !chunked_);
  if (!keep_alive_) {
    pending_.append("Connection: close\r\n");
  } else if (!traits_.http_1_1) {
    pending_.append("Connection: keep-alive\r\n");
  }
}

void Response::schedule() {
  if (scheduled_) return;
  scheduled_ = true;
  owner_->schedule_flush();
}

// A cut does not wait behind a socket that is full.
void Response::demand_cut() {
  must_cut_.store(true, std::memory_order_release);
  owner_->schedule_flush();
}

bool Response::overflowed() const {
  std::lock_guard lock(mutex_);
  return overflowed_;
}

bool Response::send(int status, const HeaderList& headers, std::string_view body) {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kUnanswered || aborted_) return false;
  begin(status, headers);
  if (status_has_body(status)) {
    pending_.append("Content-Length: ");
    append_number(pending_, body.size());
    pending_.append("\r\n");
  }
  pending_.append("\r\n");
  if (!bodiless_) pending_.append(body);
  buffered_.fetch_add(pending_.size(), std::memory_order_relaxed);
  phase_ = Phase::kEnded;
  schedule();
  return true;
}

bool Response::start_stream(int status, const HeaderList& headers) {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kUnanswered || aborted_) return false;
  chunked_ = status_has_body(status);
  begin(status, headers);
  if (chunked_ && traits_.http_1_1) pending_.append("Transfer-Encoding: chunked\r\n");
  pending_.append("\r\n");
  chunked_ = chunked_ && traits_.http_1_1;
  buffered_.fetch_add(pending_.size(), std::memory_order_relaxed);
  phase_ = Phase::kStreaming;
  schedule();
  return true;
}

bool Response::write(std::string_view chunk) {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kStreaming || aborted_ || overflowed_) return false;
  if (chunk.empty() || bodiless_) return true;
  const size_t queued = buffered_.load(std::memory_order_relaxed);
  if (queued == 0 || !has_chunk_) {
    allowance_ = queued + chunk.size() + traits_.buffer_bytes_max;
    has_chunk_ = true;
  } else if (queued + chunk.size() > allowance_) {
    overflowed_ = true;
    demand_cut();
    return false;
  }
  const size_t before = pending_.size();
  if (chunked_) {
    append_number(pending_, chunk.size(), 16);
    pending_.append("\r\n").append(chunk).append("\r\n");
  } else {
    pending_.append(chunk);
  }
  buffered_.fetch_add(pending_.size() - before, std::memory_order_relaxed);
  schedule();
  return true;
}

bool Response::finish() {
  std::lock_guard lock(mutex_);
  if (phase_ != Phase::kStreaming || aborted_ || overflowed_) return false;
  if (chunked_ && !bodiless_) {
    static constexpr std::string_view kLastChunk = "0\r\n\r\n";
    pending_.append(kLastChunk);
    buffered_.fetch_add(kLastChunk.size(), std::memory_order_relaxed);
  }
  phase_ = Phase::kEnded;
  schedule();
  return true;
}

void Response::abort() {
  std::function<void(CloseReason)> released;
  std::lock_guard lock(mutex_);
  if (phase_ == Phase::kEnded || phase_ == Phase::kClosed || aborted_) return;
  aborted_ = true;
  released = std::exchange(on_close_, nullptr);
  demand_cut();
}

void Response::on_close(std::function<void(CloseReason)> callback) {
  std::optional<CloseReason> gone;
  std::function<void(CloseReason)> released;
  {
    std::lock_guard lock(mutex_);
    gone = gone_;
    const bool open = phase_ == Phase::kUnanswered || phase_ == Phase::kStreaming;
    if (!gone && open && !aborted_) {
      released = std::exchange(on_close_, std::move(callback));
      return;
    }
  }
  if (gone && callback) callback(*gone);
}

bool Response::closed() const {
  std::lock_guard lock(mutex_);
  return gone_.has_value() || aborted_ || overflowed_;
}

bool Response::abandon() {
  std::lock_guard lock(mutex_);
  if (phase_ == Phase::kUnanswered && !aborted_) return true;
  if (phase_ == Phase::kStreaming && !aborted_) {
    aborted_ = true;
    demand_cut();
  }
  return false;
}

Response::Taken Response::take(std::string& out) {
  std::lock_guard lock(mutex_);
  scheduled_ = false;
  pending_.swap(out);
  return {phase_ == Phase::kEnded, keep_alive_};
}

void Response::complete() {
  std::function<void(CloseReason)> released;
  std::shared_ptr<ResponseOwner> owner;
  std::lock_guard lock(mutex_);
  phase_ = Phase::kClosed;
  released = std::exchange(on_close_, nullptr);
  owner = std::move(owner_);
}

bool Response::close(CloseReason reason) {
  std::function<void(CloseReason)> callback;
  std::shared_ptr<ResponseOwner> owner;
  bool early = false;
  {
    std::lock_guard lock(mutex_);
    early = phase_ == Phase::kUnanswered || phase_ == Phase::kStreaming;
    if (early && !aborted_) {
      gone_ = reason;
      callback = std::exchange(on_close_, nullptr);
    }
    phase_ = Phase::kClosed;
    owner = std::move(owner_);
  }
  if (callback) callback(reason);
  return early;
}

bool Response::ended() const {
  std::lock_guard lock(mutex_);
  return phase_ == Phase::kEnded;
}

}  // namespace fathom::net
