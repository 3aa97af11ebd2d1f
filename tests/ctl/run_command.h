// Runs a command line in this process and keeps what it wrote.
#pragma once

#include <atomic>
#include <string>
#include <vector>

namespace fathom::ctl::testing {

struct Ran {
  int code = 0;
  std::string out;
  std::string err;
};

struct RunOptions {
  std::string input = {};
  bool terminal = false;  // standard output and input are one, with colour
  std::string api_key = {};
  std::atomic<bool>* interrupted = nullptr;
};

Ran run_command(const std::vector<std::string>& arguments, const RunOptions& options = {});

}  // namespace fathom::ctl::testing
