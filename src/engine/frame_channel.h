// FrameChannel: one end of the engine protocol. Its I/O thread encodes, writes, reads and decodes;
// no other thread touches the socket. The front end and the engine process each own one.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/thread.h"
#include "engine/protocol.h"

namespace fathom {

class FrameChannel {
 public:
  // All are called on the I/O thread and must not block.
  struct Handlers {
    std::function<void(Frame)> on_frame;
    // Once: ok when the other side closed, or what was wrong with it. No call follows.
    std::function<void(const Status&)> on_close;
    // About every tick_us.
    std::function<void()> on_tick;
    // Frames were written.
    std::function<void()> on_written;
  };
  // What a frame may overtake: urgent frames (health) all others, ordered ones the bulk.
  enum class Lane : uint8_t { kUrgent, kOrdered, kBulk };

  static Result<std::unique_ptr<FrameChannel>> make(UniqueFd socket, Handlers handlers,
                                                    int64_t tick_us);
  // Starts the I/O thread; handlers may run from here on. Once.
  void start(const std::string& thread_name);
  // Ends the I/O thread and closes the socket; nothing unsent is sent. Not on the I/O thread.
  ~FrameChannel();
  FrameChannel(const FrameChannel&) = delete;
  FrameChannel& operator=(const FrameChannel&) = delete;

  // Any thread; never blocks. Dropped when the channel has closed.
  void send(Frame frame, Lane lane = Lane::kOrdered);
  void send(std::vector<Frame> frames, Lane lane = Lane::kOrdered);
  // Takes back what is unsent of a request in the bulk lane. True: its SubmitFrame was among it, so
  // the engine never hears of the request.
  bool retract(RequestId id);
  // Frames that no write has begun with.
  size_t unsent() const { return unsent_.load(std::memory_order_relaxed); }

 private:
  FrameChannel(UniqueFd socket, Handlers handlers, int64_t tick_us, EventFd wake);
  void run(std::stop_token stop);
  Status read_some();
  Status write_some();
  bool take_next();
  bool anything_to_write();
  void close(const Status& status);

  const UniqueFd socket_;
  const Handlers handlers_;
  const int64_t tick_us_;
  const EventFd wake_;

  std::mutex mutex_;
  std::deque<Frame> lanes_[3];
  bool closed_ = false;
  std::atomic<size_t> unsent_{0};

  // I/O thread.
  std::string out_;
  size_t out_at_ = 0;
  std::vector<std::byte> in_;
  size_t in_used_ = 0;
  std::jthread thread_;
};

}  // namespace fathom
