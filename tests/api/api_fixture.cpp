#include "tests/api/api_fixture.h"

#include <chrono>
#include <thread>

#include "base/json.h"

namespace fathom::api {
namespace {

// GPT-2's map of bytes to printable characters, which tokenizer.json spells byte tokens with.
std::string byte_symbol(int byte) {
  const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  int code = byte;
  if (!plain) {
    int shifted = 0;
    for (int b = 0; b < byte; ++b)
      shifted += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    code = 256 + shifted;
  }
  std::string out;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
  return out;
}

class ScriptedStream : public TokenStream {
 public:
  ScriptedStream(RequestId id, std::deque<StreamEvent> events,
                 std::shared_ptr<std::atomic<int>> cancels)
      : id_(id), events_(std::move(events)), cancels_(std::move(cancels)) {}

  RequestId id() const override { return id_; }
  std::optional<StreamEvent> poll() override {
    if (events_.empty()) return std::nullopt;
    StreamEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  void set_waker(std::function<void()> wake) override {
    wake_ = std::move(wake);
    wake_();
  }
  void cancel() override { cancels_->fetch_add(1); }

 protected:
  std::function<void()> wake_;

 private:
  RequestId id_;
  std::deque<StreamEvent> events_;
  std::shared_ptr<std::atomic<int>> cancels_;
};

class LockedStream final : public ScriptedStream {
 public:
  using ScriptedStream::ScriptedStream;
  ~LockedStream() override {
    {
      std::lock_guard lock(state_->mutex);
      state_->wake = nullptr;
    }
  }
  void set_waker(std::function<void()> wake) override {
    state_->wake = std::move(wake);
    waker_ = std::jthread([state = state_](std::stop_token stop) {
      while (!stop.stop_requested()) {
        std::lock_guard lock(state->mutex);
        if (!state->wake) return;
        state->wake();
      }
    });
    waker_.detach();
  }

 private:
  struct State {
    std::mutex mutex;
    std::function<void()> wake;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
  std::jthread waker_;
};

}  // namespace

std::shared_ptr<const text::Tokenizer> make_byte_tokenizer() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[byte_symbol(byte)] = byte;
  Json added = Json::array();
  const std::vector<std::pair<std::string, bool>> control = {{"<think>", false},
                                                             {"</think>", false},
                                                             {"<｜begin▁of▁sentence｜>", true},
                                                             {"<｜end▁of▁sentence｜>", true},
                                                             {"<｜User｜>", false},
                                                             {"<｜Assistant｜>", false}};
  int id = 256;
  for (const auto& [content, special] : control) {
    added.push_back({{"id", id++},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  const Json tokenizer = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  text::TokenizerFiles files;
  files.tokenizer_json = tokenizer.dump();
  files.tokenizer_config_json = Json{
      {"add_bos_token", true},
      {"bos_token", "<｜begin▁of▁sentence｜>"},
      {"eos_token",
       "<｜end▁of▁sentence｜>"}}.dump();
  return text::Tokenizer::parse(files).value();
}

Result<std::unique_ptr<TokenStream>> ScriptedEngine::submit(Request request) {
  if (!refusal_.is_ok()) return refusal_;
  std::deque<StreamEvent> events;
  events.push_back(
      StartedEvent{static_cast<int32_t>(request.prompt.size()), script_.cached_tokens});
  int32_t made = 0;
  for (char c : script_.text) {
    if (++made > request.sampling.max_tokens) break;
    TokensEvent event;
    event.tokens = {static_cast<unsigned char>(c)};
    if (request.sampling.logprobs) event.logprobs = {{-0.5F, {{event.tokens[0], -0.5F}}}};
    events.push_back(std::move(event));
  }
  if (!script_.endless) events.push_back(FinishedEvent{script_.reason, script_.status});
  requests.push_back(request);
  if (script_.wakes_locked) {
    return std::unique_ptr<TokenStream>(
        new LockedStream(requests.size(), std::move(events), cancels));
  }
  return std::unique_ptr<TokenStream>(
      new ScriptedStream(requests.size(), std::move(events), cancels));
}

EngineHealth ScriptedEngine::health() const {
  EngineHealth health;
  health.state = state_;
  health.last_progress_us = clock != nullptr ? clock->now_us() : 0;
  return health;
}

ApiFixture::ApiFixture(ScriptedEngine::Script script)
    : engine(std::make_shared<ScriptedEngine>(std::move(script))) {
  engine->clock = &clock;
  context.model.name = "test";
  context.model.engine = engine;
  context.model.tokenizer = make_byte_tokenizer();
  context.model.chat_format = text::ChatFormat::kDeepSeekV3_1;
  context.model.max_model_len = 256;
  context.model.vocab = context.model.tokenizer->vocab_size();
  context.pool = &pool;
  context.clock = &clock;
  context.metrics = &metrics;
  context.hasher = &hasher;
  context.version = "0";
}

void RecordingSink::on_delta(ChoiceDelta& delta) {
  std::lock_guard lock(record_->mutex);
  record_->content[delta.choice] += delta.content;
  record_->reasoning[delta.choice] += delta.reasoning;
  auto& tokens = record_->tokens[delta.choice];
  tokens.insert(tokens.end(), delta.tokens.begin(), delta.tokens.end());
}

void RecordingSink::on_finished(const Usage& usage) {
  std::lock_guard lock(record_->mutex);
  record_->usage = usage;
  record_->changed.notify_all();
}

void RecordingSink::on_failed(const Status& status) {
  std::lock_guard lock(record_->mutex);
  record_->failure = status;
  record_->changed.notify_all();
}

void RecordingSink::on_gone(const Usage& usage) {
  std::lock_guard lock(record_->mutex);
  record_->gone = usage;
  record_->changed.notify_all();
}

bool RecordingSink::wait(Record& record) {
  std::unique_lock lock(record.mutex);
  return record.changed.wait_for(lock, std::chrono::seconds(5),
                                 [&] { return record.usage || record.failure; });
}

}  // namespace fathom::api
