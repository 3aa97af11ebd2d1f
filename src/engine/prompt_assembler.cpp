// Unfinished requests, bounded in number and tokens.
#include "engine/prompt_assembler.h"

#include <utility>

namespace fathom {

Result<std::optional<Request>> PromptAssembler::begin(SubmitFrame frame) {
  const RequestId id = frame.request.id;
  if (frame.request.prompt.size() == static_cast<size_t>(frame.prompt_tokens)) {
    return std::optional<Request>(std::move(frame.request));
  }
  if (unfinished_.contains(id)) return data_loss("a request id was submitted twice");
  if (unfinished_.size() >= requests_max_ ||
      (!unfinished_.empty() && tokens_ + frame.prompt_tokens > tokens_max_)) {
    return resource_exhausted("too many long prompts are on their way").because("queue_full");
  }
  tokens_ += frame.prompt_tokens;
  unfinished_.emplace(id, std::move(frame));
  return std::optional<Request>();
}

Result<std::optional<Request>> PromptAssembler::add(PromptPieceFrame frame) {
  auto at = unfinished_.find(frame.id);
  if (at == unfinished_.end()) return std::optional<Request>();
  std::vector<TokenId>& prompt = at->second.request.prompt;
  const size_t whole = static_cast<size_t>(at->second.prompt_tokens);
  if (frame.tokens.size() > whole - prompt.size()) {
    return data_loss("a prompt is longer than its request announced");
  }
  prompt.insert(prompt.end(), frame.tokens.begin(), frame.tokens.end());
  if (prompt.size() < whole) return std::optional<Request>();
  std::optional<Request> request(std::move(at->second.request));
  tokens_ -= at->second.prompt_tokens;
  unfinished_.erase(at);
  return request;
}

bool PromptAssembler::cancel(RequestId id) {
  auto at = unfinished_.find(id);
  if (at == unfinished_.end()) return false;
  tokens_ -= at->second.prompt_tokens;
  unfinished_.erase(at);
  return true;
}

}  // namespace fathom
