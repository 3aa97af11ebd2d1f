// FloorServer: what one event one write costs with nothing behind it: a thread that sends prebuilt
// events to every stream in turn, paced as the simulated engine is. The reader takes it for the
// front end. What remains is the kernel's TCP over loopback: the floor of the front end's figures.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "fathom/status.h"
#include "token_gate.h"

namespace fathom::bench {

class FloorServer {
 public:
  static Result<std::unique_ptr<FloorServer>> start(TokenGate& gate);
  ~FloorServer();

  uint16_t port() const { return port_; }

 private:
  struct Stream {
    UniqueFd socket;
    int32_t tokens_left = 0;  // 0: nothing is asked
  };

  FloorServer(TokenGate& gate, UniqueFd listener, uint16_t port);
  void run(const std::stop_token& stop);
  void accept_all();
  void read_request(Stream& stream);
  uint64_t send_round();

  TokenGate& gate_;
  UniqueFd listener_;
  const uint16_t port_;
  const std::string event_;
  const std::string last_events_;
  std::vector<Stream> streams_;
  std::jthread thread_;
};

}  // namespace fathom::bench
