// A tiny checkpoint of any family, with generated weights, loaded on the CPU backend as the engine
// loads it, for the tests of this folder.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "family_golden.h"
#include "fathom/model.h"
#include "ops/cpu/cpu_ops.h"
#include "support/step_driver.h"
#include "weights/synthetic.h"

namespace fathom::testing {

struct FamilyOptions {
  Numerics numerics = Numerics::kReference;
  int32_t threads = 1;
  int32_t block_tokens = 16;
  MlaForm form = MlaForm::kChosen;
  bool fp8_cache = false;
  DriverLimits limits;
};

// One rank.
struct FamilyModel {
  FamilyModel(const std::string& name, const FamilyOptions& options, const Groups& groups = {}) {
    const std::string directory = families_directory() + "/" + name;
    const auto weights = SyntheticSource::open(directory, 1, false).value();
    ops = make_cpu_ops({options.numerics, options.threads, int64_t{64} << 20});
    ModelOptions model_options;
    model_options.tokens_max = options.limits.tokens_max;
    model_options.block_tokens = options.block_tokens;
    model_options.mla_form = options.form;
    model_options.fp8_cache = options.fp8_cache;
    model = load_model(directory, *weights, *ops, groups, model_options).value();
    driver.emplace(*ops, *model, options.limits, groups);
  }

  std::unique_ptr<Ops> ops;
  std::unique_ptr<Model> model;
  std::optional<StepDriver> driver;
};

}  // namespace fathom::testing
