// The engine process with real models. Apart, so that tests link no backend.
#include "engine/engine_loader.h"
#include "engine/engine_process.h"

namespace fathom {

int engine_main(int fd) { return serve_engine(fd, load_engine); }

}  // namespace fathom
