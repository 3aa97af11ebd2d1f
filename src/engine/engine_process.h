// The engine process: what runs in the child that RemoteEngine starts. It serves one model over an
// inherited socket and is fail-stop: when the socket closes, or anything is in doubt, it ends.
#pragma once

#include "engine/engine_loader.h"

namespace fathom {

// What main() calls first thing for `--engine`; `fd` is the socket. Returns the exit code.
int engine_main(int fd);

// The same with another way to load: for tests.
int serve_engine(int fd, const EngineLoader& loader);

}  // namespace fathom
