// Framing of the engine protocol, and which message a frame type is.
#include "engine/protocol.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/protocol_messages.h"

namespace fathom {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

template <typename Message>
void write_frame(size_t type, const Message& message, std::string& out) {
  const size_t size = message.ByteSizeLong();
  FATHOM_CHECK(kFrameHeaderBytes + size <= kFrameBytesMax, "a frame is larger than its bound");
  const uint32_t length = static_cast<uint32_t>(size + 1);
  const size_t at = out.size();
  out.resize(at + kFrameHeaderBytes);
  std::memcpy(out.data() + at, &length, sizeof length);
  out[at + 4] = static_cast<char>(type);
  message.AppendToString(&out);
}

struct Encoder {
  size_t type;
  std::string& out;

  template <typename Message, typename Native>
  void through(const Native& frame) const {
    Message m;
    wire::to_message(frame, m);
    write_frame(type, m, out);
  }

  void operator()(const OptionsFrame& f) const { through<wire::pb::Options>(f); }
  void operator()(const SubmitFrame& f) const { through<wire::pb::Submit>(f); }
  void operator()(const EventsFrame& f) const { through<wire::pb::Events>(f); }
  void operator()(const HeartbeatFrame& f) const { through<wire::pb::Heartbeat>(f); }
  void operator()(const ReadyFrame& f) const { through<wire::pb::Ready>(f); }
  void operator()(const DrainFrame&) const { write_frame(type, wire::pb::Drain(), out); }
  void operator()(const PromptPieceFrame& f) const {
    wire::pb::PromptPiece m;
    m.set_id(f.id);
    m.set_tokens(wire::pack_ids(f.tokens));
    write_frame(type, m, out);
  }
  void operator()(const CancelFrame& f) const {
    wire::pb::Cancel m;
    for (RequestId id : f.ids) m.add_ids(id);
    write_frame(type, m, out);
  }
  void operator()(const PingFrame& f) const {
    wire::pb::Ping m;
    m.set_number(f.number);
    write_frame(type, m, out);
  }
  void operator()(const FailedFrame& f) const {
    wire::pb::Failed m;
    wire::to_message(f.status, *m.mutable_status());
    write_frame(type, m, out);
  }
};

template <typename Message>
Result<Frame> parse(std::span<const std::byte> body) {
  Message m;
  if (!m.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return data_loss("an engine protocol frame does not parse");
  }
  return wire::from_message(m);
}

}  // namespace

void encode_frame(const Frame& frame, std::string& out) {
  std::visit(Encoder{frame.index() + 1, out}, frame);
}

Result<size_t> frame_bytes(std::span<const std::byte> bytes) {
  if (bytes.size() < kFrameHeaderBytes) return size_t{0};
  uint32_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length < 1 || length > kFrameBytesMax - 4) {
    return data_loss("an engine protocol frame has a length of " + std::to_string(length));
  }
  const auto type = std::to_integer<uint8_t>(bytes[4]);
  if (type < 1 || type > std::variant_size_v<Frame>) {
    return data_loss("an engine protocol frame has type " + std::to_string(type));
  }
  return size_t{length} + 4;
}

Result<Frame> decode_frame(std::span<const std::byte> bytes) {
  FATHOM_ASSIGN(const size_t size, frame_bytes(bytes));
  if (size == 0 || size != bytes.size()) {
    return data_loss("an engine protocol frame is not as long as it says");
  }
  const std::span<const std::byte> body = bytes.subspan(kFrameHeaderBytes);
  switch (std::to_integer<uint8_t>(bytes[4])) {
    case wire::pb::FRAME_TYPE_OPTIONS: return parse<wire::pb::Options>(body);
    case wire::pb::FRAME_TYPE_SUBMIT: return parse<wire::pb::Submit>(body);
    case wire::pb::FRAME_TYPE_PROMPT_PIECE: return parse<wire::pb::PromptPiece>(body);
    case wire::pb::FRAME_TYPE_CANCEL: return parse<wire::pb::Cancel>(body);
    case wire::pb::FRAME_TYPE_DRAIN: return parse<wire::pb::Drain>(body);
    case wire::pb::FRAME_TYPE_PING: return parse<wire::pb::Ping>(body);
    case wire::pb::FRAME_TYPE_EVENTS: return parse<wire::pb::Events>(body);
    case wire::pb::FRAME_TYPE_HEARTBEAT: return parse<wire::pb::Heartbeat>(body);
    case wire::pb::FRAME_TYPE_READY: return parse<wire::pb::Ready>(body);
    default: return parse<wire::pb::Failed>(body);
  }
}

}  // namespace fathom
