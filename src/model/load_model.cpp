// The entry points of model.h: which reader and which text an architecture belongs to.
#include "model/deepseek_v3.h"
#include "model/dense_model.h"

namespace fathom {

Result<ModelInfo> read_model_info(const std::string& directory) {
  FATHOM_ASSIGN(const ConfigFile file, open_config(directory));
  switch (file.family) {
    case ModelFamily::kDeepseek: {
      FATHOM_ASSIGN(const DeepseekConfig config, read_deepseek_config(file, directory));
      return model_info(config);
    }
    case ModelFamily::kDense: {
      FATHOM_ASSIGN(const DenseConfig config, read_dense_config(file, directory));
      return model_info(config);
    }
  }
  FATHOM_CHECK(false, "a family has no reader");
}

Result<std::unique_ptr<Model>> load_model(const std::string& directory, const WeightSource& source,
                                          Ops& ops, const Groups& groups,
                                          const ModelOptions& options) {
  FATHOM_ASSIGN(const ConfigFile file, open_config(directory));
  switch (file.family) {
    case ModelFamily::kDeepseek: {
      FATHOM_ASSIGN(const DeepseekConfig config, read_deepseek_config(file, directory));
      return DeepseekV3::load(config, source, ops, groups, options);
    }
    case ModelFamily::kDense: {
      FATHOM_ASSIGN(const DenseConfig config, read_dense_config(file, directory));
      return DenseModel::load(config, source, ops, groups, options);
    }
  }
  FATHOM_CHECK(false, "a family has no text");
}

}  // namespace fathom
