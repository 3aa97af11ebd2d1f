// fathom_config_gen help|markdown|yaml: prints what is generated from settings.def.
#include <iostream>
#include <string_view>

#include "config/render.h"

int main(int argc, char** argv) {
  const std::string_view what = argc == 2 ? argv[1] : "";
  if (what == "help") {
    std::cout << fathom::render_help();
  } else if (what == "markdown") {
    std::cout << fathom::render_markdown();
  } else if (what == "yaml") {
    std::cout << fathom::render_yaml({});
  } else {
    std::cerr << "usage: fathom_config_gen help|markdown|yaml\n";
    return 2;
  }
  return 0;
}
