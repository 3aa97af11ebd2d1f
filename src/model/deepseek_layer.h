// One decoder layer of DeepSeek-V2 or V3, main or draft.
#pragma once

#include "model/blocks/decoder_layer.h"
#include "model/deepseek_config.h"

namespace fathom {

Result<DecoderLayer> load_deepseek_layer(ShardLoader& loader, const DeepseekConfig& config,
                                         int32_t number, const RopeTable& rope);

}  // namespace fathom
