// Load and run of a dense MLP.
#include "model/blocks/mlp.h"

namespace fathom {

Result<GatedPair> load_gated_pair(ShardLoader& loader, const std::string& at, Span share) {
  GatedPair pair;
  FATHOM_ASSIGN(pair.gate_up, loader.linear({{at + "gate_proj.weight", share, {}},
                                             {at + "up_proj.weight", share, {}}}));
  FATHOM_ASSIGN(pair.down, loader.linear({{at + "down_proj.weight", {}, share}}));
  return pair;
}

Result<MlpBlock> MlpBlock::load(ShardLoader& loader, const std::string& at, int64_t width) {
  MlpBlock block;
  FATHOM_ASSIGN(block.pair_, load_gated_pair(loader, at, loader.share(width)));
  FATHOM_RETURN_IF_ERROR(loader.pack(block.pair_.gate_up, true));
  FATHOM_RETURN_IF_ERROR(loader.pack(block.pair_.down));
  return block;
}

Partial MlpBlock::run(Ops& ops, const NormInput& x, const Tensor& out) const {
  const Act inner = ops.gated_linear(ops.normed(x, ops.act_spec(pair_.gate_up)), pair_.gate_up,
                                     ops.act_spec(pair_.down));
  return ops.linear_partial(inner, pair_.down, out);
}

}  // namespace fathom
