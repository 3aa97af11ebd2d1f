// The child's side of the engine protocol. Three threads: main, I/O, engine.
#include "engine/engine_process.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "base/clock.h"
#include "base/log.h"
#include "base/queue.h"
#include "engine/engine_loop.h"
#include "engine/frame_channel.h"
#include "engine/plan_note.h"
#include "engine/prompt_assembler.h"
#include "engine/request_check.h"

namespace fathom {
namespace {

constexpr int64_t kHeartbeatUs = 100'000;
// The engine stops planning while more frames than this are unsent.
constexpr size_t kUnsentFramesMax = 64;
constexpr int kExitFailed = 1;

void sleep_us(int64_t us) { std::this_thread::sleep_for(std::chrono::microseconds(us)); }

// The engine's end of the socket. Frames arrive on the channel's I/O thread, events on the engine
// thread; the main thread loads and then waits.
class EngineServer final : private EventSink {
 public:
  static Result<std::unique_ptr<EngineServer>> start(UniqueFd socket) {
    std::unique_ptr<EngineServer> server(new EngineServer());
    EngineServer* self = server.get();
    FrameChannel::Handlers handlers;
    handlers.on_frame = [self](Frame frame) { self->receive(std::move(frame)); };
    handlers.on_close = [self](const Status& status) { self->lose(status); };
    handlers.on_tick = [self] { self->send_heartbeat(); };
    handlers.on_written = [self] { self->relieve(); };
    FATHOM_ASSIGN(self->channel_,
                  FrameChannel::make(std::move(socket), std::move(handlers), kHeartbeatUs));
    self->channel_->start("engine-io");
    return server;
  }

  // The first frame; none when the front end went away before it.
  std::optional<OptionsFrame> wait_for_options() { return options_.pop(); }

  Status serve(const EngineOptions& options, const EngineLoader& loader);
  // Tells the front end why, and gives the I/O thread a moment to say it.
  void give_up(const Status& status);

 private:
  EngineServer() : options_(1) {}

  void receive(Frame frame);
  void take_request(Result<std::optional<Request>> request, RequestId id);
  void lose(const Status& status);
  void send_heartbeat();
  void relieve();
  void emit(std::vector<RequestEvent> events) override;
  bool congested() const override;

  BoundedQueue<OptionsFrame> options_;
  std::unique_ptr<FrameChannel> channel_;
  std::atomic<double> load_progress_{0.0};
  mutable std::atomic<bool> held_back_{false};  // the loop was told to plan nothing
  std::atomic<EngineLoop*> serving_{nullptr};   // loop_ once it runs
  EngineInfo info_;                             // written before serving_
  // I/O thread.
  bool got_options_ = false;
  std::optional<PromptAssembler> assembler_;
  uint64_t ping_number_ = 0;

