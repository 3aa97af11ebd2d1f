// The engine protocol's codec: what goes in comes out, and nothing else comes out.
#include "engine/protocol.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "engine/protocol_messages.h"

namespace fathom {
namespace {

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string encoded(const Frame& frame) {
  std::string out;
  encode_frame(frame, out);
  return out;
}

template <typename T>
T round_trip(const T& frame) {
  Result<Frame> back = decode_frame(bytes(encoded(frame)));
  EXPECT_TRUE(back.is_ok()) << back.status().to_string();
  return std::get<T>(*back);
}

Request long_request(size_t prompt_tokens) {
  Request r;
  r.id = 77;
  r.trace_id = "trace";
  for (size_t i = 0; i < prompt_tokens; ++i) r.prompt.push_back(static_cast<TokenId>(i % 5000));
  r.sampling.temperature = 0.25F;
  r.sampling.top_p = 0.5F;
  r.sampling.top_k = 9;
  r.sampling.min_p = 0.125F;
  r.sampling.presence_penalty = 1.0F;
  r.sampling.frequency_penalty = -1.0F;
  r.sampling.repetition_penalty = 1.5F;
  r.sampling.seed = 0xfedcba9876543210U;
  r.sampling.max_tokens = 5;
  r.sampling.min_tokens = 2;
  r.sampling.ignore_eos = true;
  r.sampling.logprobs = 3;
  r.sampling.prompt_logprobs = true;
  r.sampling.stop_token_ids = {1, 2, 3};
  r.sampling.logit_bias = {{4, -100.0F}, {5, 1.5F}};
  r.priority = -3;
  r.deadline_us = 123456789;
  r.tenant = 0xffffffffffffffffU;
  r.cache_prefix = false;
  return r;
}

EngineOptions some_options() {
  EngineOptions o;
  o.model_dir = "/models/\xff not utf-8";
  o.max_model_len = 1000;
  o.kv_cache_bytes = int64_t{1} << 33;
  o.numerics = Numerics::kReference;
  o.load_format = EngineOptions::LoadFormat::kSynthetic;
  o.device = EngineOptions::Device::kCpu;
  o.speculative_tokens = 1;
  o.vocab_tokens = 4000;
  o.seed = 99;
  o.queued_us_max = 7;
  o.prefill_chunk_tokens = 128;
  o.prefill_slowdown = 2.5;
  o.prefill_step_us = 40'000;
  o.memory_fraction = 0.5;
  return o;
}

TEST(Protocol, OptionsRoundTrip) {
  const auto back = round_trip(OptionsFrame{42, some_options()});
  EXPECT_EQ(back.parent_pid, 42);
  const EngineOptions expected = some_options();
  EXPECT_EQ(back.options.model_dir, expected.model_dir);
  EXPECT_EQ(back.options.max_model_len, expected.max_model_len);
  EXPECT_EQ(back.options.kv_cache_bytes, expected.kv_cache_bytes);
  EXPECT_EQ(back.options.numerics, expected.numerics);
  EXPECT_EQ(back.options.load_format, expected.load_format);
  EXPECT_EQ(back.options.device, expected.device);
  EXPECT_EQ(back.options.speculative_tokens, 1);
  EXPECT_EQ(back.options.vocab_tokens, expected.vocab_tokens);
  EXPECT_EQ(back.options.seed, 99U);
  EXPECT_EQ(back.options.memory_fraction, 0.5);
  EXPECT_EQ(back.options.queued_us_max, 7);
  EXPECT_EQ(back.options.prefill_chunk_tokens, 128);
  EXPECT_EQ(back.options.prefill_slowdown, 2.5);
  EXPECT_EQ(back.options.prefill_step_us, 40'000);
  EXPECT_FALSE(back.options.fp8_cache);
  EXPECT_EQ(back.options.max_num_seqs, expected.max_num_seqs);
}

TEST(Protocol, AnFp8CacheGoesWithNativeNumerics) {
  OptionsFrame frame{42, some_options()};
  frame.options.numerics = Numerics::kNative;
  frame.options.fp8_cache = true;
  EXPECT_TRUE(round_trip(frame).options.fp8_cache);
}

TEST(Protocol, PackedWeightsGoWithNativeNumerics) {
  OptionsFrame frame{42, some_options()};
  EXPECT_EQ(round_trip(frame).options.pack_weights, PackWeights::kOff);
  frame.options.pack_weights = PackWeights::kAuto;
  EXPECT_EQ(round_trip(frame).options.pack_weights, PackWeights::kAuto);
  frame.options.numerics = Numerics::kNative;
  frame.options.pack_weights = PackWeights::kOn;
  EXPECT_EQ(round_trip(frame).options.pack_weights, PackWeights::kOn);
  EXPECT_TRUE(check_options(frame.options).is_ok());
  frame.options.deterministic = true;
  EXPECT_EQ(check_options(frame.options).subject(), "pack_weights");
}

TEST(Protocol, RequestRoundTripsInPieces) {
  const Request request = long_request(2 * kPromptPieceTokensMax + 17);
  const std::vector<Frame> frames = split_request(request);
  ASSERT_EQ(frames.size(), 3U);
  const auto submit = round_trip(std::get<SubmitFrame>(frames[0]));
  EXPECT_EQ(submit.prompt_tokens, static_cast<int32_t>(request.prompt.size()));
  std::vector<TokenId> prompt = submit.request.prompt;
  for (size_t i = 1; i < frames.size(); ++i) {
    EXPECT_LE(encoded(frames[i]).size(), kFrameBytesMax);
    const auto piece = round_trip(std::get<PromptPieceFrame>(frames[i]));
    EXPECT_EQ(piece.id, request.id);
    prompt.insert(prompt.end(), piece.tokens.begin(), piece.tokens.end());
  }
  EXPECT_EQ(prompt, request.prompt);
  const SamplingParams& s = submit.request.sampling;
  const SamplingParams& e = request.sampling;
  EXPECT_EQ(s.temperature, e.temperature);
  EXPECT_EQ(s.seed, e.seed);
  EXPECT_EQ(s.logprobs, e.logprobs);
  EXPECT_EQ(s.prompt_logprobs, e.prompt_logprobs);
  EXPECT_EQ(s.stop_token_ids, e.stop_token_ids);
  EXPECT_EQ(s.logit_bias, e.logit_bias);
  EXPECT_EQ(s.ignore_eos, e.ignore_eos);
  EXPECT_EQ(s.min_tokens, e.min_tokens);
  EXPECT_EQ(s.repetition_penalty, e.repetition_penalty);
  EXPECT_EQ(submit.request.deadline_us, request.deadline_us);
  EXPECT_EQ(submit.request.tenant, request.tenant);
  EXPECT_EQ(submit.request.priority, request.priority);
  EXPECT_FALSE(submit.request.cache_prefix);
}

TEST(Protocol, EventsRoundTrip) {
  EventsFrame frame;
  frame.events.push_back({1, StartedEvent{100, 64, 1500}});
  TokensEvent tokens;
  tokens.tokens = {7, 8};
  tokens.logprobs = {{-0.5F, {{7, -0.5F}, {9, -1.0F}}}, {-0.25F, {}}};
  tokens.prompt_logprobs = {{-3.0F, {{1, -2.0F}}}};
  tokens.drafted = 1;
  frame.events.push_back({2, tokens});
  frame.events.push_back({3, FinishedEvent{FinishReason::kDeadline,
                                           Status(Code::kDeadlineExceeded, "late").because("r")}});
  frame.events.push_back({4, FinishedEvent{FinishReason::kStop, Status::ok()}});
  const auto back = round_trip(frame);
  ASSERT_EQ(back.events.size(), 4U);
  EXPECT_EQ(std::get<StartedEvent>(back.events[0].event).cached_tokens, 64);
  EXPECT_EQ(std::get<StartedEvent>(back.events[0].event).queued_us, 1500);
  const auto& t = std::get<TokensEvent>(back.events[1].event);
  EXPECT_EQ(t.tokens, tokens.tokens);
  EXPECT_EQ(t.logprobs[0].top, tokens.logprobs[0].top);
  EXPECT_EQ(t.logprobs[1].chosen, -0.25F);
  EXPECT_EQ(t.prompt_logprobs[0].top, tokens.prompt_logprobs[0].top);
  EXPECT_EQ(t.drafted, 1);
  const auto& f = std::get<FinishedEvent>(back.events[2].event);
  EXPECT_EQ(f.reason, FinishReason::kDeadline);
  EXPECT_EQ(f.status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(f.status.reason(), "r");
  EXPECT_TRUE(std::get<FinishedEvent>(back.events[3].event).status.is_ok());
}

TEST(Protocol, ManyLogprobsTravelInPieces) {
  std::vector<RequestEvent> events;
  for (RequestId id = 1; id <= 3; ++id) {
    TokensEvent tokens;
    tokens.tokens = {5};
    for (int i = 0; i < 4096; ++i) {
      TokenLogprobs one{static_cast<float>(i), {}};
      for (TokenId k = 0; k < kLogprobsMax; ++k) one.top.emplace_back(k, -1.0F);
      tokens.prompt_logprobs.push_back(std::move(one));
    }
    events.push_back({id, std::move(tokens)});
  }
  std::vector<float> chosen[4];
  std::vector<TokenId> tokens[4];
  for (const Frame& frame : split_events(std::move(events))) {
    EXPECT_LE(encoded(frame).size(), kFrameBytesMax);
    const auto decoded = round_trip(std::get<EventsFrame>(frame));
    for (const RequestEvent& event : decoded.events) {
      const auto& piece = std::get<TokensEvent>(event.event);
      EXPECT_TRUE(tokens[event.id].empty()) << "prompt logprobs come before the first token";
      for (const auto& one : piece.prompt_logprobs) chosen[event.id].push_back(one.chosen);
      tokens[event.id].insert(tokens[event.id].end(), piece.tokens.begin(), piece.tokens.end());
    }
  }
  for (RequestId id = 1; id <= 3; ++id) {
    ASSERT_EQ(chosen[id].size(), 4096U);
    for (size_t i = 0; i < chosen[id].size(); ++i) ASSERT_EQ(chosen[id][i], static_cast<float>(i));
    EXPECT_EQ(tokens[id], std::vector<TokenId>{5});
  }
}

TEST(Protocol, HeartbeatReadyFailedRoundTrip) {
  HeartbeatFrame beat;
  beat.health.state = EngineState::kLoading;
  beat.health.load_progress = 0.5;
  beat.health.last_progress_us = 12;
  beat.stats.steps_total = 9;
  beat.stats.blocks_cached = 4;
  beat.stats.drafting_rows_total = 6;
  beat.stats.step_tokens.add(kStepTokensBounds, 3.0);
  beat.stats.step_seconds.add(kStepSecondsBounds, 9.0);
  beat.ping_number = 3;
  const auto beat_back = round_trip(beat);
  EXPECT_EQ(beat_back.health.state, EngineState::kLoading);
  EXPECT_EQ(beat_back.health.last_progress_us, 12);
  EXPECT_EQ(beat_back.stats.steps_total, 9U);
  EXPECT_EQ(beat_back.stats.blocks_cached, 4);
  EXPECT_EQ(beat_back.stats.drafting_rows_total, 6U);
  EXPECT_EQ(beat_back.stats.step_tokens.counts, beat.stats.step_tokens.counts);
  EXPECT_EQ(beat_back.stats.step_seconds.counts.back(), 1U);
  EXPECT_EQ(beat_back.stats.step_seconds.sum, 9.0);
  EXPECT_EQ(beat_back.ping_number, 3U);

  ReadyFrame ready;
  ready.info.model = {.architecture = "A",
                      .layers = 3,
                      .draft_layers = 1,
                      .hidden = 8,
                      .vocab = 10,
                      .positions_max = 100,
                      .eos = {1, 2},
                      .bos = 3,
                      .parameters = 1000};
  ready.info.max_model_len = 64;
  ready.info.blocks_total = 5;
  ready.info.device = "cpu";
  ready.info.device_id = "00000000:3B:00.0";
  ready.info.plan_table = std::string(100'000, 'x');
  const auto ready_back = round_trip(ready);
  EXPECT_EQ(ready_back.info.model.eos, ready.info.model.eos);
  EXPECT_EQ(ready_back.info.model.parameters, 1000);
  EXPECT_EQ(ready_back.info.max_model_len, 64);
  EXPECT_EQ(ready_back.info.device_id, ready.info.device_id);
  EXPECT_LT(ready_back.info.plan_table.size(), 100'000U) << "texts are cut to their bound";

  const auto failed = round_trip(FailedFrame{resource_exhausted("no room").about("model")});
  EXPECT_EQ(failed.status.code(), Code::kResourceExhausted);
  EXPECT_EQ(failed.status.subject(), "model");
}

// ---- Malformed frames: each is made by one change to a good one.

template <typename Message>
std::string framed(int type, const Message& m) {
  const std::string body = m.SerializeAsString();
  std::string out(5, '\0');
  const auto length = static_cast<uint32_t>(body.size() + 1);
  std::memcpy(out.data(), &length, 4);
  out[4] = static_cast<char>(type);
  return out + body;
}

void expect_refused(const std::string& frame, const char* what) {
  const Result<Frame> result = decode_frame(bytes(frame));
  EXPECT_FALSE(result.is_ok()) << what;
}

template <typename Message, typename Change>
void expect_refused_after(int type, Message message, const char* what, Change change) {
  ASSERT_TRUE(decode_frame(bytes(framed(type, message))).is_ok()) << what;
  change(message);
  expect_refused(framed(type, message), what);
}

TEST(Protocol, RefusesBrokenFraming) {
  const std::string good = encoded(PingFrame{7});
  expect_refused("", "nothing");
  expect_refused(good.substr(0, 3), "half a header");
  expect_refused(good.substr(0, good.size() - 1), "too short");
  expect_refused(good + "x", "too long");
  std::string zero = good;
  std::memset(zero.data(), 0, 4);
  expect_refused(zero, "length zero");
  std::string huge = good;
  std::memset(huge.data(), 0xff, 4);
  expect_refused(huge, "length of 4 GB");
  EXPECT_FALSE(frame_bytes(bytes(huge)).is_ok());
  std::string typeless = good;
  typeless[4] = 0;
  expect_refused(typeless, "type 0");
  typeless[4] = 11;
  expect_refused(typeless, "type 11");
  std::string garbage = good;
  garbage[5] = '\xff';
  expect_refused(garbage, "not a message");
}

TEST(Protocol, RefusesBadOptions) {
  wire::pb::Options good;
  wire::to_message(OptionsFrame{42, some_options()}, good);
  const auto refused = [&](const char* what, auto change) {
    expect_refused_after(wire::pb::FRAME_TYPE_OPTIONS, good, what, change);
  };
  refused("parent_pid", [](auto& m) { m.set_parent_pid(0); });
  refused("load_format", [](auto& m) { m.set_load_format(9); });
  refused("numerics", [](auto& m) { m.set_numerics(2); });
  refused("device", [](auto& m) { m.set_device(3); });
  refused("queue", [](auto& m) { m.set_queued_us_max(0); });
  refused("chunk", [](auto& m) { m.set_prefill_chunk_tokens(15); });
  refused("slowdown", [](auto& m) { m.set_prefill_slowdown(1.0); });
  refused("step", [](auto& m) { m.set_prefill_step_us(0); });
  refused("log_level", [](auto& m) { m.set_log_level(6); });
  refused("no model", [](auto& m) { m.set_model_dir(""); });
  refused("tensor_parallel", [](auto& m) { m.set_tensor_parallel(0); });
  refused("max_num_seqs", [](auto& m) { m.set_max_num_seqs(-1); });
  refused("memory_fraction", [](auto& m) { m.set_memory_fraction(std::nan("")); });
  refused("block_tokens", [](auto& m) { m.set_block_tokens(1 << 30); });
}

TEST(Protocol, RefusesBadSubmits) {
  wire::pb::Submit good;
  Request request = long_request(100);
  wire::to_message(SubmitFrame{request, 100}, good);
  const auto refused = [&](const char* what, auto change) {
    expect_refused_after(wire::pb::FRAME_TYPE_SUBMIT, good, what, change);
  };
  refused("id", [](auto& m) { m.set_id(0); });
  refused("trace_id", [](auto& m) { m.set_trace_id(std::string(257, 'x')); });
  refused("prompt_tokens", [](auto& m) { m.set_prompt_tokens(0); });
  refused("prompt_tokens", [](auto& m) { m.set_prompt_tokens(1 << 30); });
  refused("prompt longer than said", [](auto& m) { m.set_prompt_tokens(99); });
  refused("empty prompt", [](auto& m) { m.set_prompt(""); });
  refused("odd prompt", [](auto& m) { m.set_prompt("abc"); });
  refused("logprobs", [](auto& m) { m.mutable_sampling()->set_logprobs(21); });
  refused("negative logprobs", [](auto& m) { m.mutable_sampling()->set_logprobs(-1); });
  refused("stop ids",
          [](auto& m) { m.mutable_sampling()->set_stop_token_ids(std::string(4 * 17, 'a')); });
  refused("bias ids",
          [](auto& m) { m.mutable_sampling()->set_logit_bias_ids(std::string(4 * 1025, 'a')); });
  refused("bias values", [](auto& m) { m.mutable_sampling()->add_logit_bias_values(1.0F); });
}

TEST(Protocol, RefusesBadEvents) {
  TokensEvent tokens;
  tokens.tokens = {7};
  tokens.logprobs = {{-0.5F, {{7, -0.5F}}}};
  wire::pb::Events good;
  EventsFrame frame;
  frame.events.push_back({1, tokens});
  frame.events.push_back({2, StartedEvent{10, 5}});
  frame.events.push_back({3, FinishedEvent{FinishReason::kError, internal_error("x")}});
  wire::to_message(frame, good);
  const auto refused = [&](const char* what, auto change) {
    expect_refused_after(wire::pb::FRAME_TYPE_EVENTS, good, what, change);
  };
  refused("id", [](auto& m) { m.mutable_events(0)->set_id(0); });
  refused("no event", [](auto& m) { m.mutable_events(0)->clear_event(); });
  const auto logprobs = [](auto& m) -> wire::pb::Logprobs& {
    return *m.mutable_events(0)->mutable_tokens()->mutable_logprobs();
  };
  refused("counts", [&](auto& m) { logprobs(m).add_top_count(0); });
  refused("count too high", [&](auto& m) { logprobs(m).set_top_count(0, 21); });
  refused("count over ids", [&](auto& m) { logprobs(m).set_top_count(0, 2); });
  refused("ids left over", [&](auto& m) { logprobs(m).set_top_count(0, 0); });
  refused("values", [&](auto& m) { logprobs(m).add_top_values(1.0F); });
  refused("a logprob too many", [&](auto& m) {
    logprobs(m).add_chosen(1.0F);
    logprobs(m).add_top_count(0);
  });
  refused("odd tokens", [](auto& m) { m.mutable_events(0)->mutable_tokens()->set_tokens("abc"); });
  refused("more tokens than a row makes", [](auto& m) {
    m.mutable_events(0)->mutable_tokens()->set_tokens(std::string(4 * (TokenRun::kMax + 1), 'a'));
  });
  refused("drafted", [](auto& m) { m.mutable_events(0)->mutable_tokens()->set_drafted(-1); });
  refused("cached", [](auto& m) { m.mutable_events(1)->mutable_started()->set_cached_tokens(11); });
  refused("queued", [](auto& m) { m.mutable_events(1)->mutable_started()->set_queued_us(-1); });
  refused("reason none", [](auto& m) { m.mutable_events(2)->mutable_finished()->set_reason(0); });
  refused("reason", [](auto& m) { m.mutable_events(2)->mutable_finished()->set_reason(6); });
}

TEST(Protocol, RefusesTheRest) {
  wire::pb::PromptPiece piece;
  piece.set_id(1);
  piece.set_tokens("abcd");
  expect_refused_after(3, piece, "piece id", [](auto& m) { m.set_id(0); });
  expect_refused_after(3, piece, "empty piece", [](auto& m) { m.set_tokens(""); });
  expect_refused_after(3, piece, "long piece", [](auto& m) {
    m.set_tokens(std::string(4 * (kPromptPieceTokensMax + 1), 'a'));
  });
  wire::pb::Cancel cancel;
  expect_refused_after(4, cancel, "cancels", [](auto& m) {
    for (int i = 0; i < 16 * 1024 + 1; ++i) m.add_ids(1);
  });
  wire::pb::Heartbeat beat;
  expect_refused_after(8, beat, "state", [](auto& m) { m.set_state(6); });
  expect_refused_after(8, beat, "progress", [](auto& m) { m.set_load_progress(1.5); });
  expect_refused_after(8, beat, "progress nan", [](auto& m) { m.set_load_progress(std::nan("")); });
  const auto buckets_refused = [&](const char* what, auto change) {
    wire::pb::Heartbeat counted;
    wire::to_message(HeartbeatFrame{}, counted);
    expect_refused_after(8, counted, what,
                         [&](auto& m) { change(*m.mutable_stats()->mutable_step_seconds()); });
  };
  buckets_refused("a bucket too many", [](auto& b) { b.add_counts(1); });
  buckets_refused("a bucket too few", [](auto& b) { b.mutable_counts()->RemoveLast(); });
  buckets_refused("a sum that is no number", [](auto& b) { b.set_sum(std::nan("")); });
  wire::pb::Ready ready;
  wire::to_message(ReadyFrame{}, ready);
  ready.set_layers(1);
  ready.set_hidden(1);
  ready.set_vocab(1);
  ready.set_positions_max(1);
  ready.set_max_model_len(1);
  expect_refused_after(9, ready, "layers", [](auto& m) { m.set_layers(0); });
  expect_refused_after(9, ready, "eos", [](auto& m) { m.set_eos(std::string(4 * 65, 'a')); });
  wire::pb::Failed failed;
  failed.mutable_status()->set_code(13);
  expect_refused_after(10, failed, "ok failure", [](auto& m) { m.mutable_status()->set_code(0); });
}

// Random bytes and random damage to good frames: decode_frame says no, or gives a frame that can be
// written again.
TEST(Protocol, SurvivesRandomDamage) {
  std::mt19937 random(1);
  std::vector<std::string> seeds;
  for (const Frame& frame : split_request(long_request(50))) seeds.push_back(encoded(frame));
  seeds.push_back(encoded(OptionsFrame{1, some_options()}));
  TokensEvent tokens;
  tokens.tokens = {7};
  tokens.logprobs = {{-0.5F, {{7, -0.5F}}}};
  EventsFrame events;
  events.events.push_back({1, tokens});
  seeds.push_back(encoded(events));
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string frame = seeds[random() % seeds.size()];
    for (int k = 0; k < 3; ++k) {
      frame[5 + random() % (frame.size() - 5)] = static_cast<char>(random());
    }
    const Result<Frame> result = decode_frame(bytes(frame));
    if (!result.is_ok()) continue;
    ++accepted;
    (void)encoded(*result);
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace fathom
