// The entry points of model.h: one architecture's reader and loader today.
#include "model/deepseek_v3.h"

namespace fathom {

Result<ModelInfo> read_model_info(const std::string& directory) {
  FATHOM_ASSIGN(const DeepseekConfig config, read_deepseek_config(directory));
  return model_info(config);
}

Result<std::unique_ptr<Model>> load_model(const std::string& directory, const WeightSource& source,
                                          Ops& ops, const Groups& groups,
                                          const ModelOptions& options) {
  FATHOM_ASSIGN(const DeepseekConfig config, read_deepseek_config(directory));
  return DeepseekV3::load(config, source, ops, groups, options);
}

}  // namespace fathom
