// The note is text in a fixed buffer, ready to be written: a crash may neither lock nor allocate.
#include "engine/plan_note.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "fathom/check.h"

namespace fathom {
namespace {

// Process-wide like the hook it serves. Written by the engine thread; a crash on another thread may
// see it half written.
char g_note[1024];
size_t g_note_bytes = 0;

template <typename... Values>
void append(const char* format, Values... values) {
  const size_t room = sizeof g_note - g_note_bytes;
  const int written = std::snprintf(g_note + g_note_bytes, room, format, values...);
  g_note_bytes += std::min(static_cast<size_t>(std::max(written, 0)), room - 1);
}

void note_plan(const StepPlan& plan) {
  g_note_bytes = 0;
  append("newest plan %llu: %zu closed, %zu opened, %zu rows\nrows (slot kind tokens):",
         static_cast<unsigned long long>(plan.number), plan.close.size(), plan.open.size(),
         plan.rows.size());
  for (const PlanRow& row : plan.rows) {
    append(" (%d %d %d)", row.slot, static_cast<int>(row.kind), row.tokens);
  }
}

void write_note() {
  const ssize_t ignored = ::write(STDERR_FILENO, g_note, g_note_bytes);
  const ssize_t ended = ::write(STDERR_FILENO, "\n", 1);
  (void)ignored;
  (void)ended;
}

class NotingExecutor final : public Executor {
 public:
  explicit NotingExecutor(std::unique_ptr<Executor> inner) : inner_(std::move(inner)) {}

  int32_t depth() const override { return inner_->depth(); }
  void submit(StepPlan plan) override {
    note_plan(plan);
    inner_->submit(std::move(plan));
  }
  std::optional<StepResult> poll() override { return inner_->poll(); }
  int event_fd() const override { return inner_->event_fd(); }
  Status health() const override { return inner_->health(); }

 private:
  const std::unique_ptr<Executor> inner_;
};

}  // namespace

std::unique_ptr<Executor> note_plans(std::unique_ptr<Executor> executor) {
  set_crash_note(write_note);
  return std::make_unique<NotingExecutor>(std::move(executor));
}

}  // namespace fathom
