// The I/O thread of one end of the engine protocol.
#include "engine/frame_channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"

namespace fathom {
namespace {

constexpr size_t kReadBytes = 2 * kFrameBytesMax;

RequestId bulk_id(const Frame& frame) {
  if (const auto* submit = std::get_if<SubmitFrame>(&frame)) return submit->request.id;
  if (const auto* piece = std::get_if<PromptPieceFrame>(&frame)) return piece->id;
  return 0;
}

Status socket_error(const char* what, int error) {
  return unavailable(std::string("engine socket: ") + what + ": " + std::strerror(error));
}

}  // namespace

Result<std::unique_ptr<FrameChannel>> FrameChannel::make(UniqueFd socket, Handlers handlers,
                                                         int64_t tick_us) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return socket_error("fcntl", errno);
  }
  FATHOM_ASSIGN(EventFd wake, EventFd::make());
  return std::unique_ptr<FrameChannel>(
      new FrameChannel(std::move(socket), std::move(handlers), tick_us, std::move(wake)));
}

void FrameChannel::start(const std::string& thread_name) {
  thread_ = start_thread(thread_name, [this](std::stop_token stop) { run(stop); });
}

FrameChannel::FrameChannel(UniqueFd socket, Handlers handlers, int64_t tick_us, EventFd wake)
    : socket_(std::move(socket)),
      handlers_(std::move(handlers)),
      tick_us_(tick_us),
      wake_(std::move(wake)),
      in_(kReadBytes) {}

FrameChannel::~FrameChannel() {
  thread_.request_stop();
  wake_.notify();
}

void FrameChannel::send(Frame frame, Lane lane) {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    lanes_[static_cast<size_t>(lane)].push_back(std::move(frame));
    unsent_.fetch_add(1, std::memory_order_relaxed);
  }
  wake_.notify();
}

void FrameChannel::send(std::vector<Frame> frames, Lane lane) {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    unsent_.fetch_add(frames.size(), std::memory_order_relaxed);
    for (Frame& frame : frames) lanes_[static_cast<size_t>(lane)].push_back(std::move(frame));
  }
  wake_.notify();
}

bool FrameChannel::retract(RequestId id) {
  std::lock_guard lock(mutex_);
  std::deque<Frame>& bulk = lanes_[static_cast<size_t>(Lane::kBulk)];
  bool whole = false;
  const size_t erased = std::erase_if(bulk, [&](const Frame& frame) {
    if (bulk_id(frame) != id) return false;
    whole = whole || std::holds_alternative<SubmitFrame>(frame);
    return true;
  });
  unsent_.fetch_sub(erased, std::memory_order_relaxed);
  return whole;
}

void FrameChannel::run(std::stop_token stop) {
  const SystemClock clock;
  int64_t next_tick_us = clock.now_us();
  Status status;
  bool open = true;
  while (open && !stop.stop_requested()) {
    const int64_t now_us = clock.now_us();
    if (now_us >= next_tick_us) {
      if (handlers_.on_tick) handlers_.on_tick();
      next_tick_us = now_us + tick_us_;
    }
    pollfd fds[2] = {{socket_.get(), POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
    if (anything_to_write()) fds[0].events |= POLLOUT;
    const int64_t timeout_us = std::max<int64_t>(next_tick_us - clock.now_us(), 0);
    (void)::poll(fds, 2, static_cast<int>((timeout_us + 999) / 1000));
    wake_.consume();
    if ((fds[0].revents & POLLOUT) != 0) status = write_some();
    if (status.is_ok() && (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      status = read_some();
    }
    open = status.is_ok();
  }
  if (!open) close(status);
}

// kCancelled stands for an orderly end of file.
Status FrameChannel::read_some() {
  const ssize_t got =
      ::recv(socket_.get(), in_.data() + in_used_, in_.size() - in_used_, MSG_DONTWAIT);
  if (got == 0) return Status(Code::kCancelled, "end of file");
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return Status::ok();
    if (errno == ECONNRESET) return Status(Code::kCancelled, "connection reset");
    return socket_error("read", errno);
  }
  in_used_ += static_cast<size_t>(got);
  size_t at = 0;
  while (true) {
    const std::span<const std::byte> rest(in_.data() + at, in_used_ - at);
    FATHOM_ASSIGN(const size_t size, frame_bytes(rest));
    if (size == 0 || size > rest.size()) break;
    FATHOM_ASSIGN(Frame frame, decode_frame(rest.first(size)));
    handlers_.on_frame(std::move(frame));
    at += size;
  }
  if (at > 0) std::memmove(in_.data(), in_.data() + at, in_used_ - at);
  in_used_ -= at;
  return Status::ok();
}

bool FrameChannel::anything_to_write() {
  if (out_at_ < out_.size()) return true;
  std::lock_guard lock(mutex_);
  return std::any_of(std::begin(lanes_), std::end(lanes_),
                     [](const auto& lane) { return !lane.empty(); });
}

// Encodes the next frame behind what is written; false when there is none.
bool FrameChannel::take_next() {
  out_.clear();
  out_at_ = 0;
  std::optional<Frame> next;
  {
    std::lock_guard lock(mutex_);
    for (auto& lane : lanes_) {
      if (lane.empty()) continue;
      next = std::move(lane.front());
      lane.pop_front();
      unsent_.fetch_sub(1, std::memory_order_relaxed);
      break;
    }
  }
  if (!next) return false;
  encode_frame(*next, out_);
  return true;
}

Status FrameChannel::write_some() {
  bool written = false;
  while (out_at_ < out_.size() || take_next()) {
    const ssize_t put = ::send(socket_.get(), out_.data() + out_at_, out_.size() - out_at_,
                               MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put < 0) {
      if (errno == EAGAIN || errno == EINTR) break;
      if (errno == EPIPE || errno == ECONNRESET) return Status::ok();  // read_some sees the end
      return socket_error("write", errno);
    }
    out_at_ += static_cast<size_t>(put);
    written = true;
  }
  if (written && handlers_.on_written) handlers_.on_written();
  return Status::ok();
}

void FrameChannel::close(const Status& status) {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    for (auto& lane : lanes_) lane.clear();
    unsent_.store(0, std::memory_order_relaxed);
  }
  ::shutdown(socket_.get(), SHUT_RDWR);
  if (handlers_.on_close) {
    handlers_.on_close(status.code() == Code::kCancelled ? Status::ok() : status);
  }
}

}  // namespace fathom
