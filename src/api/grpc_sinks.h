// The two forms of a generation's answer over gRPC: a stream of events, or one message.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "api/generation.h"
#include "fathom/v1/inference.pb.h"

namespace fathom::api {

// What of the call shapes the answer.
struct GrpcAnswerOptions {
  std::string request_id;
  bool return_token_ids = false;
  bool echo = false;
  int32_t choices_per_prompt = 1;
  std::vector<std::vector<TokenId>> prompts;
};

// Hears once, when a call is over and its generation has let go of it, how it ended and what it
// made. Called on gRPC's threads or the work pool's.
using OnCallEnd = std::function<void(grpc::StatusCode, const Usage&)>;

// Writes events to one client, one at a time, and ends the call once. gRPC's threads call the
// reactions; the work pool calls push and end. Owns itself until gRPC is done with it.
class EventWriter final : public grpc::ServerWriteReactor<v1::GenerationEvent> {
 public:
  static std::shared_ptr<EventWriter> make(size_t queued_events_max, OnCallEnd on_end);
  ~EventWriter() override { on_end_(code_, usage_); }

  void push(v1::GenerationEvent event);
  void end(grpc::Status status);
  // For the call's line in the log.
  void set_usage(const Usage& usage);
  // Called at most once, when the client has gone or is too slow; at once if that has happened
  // already.
  void set_on_gone(std::function<void()> on_gone);

 private:
  EventWriter(size_t queued_events_max, OnCallEnd on_end)
      : queued_events_max_(queued_events_max), on_end_(std::move(on_end)) {}
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void advance(std::unique_lock<std::mutex>& lock);
  void report_gone(std::unique_lock<std::mutex>& lock);

  const size_t queued_events_max_;
  const OnCallEnd on_end_;
  std::mutex mutex_;
  std::deque<v1::GenerationEvent> queue_;
  std::optional<grpc::Status> end_;
  std::function<void()> on_gone_;
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;  // set when gRPC is done
  Usage usage_;
  bool writing_ = false;
  bool finished_ = false;
  bool gone_ = false;
  std::shared_ptr<EventWriter> self_;
};

// Ends a unary call once.
class UnaryEnd final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<UnaryEnd> make(OnCallEnd on_end);
  ~UnaryEnd() override { on_end_(gone_ ? grpc::StatusCode::CANCELLED : code_, usage_); }

  void end(grpc::Status status);
  // Ends with OK after `fill` has written the answer; does neither when the call has ended already.
  void end_with(const std::function<void()>& fill);
  // For the call's line in the log.
  void set_usage(const Usage& usage);
  void set_on_gone(std::function<void()> on_gone);

 private:
  explicit UnaryEnd(OnCallEnd on_end) : on_end_(std::move(on_end)) {}
  void OnCancel() override;
  void OnDone() override;

  const OnCallEnd on_end_;
  std::mutex mutex_;
  std::function<void()> on_gone_;
  grpc::StatusCode code_ = grpc::StatusCode::OK;
  Usage usage_;
  bool gone_ = false;
  bool finished_ = false;
  std::shared_ptr<UnaryEnd> self_;
};

std::unique_ptr<GenerationSink> make_grpc_stream_sink(const ApiContext& context,
                                                      std::shared_ptr<EventWriter> writer,
                                                      GrpcAnswerOptions options);
// `response` lives until `done` is ended.
std::unique_ptr<GenerationSink> make_grpc_unary_sink(const ApiContext& context,
                                                     std::shared_ptr<UnaryEnd> done,
                                                     v1::GenerationResponse* response,
                                                     GrpcAnswerOptions options);

}  // namespace fathom::api