  std::unique_ptr<EngineLoop> loop_;
};

Status EngineServer::serve(const EngineOptions& options, const EngineLoader& loader) {
  const Logger log("engine");
  auto on_progress = [this](double progress) { load_progress_.store(progress); };
  FATHOM_ASSIGN(LoadedEngine loaded, loader(options, on_progress));
  FATHOM_ASSIGN(loop_, EngineLoop::start(note_plans(std::move(loaded.executor)),
                                         {loaded.scheduler, loaded.layout}, *this));
  info_ = std::move(loaded.info);
  info_.max_model_len = loop_->max_model_len();
  serving_.store(loop_.get());  // before the frame that invites requests
  channel_->send(ReadyFrame{info_});
  log.info("ready", {{"architecture", info_.model.architecture},
                     {"max_model_len", info_.max_model_len},
                     {"blocks", info_.blocks_total}});
  while (loop_->health().state != EngineState::kFailed) sleep_us(kHeartbeatUs);
  return loop_->health().status;
}

void EngineServer::give_up(const Status& status) {
  Logger("engine").error("the engine ends", {{"status", status.to_string()}});
  channel_->send(FailedFrame{status}, FrameChannel::Lane::kOrdered);
  for (int i = 0; i < 20 && channel_->unsent() > 0; ++i) sleep_us(50'000);
  sleep_us(50'000);
}

void EngineServer::receive(Frame frame) {
  if (auto* options = std::get_if<OptionsFrame>(&frame)) {
    if (std::exchange(got_options_, true)) return lose(data_loss("two configuration frames"));
    assembler_.emplace(static_cast<size_t>(options->options.queued_requests_max),
                       options->options.queued_tokens_max);
    (void)options_.try_push(std::move(*options));
    return;
  }
  if (auto* ping = std::get_if<PingFrame>(&frame)) {
    ping_number_ = ping->number;
    return send_heartbeat();
  }
  EngineLoop* loop = serving_.load();
  if (loop == nullptr) return lose(data_loss("a frame came before the engine was ready"));
  if (auto* submit = std::get_if<SubmitFrame>(&frame)) {
    const RequestId id = submit->request.id;
    take_request(assembler_->begin(std::move(*submit)), id);
  } else if (auto* piece = std::get_if<PromptPieceFrame>(&frame)) {
    const RequestId id = piece->id;
    take_request(assembler_->add(std::move(*piece)), id);
  } else if (auto* cancel = std::get_if<CancelFrame>(&frame)) {
    for (RequestId id : cancel->ids) {
      if (assembler_->cancel(id)) {
        emit(only_finished(id, FinishReason::kCancelled, Status::ok()));
      } else {
        loop->cancel(id);
      }
    }
  } else if (std::holds_alternative<DrainFrame>(frame)) {
    loop->drain();
  } else {
    lose(data_loss("the front end sent a frame that only engines send"));
  }
}

void EngineServer::take_request(Result<std::optional<Request>> request, RequestId id) {
  Status status = request.status();
  if (status.is_ok()) {
    if (!request->has_value()) return;
    status = check_request(**request, info_);
    if (status.is_ok()) status = serving_.load()->submit(std::move(**request));
  }
  if (status.code() == Code::kDataLoss) return lose(status);
  if (!status.is_ok()) emit(only_finished(id, FinishReason::kError, status));
}

// The front end is gone, or speaks nonsense: nobody is left to serve. Threads may be busy for long;
// the memory goes back at once this way.
void EngineServer::lose(const Status& status) {
  if (status.is_ok()) std::_Exit(0);
  Logger("engine").error("the front end is lost", {{"status", status.to_string()}});
  std::_Exit(kExitFailed);
}

void EngineServer::send_heartbeat() {
  HeartbeatFrame frame;
  frame.ping_number = ping_number_;
  if (EngineLoop* loop = serving_.load()) {
    frame.health = loop->health();
    frame.stats = loop->stats();
    if (frame.health.state == EngineState::kFailed) return;  // FailedFrame says it
    frame.health.status = Status::ok();
  } else {
    frame.health.state = EngineState::kLoading;
    frame.health.load_progress = load_progress_.load();
    frame.health.last_progress_us = SystemClock().now_us();
  }
  if (channel_->unsent() > kUnsentFramesMax) return;
  channel_->send(std::move(frame), FrameChannel::Lane::kUrgent);
}

bool EngineServer::congested() const {
  if (channel_->unsent() <= kUnsentFramesMax) return false;
  held_back_.store(true);
  return true;
}

void EngineServer::relieve() {
  if (channel_->unsent() > kUnsentFramesMax || !held_back_.exchange(false)) return;
  if (EngineLoop* loop = serving_.load()) loop->wake();
}

void EngineServer::emit(std::vector<RequestEvent> events) {
  channel_->send(split_events(std::move(events)));
}

void configure_process() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // A terminal's Ctrl-C and a service manager's SIGTERM reach the whole group: the front end drains
  // and then closes the socket, which ends this process.
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(signal, SIG_IGN);
}

}  // namespace

int serve_engine(int fd, const EngineLoader& loader) {
  configure_process();
  Result<std::unique_ptr<EngineServer>> server = EngineServer::start(UniqueFd(fd));
  if (!server.is_ok()) return kExitFailed;
  const std::optional<OptionsFrame> first = (*server)->wait_for_options();
  if (!first || ::getppid() != first->parent_pid) std::_Exit(kExitFailed);
  start_logging({.level = static_cast<LogLevel>(first->options.log_level),
                 .format = first->options.log_json ? LogFormat::kJson : LogFormat::kText,
                 .write = {}});
  (*server)->give_up((*server)->serve(first->options, loader));
  std::_Exit(kExitFailed);
}

}  // namespace fathom
