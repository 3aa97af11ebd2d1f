// Engine events to text, choice by choice.
#include "api/generation.h"

#include <algorithm>
#include <random>
#include <utility>

namespace fathom::api {

namespace {

double seconds_between(int64_t begin_us, int64_t end_us) {
  return static_cast<double>(end_us - begin_us) * 1e-6;
}

// Of requests that failed, as the metric's help lists outcomes.
std::string_view outcome_of(const Status& status) {
  if (status.reason() == "queue_timeout") return "rejected";
  if (status.reason() == "draining") return "drained";
  return status.code() == Code::kDeadlineExceeded ? "deadline" : "error";
}

}  // namespace

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

Generation::Generation(const ApiContext& context, GenerationSpec spec,
                       std::unique_ptr<GenerationSink> sink)
    : Task(*context.pool),
      context_(context),
      spec_(std::move(spec)),
      sink_(std::move(sink)),
      arrived_us_(context.clock->now_us()) {}

std::shared_ptr<Generation> Generation::start(const ApiContext& context, GenerationSpec spec,
                                              std::unique_ptr<GenerationSink> sink) {
  auto generation = std::make_shared<Generation>(context, std::move(spec), std::move(sink));
  const Status submitted = generation->submit_all();
  if (!submitted.is_ok()) {
    context.metrics->counter(CounterId::kRejections, {submitted.reason()}).add();
    generation->fail(submitted);
    return nullptr;
  }
  generation->self_ = generation;
  context.pool->tick(generation);
  generation->wake();
  return generation;
}

Status Generation::submit_all() {
  choices_.reserve(spec_.prompts.size() * spec_.choices_per_prompt);
  for (size_t prompt = 0; prompt < spec_.prompts.size(); ++prompt) {
    for (int32_t sample = 0; sample < spec_.choices_per_prompt; ++sample) {
      FATHOM_RETURN_IF_ERROR(submit_one(static_cast<int32_t>(prompt), sample));
    }
  }
  return Status::ok();
}

Status Generation::submit_one(int32_t prompt, int32_t sample) {
  Request request;
  request.trace_id = spec_.request_id;
  request.prompt = spec_.prompts[prompt];
  request.sampling = spec_.sampling;
  request.sampling.seed =
      spec_.seeded ? spec_.sampling.seed + static_cast<uint64_t>(sample) : random_seed();
  request.priority = spec_.priority;
  request.tenant = spec_.tenant;
  request.deadline_us = spec_.deadline_us;
  FATHOM_ASSIGN(text::StopMatcher stops, text::StopMatcher::create(spec_.stop, spec_.include_stop));
  FATHOM_ASSIGN(std::unique_ptr<TokenStream> stream,
                context_.model.engine->submit(std::move(request)));
  std::optional<text::ReasoningParser> reasoning;
  if (spec_.reasoning) reasoning.emplace(*spec_.reasoning);
  choices_.push_back(Choice{std::move(stream),
                            text::Detokenizer(context_.model.tokenizer, spec_.skip_special_tokens),
                            std::move(stops),
                            std::move(reasoning),
                            {},
                            prompt});
  choices_.back().held.choice = static_cast<int32_t>(choices_.size()) - 1;
  return Status::ok();
}

void Generation::cancel() {
  cancelled_.store(true, std::memory_order_release);
  wake();
}

void Generation::run() {
  if (closed_) return;
  if (cancelled_.load(std::memory_order_acquire)) {
    for (Choice& choice : choices_) choice.stream->cancel();
    sink_->on_gone(usage());
    close("cancelled");
    return;
  }
  if (!listening_) listen();
  for (Choice& choice : choices_) {
    if (!choice.ended) drain(choice);
    if (closed_) return;
  }
  finish_if_done();
  if (closed_) return;
  sink_->flush();
  sink_->on_tick(context_.clock->now_us());
}

// On the pool, like everything else that touches the streams. A waker does not keep the generation
// alive: the stream that holds it belongs to the generation.
void Generation::listen() {
  listening_ = true;
  for (Choice& choice : choices_) {
    choice.stream->set_waker([weak = std::weak_ptr<Task>(weak_from_this())] {
      if (auto alive = weak.lock()) alive->wake();
    });
  }
}

void Generation::drain(Choice& choice) {
  while (!choice.ended && !closed_) {
    std::optional<StreamEvent> event = choice.stream->poll();
    if (!event) return;
    if (auto* started = std::get_if<StartedEvent>(&*event)) {
      choice.started = true;
      choice.cached_tokens = started->cached_tokens;
      record_start(choice, *started);
    } else if (auto* tokens = std::get_if<TokensEvent>(&*event)) {
      on_tokens(choice, *tokens);
    } else {
      on_end(choice, std::get<FinishedEvent>(*event));
    }
  }
}

void Generation::on_tokens(Choice& choice, TokensEvent& event) {
  if (!announced_) {
    announced_ = true;
    sink_->on_started();
  }
  if (!event.prompt_logprobs.empty()) {
    sink_->on_prompt_logprobs(index_of(choice), std::move(event.prompt_logprobs));
  }
  if (event.tokens.empty() || spec_.prompt_only) return;
  record_latency(choice, event.tokens.size());
  for (size_t i = 0; i < event.tokens.size() && !choice.ended; ++i) {
    choice.tokens += 1;
    choice.held.tokens.push_back(event.tokens[i]);
    if (i < event.logprobs.size()) choice.held.logprobs.push_back(std::move(event.logprobs[i]));
    take_text(choice, choice.detokenizer.push(event.tokens[i]));
    if (choice.reasoning && choice.reasoning->in_reasoning()) choice.reasoning_tokens += 1;
  }
}

void Generation::take_text(Choice& choice, const std::string& text) {
  text::StopMatcher::Output matched = choice.stops.push(text);
  if (choice.reasoning) {
    text::ReasoningDelta split = choice.reasoning->push(matched.text);
    choice.held.reasoning += split.reasoning;
    choice.held.content += split.content;
  } else {
    choice.held.content += matched.text;
  }
  if (matched.stopped) {
    choice.stream->cancel();
    end_choice(choice, FinishReason::kStop, spec_.stop[matched.stop_index]);
    return;
  }
  if (choice.held.reasoning.empty() && choice.held.content.empty()) return;
  sink_->on_delta(choice.held);
  choice.held.clear();
}

void Generation::on_end(Choice& choice, const FinishedEvent& event) {
  const bool failed = !event.status.is_ok() || event.reason == FinishReason::kError ||
                      event.reason == FinishReason::kCancelled;
  if (failed) {
    fail(event.status.is_ok() ? unavailable("the request was cancelled by the server")
                              : event.status);
    return;
  }
  std::string tail = choice.detokenizer.finish();
  text::StopMatcher::Output matched = choice.stops.push(tail);
  if (!matched.stopped) matched.text += choice.stops.finish();
  if (choice.reasoning) {
    text::ReasoningDelta split = choice.reasoning->push(matched.text);
    choice.held.reasoning += split.reasoning;
    choice.held.content += split.content;
  } else {
    choice.held.content += matched.text;
  }
  std::optional<std::string> stop;
  if (matched.stopped) stop = spec_.stop[matched.stop_index];
  end_choice(choice, matched.stopped ? FinishReason::kStop : event.reason, std::move(stop));
}

void Generation::end_choice(Choice& choice, FinishReason reason,
                            std::optional<std::string> matched_stop) {
  if (choice.reasoning) {
    text::ReasoningDelta rest = choice.reasoning->finish();
    choice.held.reasoning += rest.reasoning;
    choice.held.content += rest.content;
  }
  choice.ended = true;
  if (!choice.held.reasoning.empty() || !choice.held.content.empty() ||
      !choice.held.tokens.empty()) {
    sink_->on_delta(choice.held);
  }
  sink_->on_end({index_of(choice), reason, std::move(matched_stop)});
  const std::string_view outcome = reason == FinishReason::kLength ? "length" : "stop";
  context_.metrics->counter(CounterId::kRequests, {outcome}).add();
  record_end(choice);
}

void Generation::fail(const Status& status) {
  for (Choice& choice : choices_) {
    if (!choice.ended) choice.stream->cancel();
  }
  sink_->on_failed(status);
  close(outcome_of(status));
}

void Generation::finish_if_done() {
  for (const Choice& choice : choices_) {
    if (!choice.ended) return;
  }
  sink_->on_finished(usage());
  close("");
}

// Ends the generation; choices that had not ended count under `outcome`.
void Generation::close(std::string_view outcome) {
  closed_ = true;
  for (Choice& choice : choices_) {
    if (!choice.ended) context_.metrics->counter(CounterId::kRequests, {outcome}).add();
    choice.ended = true;
    // Here and not in our destructor: a waker may drop the last reference to us, inside the stream.
    choice.stream.reset();
  }
  context_.metrics->observe(HistogramId::kRequestLatency,
                            seconds_between(arrived_us_, context_.clock->now_us()));
  for (const auto& prompt : spec_.prompts) {
    context_.metrics->observe(HistogramId::kRequestPromptTokens,
                              static_cast<double>(prompt.size()));
  }
  sink_.reset();
  self_.reset();  // the pool holds a reference while run() is on the stack
}

void Generation::record_start(Choice& choice, const StartedEvent& event) const {
  choice.started_us = context_.clock->now_us();
  const Metrics& metrics = *context_.metrics;
  metrics.observe(HistogramId::kQueueTime, static_cast<double>(event.queued_us) * 1e-6);
  metrics.add(CounterId::kCachedPromptTokens, event.cached_tokens);
}

void Generation::record_end(const Choice& choice) const {
  const Metrics& metrics = *context_.metrics;
  metrics.observe(HistogramId::kRequestGenerationTokens, static_cast<double>(choice.tokens));
  if (choice.first_token_us == 0) return;
  const double decode = seconds_between(choice.first_token_us, choice.last_token_us);
  metrics.observe(HistogramId::kDecodeTime, decode);
  metrics.observe(HistogramId::kInferenceTime,
                  seconds_between(choice.started_us, choice.last_token_us));
  if (choice.tokens < 2) return;
  metrics.observe(HistogramId::kTimePerOutputToken,
                  decode / static_cast<double>(choice.tokens - 1));
}

void Generation::record_latency(Choice& choice, size_t new_tokens) {
  const int64_t now = context_.clock->now_us();
  const Metrics& metrics = *context_.metrics;
  if (choice.last_token_us == 0) {
    metrics.observe(HistogramId::kTimeToFirstToken, seconds_between(arrived_us_, now));
    choice.first_token_us = now;
    metrics.observe(HistogramId::kPrefillTime, seconds_between(choice.started_us, now));
  } else {
    const double each =
        seconds_between(choice.last_token_us, now) / static_cast<double>(new_tokens);
    for (size_t i = 0; i < new_tokens; ++i) metrics.observe(HistogramId::kInterTokenLatency, each);
  }
  choice.last_token_us = now;
}

Usage Generation::usage() const {
  Usage usage;
  for (const std::vector<TokenId>& prompt : spec_.prompts) usage.prompt_tokens += prompt.size();
  // A prompt counts once: what its first choice computed is not cached for the others' sake.
  std::vector<std::optional<int64_t>> cached(spec_.prompts.size());
  for (const Choice& choice : choices_) {
    usage.completion_tokens += choice.tokens;
    usage.reasoning_tokens += choice.reasoning_tokens;
    std::optional<int64_t>& least = cached[choice.prompt];
    least = std::min<int64_t>(least.value_or(choice.cached_tokens), choice.cached_tokens);
  }
  for (const std::optional<int64_t>& tokens : cached) usage.cached_tokens += tokens.value_or(0);
  return usage;
}

}  // namespace fathom::api
