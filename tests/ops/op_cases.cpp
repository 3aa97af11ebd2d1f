#include "ops/op_cases.h"

namespace fathom::testing {

std::string OpCase::name() const {
  return op + " " + shape + (numerics == Numerics::kReference ? " (reference)" : " (native)");
}

std::vector<OpCase> op_cases() {
  std::vector<OpCase> all;
  for (const auto& list :
       {dense_cases(), row_cases(), attention_cases(), fp8_latent_cases(), gqa_cases(), moe_cases(),
        frame_cases(), sample_cases()}) {
    all.insert(all.end(), list.begin(), list.end());
  }
  return all;
}

}  // namespace fathom::testing
