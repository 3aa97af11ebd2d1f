// Long prompts and long logprobs travel in pieces, so that cancels and heartbeats overtake them.
#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/protocol.h"

namespace fathom {
namespace {

// Room for the events of one frame: what event_bytes estimates is never too little.
constexpr size_t kEventsBytesMax = 200 * 1024;
// With kLogprobsMax entries each, this many stay below kEventsBytesMax.
constexpr size_t kLogprobsPerPiece = 512;

size_t logprobs_bytes(const std::vector<TokenLogprobs>& logprobs) {
  size_t bytes = 24;
  for (const TokenLogprobs& one : logprobs) bytes += 8 + 8 * one.top.size();
  return bytes;
}

// An upper bound of an event's bytes in an Events message.
size_t event_bytes(const StreamEvent& event) {
  constexpr size_t kFixed = 48;
  if (const auto* tokens = std::get_if<TokensEvent>(&event)) {
    return kFixed + tokens->tokens.size() * sizeof(TokenId) + logprobs_bytes(tokens->logprobs) +
           logprobs_bytes(tokens->prompt_logprobs);
  }
  if (const auto* finished = std::get_if<FinishedEvent>(&event)) {
    const Status& s = finished->status;
    return kFixed + s.message().size() + s.subject().size() + s.reason().size();
  }
  return kFixed;
}

// Moves all but the last piece of an event's prompt logprobs into events of their own before it.
void split_prompt_logprobs(RequestEvent event, std::vector<RequestEvent>& out) {
  if (auto* tokens = std::get_if<TokensEvent>(&event.event)) {
    std::vector<TokenLogprobs>& all = tokens->prompt_logprobs;
    size_t at = 0;
    for (; all.size() - at > kLogprobsPerPiece; at += kLogprobsPerPiece) {
      TokensEvent piece;
      auto first = std::make_move_iterator(all.begin() + static_cast<ptrdiff_t>(at));
      piece.prompt_logprobs.assign(first, first + static_cast<ptrdiff_t>(kLogprobsPerPiece));
      out.push_back(RequestEvent{event.id, std::move(piece)});
    }
    all.erase(all.begin(), all.begin() + static_cast<ptrdiff_t>(at));
  }
  out.push_back(std::move(event));
}

}  // namespace

std::vector<Frame> split_events(std::vector<RequestEvent> events) {
  std::vector<RequestEvent> pieces;
  pieces.reserve(events.size());
  for (RequestEvent& event : events) split_prompt_logprobs(std::move(event), pieces);

  std::vector<Frame> frames;
  EventsFrame frame;
  size_t bytes = 0;
  for (RequestEvent& event : pieces) {
    const size_t more = event_bytes(event.event);
    if (!frame.events.empty() && bytes + more > kEventsBytesMax) {
      frames.emplace_back(std::exchange(frame, EventsFrame{}));
      bytes = 0;
    }
    bytes += more;
    frame.events.push_back(std::move(event));
  }
  if (!frame.events.empty()) frames.emplace_back(std::move(frame));
  return frames;
}

std::vector<Frame> split_request(Request request) {
  std::vector<TokenId> prompt = std::move(request.prompt);
  const size_t total = prompt.size();
  const size_t first = std::min(total, kPromptPieceTokensMax);
  const RequestId id = request.id;

  std::vector<Frame> frames;
  request.prompt.assign(prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(first));
  frames.emplace_back(SubmitFrame{std::move(request), static_cast<int32_t>(total)});
  for (size_t at = first; at < total; at += kPromptPieceTokensMax) {
    const size_t end = std::min(total, at + kPromptPieceTokensMax);
    PromptPieceFrame piece{.id = id, .tokens = {}};
    piece.tokens.assign(prompt.begin() + static_cast<ptrdiff_t>(at),
                        prompt.begin() + static_cast<ptrdiff_t>(end));
    frames.emplace_back(std::move(piece));
  }
  return frames;
}

}  // namespace fathom
