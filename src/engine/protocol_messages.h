// Native values to and from the generated messages of the engine protocol. Only the codec includes
// this.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/protocol.h"
#include "fathom/engine/v1/engine.pb.h"

namespace fathom::wire {

namespace pb = ::fathom::engine::v1;

// int32, little-endian.
std::string pack_ids(std::span<const TokenId> ids);
// `field` names the field in the error.
Result<std::vector<TokenId>> unpack_ids(const char* field, const std::string& bytes,
                                        size_t count_max);
Status bad_field(const char* field, std::string_view why);

void to_message(const OptionsFrame& frame, pb::Options& m);
void to_message(const SubmitFrame& frame, pb::Submit& m);
void to_message(const EventsFrame& frame, pb::Events& m);
void to_message(const HeartbeatFrame& frame, pb::Heartbeat& m);
void to_message(const ReadyFrame& frame, pb::Ready& m);
void to_message(const Status& status, pb::Status& m);

Result<Frame> from_message(const pb::Options& m);
Result<Frame> from_message(const pb::Submit& m);
Result<Frame> from_message(const pb::PromptPiece& m);
Result<Frame> from_message(const pb::Cancel& m);
Result<Frame> from_message(const pb::Drain& m);
Result<Frame> from_message(const pb::Ping& m);
Result<Frame> from_message(const pb::Failed& m);
Result<Frame> from_message(const pb::Events& m);
Result<Frame> from_message(const pb::Heartbeat& m);
Result<Frame> from_message(const pb::Ready& m);
// The status that a message says; an unreadable one is its own error.
Status status_from(const pb::Status& m);

}  // namespace fathom::wire
