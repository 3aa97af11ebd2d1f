// The only file that instantiates asio's asynchronous machinery; see reactor.h.
#include "net/reactor.h"

#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <utility>

namespace fathom::net {

namespace asio = boost::asio;
using boost::system::error_code;

struct Reactor::Impl {
  explicit Impl(std::function<void()> tick)
      : context(1), guard(context.get_executor()), timer(context), on_tick(std::move(tick)) {}

  asio::io_context context;
  asio::executor_work_guard<asio::io_context::executor_type> guard;
  asio::steady_timer timer;
  std::function<void()> on_tick;
};

Reactor::Reactor(std::function<void()> on_tick)
    : impl_(std::make_unique<Impl>(std::move(on_tick))) {}

Reactor::~Reactor() = default;

void Reactor::run() { impl_->context.run(); }

void Reactor::release() {
  impl_->timer.cancel();
  impl_->guard.reset();
}

void Reactor::arm_tick(uint32_t delay_ms) {
  impl_->timer.expires_after(std::chrono::milliseconds(delay_ms));
  impl_->timer.async_wait([this](const error_code& error) {
    if (!error) impl_->on_tick();
  });
}

void Reactor::post(std::function<void()> task) { asio::post(impl_->context, std::move(task)); }

struct Watch::Impl {
  explicit Impl(asio::io_context& context) : stream(context) {}
  asio::posix::stream_descriptor stream;
};

Result<Watch> Watch::adopt(Reactor& reactor, int descriptor) {
  auto impl = std::make_unique<Impl>(reactor.impl_->context);
  error_code error;
  impl->stream.assign(descriptor, error);
  if (error) {
    ::close(descriptor);
    return resource_exhausted("cannot watch a descriptor: " + error.message());
  }
  Watch watch(std::move(impl));
  watch.descriptor_ = descriptor;
  return watch;
}

Watch::Watch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Watch::Watch(Watch&& other) noexcept
    : impl_(std::move(other.impl_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

Watch& Watch::operator=(Watch&& other) noexcept {
  if (this != &other) {
    close();
    impl_ = std::move(other.impl_);
    descriptor_ = std::exchange(other.descriptor_, -1);
  }
  return *this;
}

Watch::~Watch() { close(); }

void Watch::arm_read(std::shared_ptr<ReadinessSink> sink) {
  impl_->stream.async_wait(asio::posix::stream_descriptor::wait_read,
                           [sink = std::move(sink)](const error_code& error) {
                             if (!error) sink->on_readable();
                           });
}

void Watch::arm_write(std::shared_ptr<ReadinessSink> sink) {
  impl_->stream.async_wait(asio::posix::stream_descriptor::wait_write,
                           [sink = std::move(sink)](const error_code& error) {
                             if (!error) sink->on_writable();
                           });
}

void Watch::close() {
  if (!impl_ || descriptor_ < 0) return;
  error_code ignored;
  impl_->stream.close(ignored);
  descriptor_ = -1;
}

}  // namespace fathom::net
