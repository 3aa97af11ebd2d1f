// The ResponseWriter of one request: collects bytes from any thread, and hands them to its
// connection's io thread. Shared by the handler's threads (the ResponseWriter calls) and the
// connection (the calls below them).
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "net/response_writer.h"

namespace fathom::net {

// What the response needs of its connection; called with the response's lock held.
class ResponseOwner {
 public:
  virtual ~ResponseOwner() = default;
  // Any thread: have the io thread take() what is queued, soon.
  virtual void schedule_flush() = 0;
  // Any thread: whether this response is to be the connection's last.
  virtual bool closing() const = 0;
};

// What of the request decides the form of the response.
struct ResponseTraits {
  bool head_only = false;   // answer to HEAD
  bool http_1_1 = true;     // else: no chunks, the end of the body is the end of the connection
  bool keep_alive = false;  // what the request asked for
  size_t buffer_bytes_max = 0;
};

class Response final : public ResponseWriter {
 public:
  Response(ResponseTraits traits, std::shared_ptr<ResponseOwner> owner);

  bool send(int status, const HeaderList& headers, std::string_view body) override;
  bool start_stream(int status, const HeaderList& headers) override;
  bool write(std::string_view chunk) override;
  bool finish() override;
  void abort() override;
  void on_close(std::function<void(CloseReason)> callback) override;
  bool closed() const override;
  size_t buffered_bytes() const override { return buffered_.load(std::memory_order_relaxed); }

  // The handler has let go of its last reference: true when nothing was answered, so that 500 is
  // due. An unfinished stream is cut.
  bool abandon();

  // The rest is for the io thread.
  struct Taken {
    bool ended = false;       // all of the response is in `out` now
    bool keep_alive = false;  // its head promised to keep the connection
  };
  // Swaps what is queued into `out`, which must be empty.
  Taken take(std::string& out);
  // The connection is to be cut: the handler has given up, or the buffer's bound was passed.
  bool must_cut() const { return must_cut_.load(std::memory_order_acquire); }
  bool overflowed() const;
  // `bytes` were taken by the socket.
  void sent(size_t bytes) { buffered_.fetch_sub(bytes, std::memory_order_relaxed); }
  // The whole response was sent.
  void complete();
  // The connection is going. True when the response had not ended: then on_close has been called.
  bool close(CloseReason reason);
  // finish() or send() was called.
  bool ended() const;

 private:
  enum class Phase { kUnanswered, kStreaming, kEnded, kClosed };
  void begin(int status, const HeaderList& headers);
  void schedule();
  void demand_cut();

  const ResponseTraits traits_;
  mutable std::mutex mutex_;
  std::shared_ptr<ResponseOwner> owner_;  // until complete() or close()
  std::function<void(CloseReason)> on_close_;
  std::string pending_;
  Phase phase_ = Phase::kUnanswered;
  std::optional<CloseReason> gone_;  // why the response ended early
  bool keep_alive_ = false;
  bool scheduled_ = false;
  bool aborted_ = false;
  bool overflowed_ = false;
  bool chunked_ = false;
  bool bodiless_ = false;
  bool has_chunk_ = false;  // write() has queued something
  // What may be queued: a chunk of any size when nothing but the head is, and the bound's worth
  // behind it.
  size_t allowance_ = 0;
  std::atomic<bool> must_cut_{false};
  std::atomic<size_t> buffered_{0};  // pending_ and what the connection has taken and not yet sent
};

// Appends a status line and headers. Fields that cannot be sent safely, and those that the
// transport sets itself (Connection, Content-Length, Transfer-Encoding, Date), are left out.
void append_response_head(std::string& out, int status, const HeaderList& headers);
// Appends "Date: <now>\r\n" (RFC 9110 5.6.7).
void append_date(std::string& out, int64_t unix_s);

bool status_has_body(int status);

}  // namespace fathom::net
