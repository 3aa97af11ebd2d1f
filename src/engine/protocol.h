// The engine protocol's frames as native types, and their codec. Pure functions: any thread. The
// generated messages stop here. Decoding trusts nothing: every bound is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "engine/engine_options.h"
#include "fathom/engine.h"
#include "fathom/request.h"
#include "sched/scheduler.h"

namespace fathom {

// Of a whole frame: length, type and message.
inline constexpr size_t kFrameBytesMax = 256 * 1024;
inline constexpr size_t kFrameHeaderBytes = 5;
// Token ids of a prompt that one frame carries.
inline constexpr size_t kPromptPieceTokensMax = 32 * 1024;

struct OptionsFrame {
  int32_t parent_pid = 0;
  EngineOptions options;
};
// `request.prompt` holds the first piece of `prompt_tokens` tokens.
struct SubmitFrame {
  Request request;
  int32_t prompt_tokens = 0;
};
struct PromptPieceFrame {
  RequestId id = 0;
  std::vector<TokenId> tokens;
};
struct CancelFrame {
  std::vector<RequestId> ids;
};
struct DrainFrame {};
struct PingFrame {
  uint64_t number = 0;
};
struct EventsFrame {
  std::vector<RequestEvent> events;
};
struct HeartbeatFrame {
  EngineHealth health;  // its status stays ok: a failure travels as FailedFrame
  EngineStats stats;
  uint64_t ping_number = 0;
};
struct ReadyFrame {
  EngineInfo info;
};
struct FailedFrame {
  Status status;
};

// The index is the frame's type on the wire, less one (engine.proto, FrameType).
using Frame = std::variant<OptionsFrame, SubmitFrame, PromptPieceFrame, CancelFrame, DrainFrame,
                           PingFrame, EventsFrame, HeartbeatFrame, ReadyFrame, FailedFrame>;

// Appends the frame's bytes. The frame must fit kFrameBytesMax: the split_ functions see to it.
void encode_frame(const Frame& frame, std::string& out);

// `bytes`: one whole frame, header included. kDataLoss for anything that encode_frame would not
// write.
Result<Frame> decode_frame(std::span<const std::byte> bytes);

// Size of the frame that starts `bytes`, header included; 0 when fewer than kFrameHeaderBytes are
// there. kDataLoss when it cannot be a frame.
Result<size_t> frame_bytes(std::span<const std::byte> bytes);

// A request as a SubmitFrame and as many PromptPieceFrames as its prompt needs.
std::vector<Frame> split_request(Request request);

// Events as frames that fit: one, except when many logprobs make it larger.
std::vector<Frame> split_events(std::vector<RequestEvent> events);

}  // namespace fathom
