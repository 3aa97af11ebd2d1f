// A shared page and an eventfd that both processes hold.
#include "token_gate.h"

#include <sys/mman.h>

#include <new>

namespace fathom::bench {

Result<std::unique_ptr<TokenGate>> TokenGate::make() {
  FATHOM_ASSIGN(EventFd wake, EventFd::make());
  void* memory =
      ::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return resource_exhausted("no memory to share with the reader");
  return std::unique_ptr<TokenGate>(new TokenGate(new (memory) Page, std::move(wake)));
}

TokenGate::~TokenGate() { ::munmap(page_, sizeof(Page)); }

void TokenGate::arrived(uint64_t tokens, uint64_t reads) {
  page_->reads.fetch_add(reads, std::memory_order_relaxed);
  const uint64_t before = page_->tokens.fetch_add(tokens, std::memory_order_seq_cst);
  const uint64_t wanted = page_->wanted.load(std::memory_order_seq_cst);
  if (before < wanted && before + tokens >= wanted) wake_.notify();
}

bool TokenGate::reached(uint64_t target) const {
  page_->wanted.store(target, std::memory_order_seq_cst);
  return tokens() >= target;
}

}  // namespace fathom::bench
