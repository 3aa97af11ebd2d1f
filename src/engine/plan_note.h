// What a broken invariant leaves on stderr: the plan that was handed out last. For the engine
// process, which runs one engine.
#pragma once

#include <memory>

#include "fathom/executor.h"

namespace fathom {

// Sets the process's crash note, and returns `executor` so wrapped that every plan updates it.
std::unique_ptr<Executor> note_plans(std::unique_ptr<Executor> executor);

}  // namespace fathom
