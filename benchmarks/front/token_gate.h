// TokenGate: what the reader's process tells the simulated executor: how many tokens have arrived.
// It lies in memory that both processes share. The executor's thread waits on it, the reader's
// thread counts into it; anybody may look.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/thread.h"
#include "fathom/status.h"

namespace fathom::bench {

class TokenGate {
 public:
  // Call before fork().
  static Result<std::unique_ptr<TokenGate>> make();
  ~TokenGate();
  TokenGate(const TokenGate&) = delete;
  TokenGate& operator=(const TokenGate&) = delete;

  // The reader: so many more tokens have come, by so many reads.
  void arrived(uint64_t tokens, uint64_t reads);
  uint64_t tokens() const { return page_->tokens.load(std::memory_order_seq_cst); }
  uint64_t reads() const { return page_->reads.load(std::memory_order_relaxed); }

  // The executor: whether `target` tokens have arrived; if not, wake() is readable once they have.
  bool reached(uint64_t target) const;
  const EventFd& wake() const { return wake_; }

 private:
  struct Page {
    alignas(64) std::atomic<uint64_t> tokens{0};
    std::atomic<uint64_t> reads{0};
    alignas(64) std::atomic<uint64_t> wanted{0};
  };

  TokenGate(Page* page, EventFd wake) : page_(page), wake_(std::move(wake)) {}

  Page* const page_;
  EventFd wake_;
};

}  // namespace fathom::bench
