// The fields that chat and completion bodies share. Internal to the parsers of calls.
#pragma once

#include "api/calls.h"
#include "api/json_fields.h"
#include "api/limits.h"
#include "api/served_model.h"

namespace fathom::api {

void read_common_fields(FieldReader& fields, const ApiLimits& limits,
                        const SamplingDefaults& defaults, CommonCall& call);

}  // namespace fathom::api
