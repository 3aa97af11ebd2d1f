// DecoderStack: the decoder layers of one pipeline stage. Owned by the model; immutable after load.
#pragma once

#include <utility>
#include <vector>

#include "model/blocks/decoder_layer.h"
#include "model/stage.h"

namespace fathom {

class DecoderStack {
 public:
  void add(DecoderLayer layer) { layers_.push_back(std::move(layer)); }
  size_t size() const { return layers_.size(); }

  // Adds all layers to `hidden`, layer i with caches[i]. The last stage's last layer leaves its
  // output pending, and only for the tokens that are sampled from where those are few, unless
  // `all_rows` asks for every token's (drafts do); stages before it leave nothing pending.
  void run(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches, MlaForm form,
           const Stage& stage, bool all_rows, Hidden& hidden) const;

 private:
  std::vector<DecoderLayer> layers_;
};

}  // namespace fathom
