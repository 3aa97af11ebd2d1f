// The reader's process and its orders.
#include "reader.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu_time.h"

namespace fathom::bench {
namespace {

// An order begins a read, one more byte ends it, the report answers.
void serve_orders(int control, const ClientFiles& files, TokenGate& gate) {
  ReadOrder order;
  while (::recv(control, &order, sizeof order, MSG_WAITALL) == sizeof order) {
    const ReadReport report = order.wire == Wire::kGrpc ? read_grpc(order, gate, control)
                                                        : read_http(order, files, gate, control);
    char stop = 0;
    if (::recv(control, &stop, 1, MSG_WAITALL) != 1) return;
    if (::send(control, &report, sizeof report, MSG_NOSIGNAL) != sizeof report) return;
  }
}

}  // namespace

void ReadReport::fail(std::string_view why) {
  if (failed()) return;
  const size_t size = std::min(why.size(), failure.size() - 1);
  std::copy_n(why.data(), size, failure.data());
}

int32_t AnswerLengths::next() {
  state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
  return low_ + static_cast<int32_t>((state_ >> 33) % static_cast<uint64_t>(high_ - low_ + 1));
}

Result<std::unique_ptr<Reader>> Reader::start(TokenGate& gate, const ClientFiles& files) {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return internal_error("socketpair failed");
  }
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return internal_error("fork failed");
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::signal(SIGPIPE, SIG_IGN);
    set_thread_name("reader");
    ours.reset();
    serve_orders(theirs.get(), files, gate);
    ::_exit(0);
  }
  return std::unique_ptr<Reader>(new Reader(child, std::move(ours)));
}

Reader::~Reader() {
  control_.reset();
  ::waitpid(child_, nullptr, 0);
}

void Reader::begin(const ReadOrder& order) {
  (void)::send(control_.get(), &order, sizeof order, MSG_NOSIGNAL);
}

ReadReport Reader::end() {
  ReadReport report;
  const char stop = 0;
  (void)::send(control_.get(), &stop, 1, MSG_NOSIGNAL);
  if (::recv(control_.get(), &report, sizeof report, MSG_WAITALL) != sizeof report) {
    report = {};
    report.fail("the reader's process has died");
  }
  return report;
}

double Reader::cpu_s() const { return process_cpu_s(child_); }

}  // namespace fathom::bench
