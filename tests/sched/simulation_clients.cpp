// What clients of the simulation may rely on, checked event by event.
#include <algorithm>

#include "simulation.h"

namespace fathom {

void Simulation::take(const std::vector<RequestEvent>& events) {
  for (const RequestEvent& e : events) {
    const auto it = clients_.find(e.id);
    if (it == clients_.end()) {
      return problem("an event for request " + std::to_string(e.id) + ", which has ended");
    }
    if (const auto* started = std::get_if<StartedEvent>(&e.event))
      take_started(it->second, *started);
    if (const auto* tokens = std::get_if<TokensEvent>(&e.event)) take_tokens(it->second, *tokens);
    if (const auto* finished = std::get_if<FinishedEvent>(&e.event)) {
      take_finished(it->second, *finished);
      ended_.insert(e.id);
      if (ended_.size() > 1000) ended_.erase(ended_.begin());
      clients_.erase(it);
    }
  }
}

void Simulation::take_started(Client& client, const StartedEvent& event) {
  if (client.started) problem("a request started twice");
  client.started = true;
  counts_.cached_tokens += event.cached_tokens;
  const bool whole = event.cached_tokens >= event.prompt_tokens;
  if (whole || event.prompt_tokens != static_cast<int32_t>(client.request.prompt.size())) {
    problem("a StartedEvent with wrong counts");
  }
}

void Simulation::take_tokens(Client& client, const TokensEvent& event) {
  const std::string name = "request " + std::to_string(client.request.id);
  if (!client.started) problem(name + " gets tokens before it started");
  for (TokenId token : event.tokens) {
    const size_t i = client.received++;
    ++counts_.tokens;
    if (token == kPoisonToken) return problem(name + " gets a token of an uncommitted step");
    if (i >= client.answer.tokens.size()) return problem(name + " gets too many tokens");
    if (token != client.answer.tokens[i]) {
      return problem(name + " gets a wrong token at " + std::to_string(i));
    }
  }
  for (const TokenLogprobs& l : event.prompt_logprobs) {
    const int32_t i = ++client.prompt_logprobs;
    if (i >= static_cast<int32_t>(client.request.prompt.size()) ||
        l.chosen != sim_logprob(client.request.prompt[i])) {
      return problem(name + " gets a wrong prompt logprob at " + std::to_string(i));
    }
  }
}

void Simulation::take_finished(Client& client, const FinishedEvent& event) {
  const std::string name = "request " + std::to_string(client.request.id);
  client.finished = true;
  switch (event.reason) {
    case FinishReason::kStop:
    case FinishReason::kLength: {
      if (event.reason != client.answer.finish) problem(name + " ends for a wrong reason");
      if (client.received != client.answer.tokens.size()) problem(name + " lost tokens");
      const auto prompt = static_cast<int32_t>(client.request.prompt.size());
      if (client.request.sampling.prompt_logprobs && client.prompt_logprobs != prompt - 1) {
        problem(name + " lost prompt logprobs");
      }
      return;
    }
    case FinishReason::kCancelled:
      if (!client.cancelled) problem(name + " was cancelled by nobody");
      return;
    case FinishReason::kDeadline:
      ++counts_.deadlines;
      if (!client.request.deadline_us || *client.request.deadline_us > now_us_) {
        problem(name + " ended before its deadline");
      }
      return;
    case FinishReason::kError:
      if (event.status.reason() == "queue_timeout") {
        const std::optional<int64_t>& most = setup_.scheduler.queued_us_max;
        const bool due = most && now_us_ - client.admitted_us >= *most;
        if (client.started || !due) problem(name + " left the queue before its time");
        return;
      }
      if (executor_->health().is_ok()) problem(name + " failed on a healthy executor");
      return;
    case FinishReason::kNone: problem(name + " ended for no reason");
  }
}

}  // namespace fathom
