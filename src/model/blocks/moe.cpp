// Load of a mixture of experts.
#include "model/blocks/moe.h"

#include "model/blocks/mlp.h"

namespace fathom {

Result<MoeBlock> MoeBlock::load(ShardLoader& loader, const DeepseekConfig& c,
                                const std::string& at) {
  MoeBlock block;
  MoeParams& p = block.params_;
  p.experts = c.experts;
  p.experts_per_token = c.experts_per_token;
  p.groups = c.groups;
  p.groups_per_token = c.groups_per_token;
  p.score = c.score;
  p.group_score = c.group_score;
  p.normalize = c.normalize;
  p.scale = c.routed_scale;
  FATHOM_ASSIGN(p.router, loader.floats(at + "gate.weight"));
  if (c.correction_bias) {
    FATHOM_ASSIGN(p.bias, loader.floats(at + "gate.e_score_correction_bias"));
  }
  const Span experts = loader.share(c.experts);
  p.first_expert = static_cast<int32_t>(experts.begin);
  for (int64_t e = experts.begin; e < experts.end; ++e) {
    const std::string expert = at + "experts." + std::to_string(e) + ".";
    FATHOM_ASSIGN(GatedPair pair, load_gated_pair(loader, expert, {0, c.moe_intermediate}));
    p.gate_up.push_back(std::move(pair.gate_up));
    p.down.push_back(std::move(pair.down));
  }
  if (c.shared_experts == 0) return block;
  const Span share = loader.share(int64_t{c.shared_experts} * c.moe_intermediate);
  FATHOM_ASSIGN(GatedPair pair, load_gated_pair(loader, at + "shared_experts.", share));
  p.shared_gate_up = std::move(pair.gate_up);
  p.shared_down = std::move(pair.down);
  return block;
}

}  // namespace fathom
