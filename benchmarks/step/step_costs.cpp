// A step on CountOps, op by op.
#include "step_costs.h"

#include "engine/step_buffers.h"

namespace fathom::bench {
namespace {

// Differences of the report around each op.
class CostObserver final : public StepObserver {
 public:
  CostObserver(const CountOps& count, std::map<std::string, OpCost>& costs)
      : count_(count), costs_(costs) {}

  void op_begins() override { before_ = count_.report(); }
  void op_ends(const OpNote& note) override {
    const CountReport after = count_.report();
    OpCost& cost = costs_[note.label];
    ++cost.calls;
    cost.bytes += static_cast<double>(after.bytes - before_.bytes) - note.bytes_spared;
    cost.flops += static_cast<double>(after.flops - before_.flops);
  }

 private:
  const CountOps& count_;
  std::map<std::string, OpCost>& costs_;
  CountReport before_;
};

}  // namespace

double StepCosts::bytes() const {
  double sum = 0.0;
  for (const auto& [label, cost] : ops) sum += cost.bytes;
  return sum;
}

double StepCosts::flops() const {
  double sum = 0.0;
  for (const auto& [label, cost] : ops) sum += cost.flops;
  return sum;
}

Result<std::unique_ptr<CountedModel>> CountedModel::load(const std::string& directory,
                                                         const WeightSource& shapes,
                                                         const ModelOptions& options,
                                                         const ScratchBounds* scratch) {
  std::unique_ptr<CountedModel> counted(new CountedModel(scratch));
  FATHOM_ASSIGN(counted->model_, load_model(directory, shapes, counted->ops_, {}, options));
  return counted;
}

StepCosts CountedModel::step(const StepShape& shape, int32_t vocab) {
  count_.reset_steps();
  SlotLimits slots;
  slots.slots = shape.rows + 1;
  slots.tokens_max = shape.context_tokens_max;
  slots.blocks_max = 1;
  slots.vocab = vocab;
  slots.vocab_padded = vocab;
  const StepLimits limits{shape.rows, shape.tokens, shape.sample_rows};
  const SlotTable table = make_slot_table(count_, slots).value();
  const BatchView batch = BatchArrays::make(count_, limits).value().view(shape, table);
  SampleOutput out = OutputArrays::make(count_, limits, 0).value().view(shape);
  const KvLayout layout = model_->kv_layout();
  std::vector<KvView> caches;
  for (const KvGroup& group : layout.groups) {
    const Tensor cache =
        Tensor::of(nullptr, group.dtype, {1, layout.block_tokens, group.entry_elements});
    caches.insert(caches.end(), static_cast<size_t>(group.layers),
                  KvView{cache, 0, layout.block_tokens});
  }
  StepCosts costs;
  CostObserver observer(count_, costs.ops);
  ops_.observe(&observer);
  {
    ArenaScope scope(count_.arena());
    Hidden hidden = model_->embed(ops_, batch);
    model_->layers(ops_, batch, caches, hidden);
    const Act normed = model_->final_norm(ops_, hidden);
    const Tensor logits = model_->head(ops_, batch, normed);
    ops_.sample(table, batch, logits, model_->info().eos, out);
  }
  ops_.observe(nullptr);
  costs.arena_bytes = count_.report().arena_peak_bytes;
  return costs;
}

}  // namespace fathom::bench
