// The reader beside the front end: a process of its own, forked before any thread exists, so that
// its CPU time (gRPC's threads included) is never the server's. It keeps `streams` answers under
// way, counts their tokens into the gate, and checks every answer to its end.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/file.h"
#include "fathom/status.h"
#include "token_gate.h"

namespace fathom::bench {

enum class Wire : int32_t { kHttp, kHttps, kGrpc };

// What to read. Crosses a socket as bytes.
struct ReadOrder {
  Wire wire = Wire::kHttp;
  bool chat = false;
  uint16_t port = 0;
  int32_t streams = 0;
  int32_t tokens_min = 0;  // of an answer; each asks for some number in between
  int32_t tokens_max = 0;
};

struct ReadReport {
  uint64_t answers = 0;  // that ended as they should
  std::array<char, 400> failure{};

  void fail(std::string_view why);
  bool failed() const { return failure[0] != 0; }
};

// Where the client's TLS files lie.
struct ClientFiles {
  std::string authority_file;
  std::string certificate_file;
  std::string key_file;
};

class Reader {
 public:
  // Forks. No thread may exist yet.
  static Result<std::unique_ptr<Reader>> start(TokenGate& gate, const ClientFiles& files);
  ~Reader();

  void begin(const ReadOrder& order);
  // Asks for no more answers, waits for those under way, and says how it went.
  ReadReport end();
  double cpu_s() const;

 private:
  Reader(pid_t child, UniqueFd control) : child_(child), control_(std::move(control)) {}
  pid_t child_;
  UniqueFd control_;
};

// How many tokens the next answer asks for: spread evenly, so that answers do not end together.
class AnswerLengths {
 public:
  AnswerLengths(int32_t low, int32_t high) : low_(low), high_(high) {}
  int32_t next();

 private:
  int32_t low_;
  int32_t high_;
  uint64_t state_ = 1;
};

// Read until `control` is readable, then to the end of what is under way. In the reader's process.
ReadReport read_http(const ReadOrder& order, const ClientFiles& files, TokenGate& gate,
                     int control);
ReadReport read_grpc(const ReadOrder& order, TokenGate& gate, int control);

}  // namespace fathom::bench
