// What API tests share: a byte-level tokenizer made in memory, an engine that answers from a
// script, and a sink that records.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/generation.h"
#include "api/served_model.h"

namespace fathom::api {

// Every byte is a token (id = byte), then <think> 256, </think> 257, and DeepSeek's control tokens
// from 258 on.
std::shared_ptr<const text::Tokenizer> make_byte_tokenizer();

// Answers each request with `script`, one TokensEvent a token, then FinishedEvent. Synchronous:
// events wait in the stream from the start.
class ScriptedEngine final : public Engine {
 public:
  struct Script {
    std::string text;
    FinishReason reason = FinishReason::kStop;
    Status status;
    int32_t cached_tokens = 0;
    bool endless = false;  // never finishes by itself
    // Wakes from a thread of its own under a lock that the stream's destructor takes, as the
    // engine's handle does.
    bool wakes_locked = false;
  };

  explicit ScriptedEngine(Script script) : script_(std::move(script)) {}

  Result<std::unique_ptr<TokenStream>> submit(Request request) override;
  void drain() override { state_ = EngineState::kStopped; }
  EngineHealth health() const override;
  EngineStats stats() const override { return {}; }
  EngineInfo info() const override { return {}; }

  void refuse(Status status) { refusal_ = std::move(status); }
  void set_state(EngineState state) { state_ = state; }
  std::vector<Request> requests;
  std::shared_ptr<std::atomic<int>> cancels = std::make_shared<std::atomic<int>>(0);
  const Clock* clock = nullptr;

 private:
  Script script_;
  Status refusal_;
  EngineState state_ = EngineState::kReady;
};

// Everything an ApiContext needs, with a scripted engine.
struct ApiFixture {
  explicit ApiFixture(ScriptedEngine::Script script);

  SystemClock clock;
  MetricsRegistry registry;
  Metrics metrics{registry, "test"};
  KeyedHasher hasher{KeyedHasher::random_key()};
  WorkPool pool{2};
  std::shared_ptr<ScriptedEngine> engine;
  ApiContext context;
};

// Records what a generation delivers.
class RecordingSink final : public GenerationSink {
 public:
  struct Record {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<int32_t, std::string> content;
    std::map<int32_t, std::string> reasoning;
    std::map<int32_t, std::vector<TokenId>> tokens;
    std::map<int32_t, ChoiceEnd> ends;
    std::optional<Usage> usage;
    std::optional<Status> failure;
    std::optional<Usage> gone;
    bool started = false;
  };

  explicit RecordingSink(std::shared_ptr<Record> record) : record_(std::move(record)) {}

  void on_started() override { record_->started = true; }
  void on_delta(ChoiceDelta& delta) override;
  void on_end(const ChoiceEnd& end) override { record_->ends[end.choice] = end; }
  void on_finished(const Usage& usage) override;
  void on_failed(const Status& status) override;
  void on_gone(const Usage& usage) override;

  // Waits for on_finished or on_failed.
  static bool wait(Record& record);

 private:
  std::shared_ptr<Record> record_;
};

}  // namespace fathom::api
