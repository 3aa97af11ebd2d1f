// EventStreamSink: what the streamed answers of chat and completions share: chunks in one buffer,
// of which only the choice is written for each token, and the stream's begin and end. All that a
// wake brought leaves in one write.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "api/exchange.h"
#include "api/generation.h"

namespace fathom::api {

class EventStreamSink : public GenerationSink {
 public:
  void on_started() final { exchange_->begin_events(); }
  void on_finished(const Usage& usage) final;
  void on_failed(const Status& status) final;
  void on_gone(const Usage& usage) final { exchange_->log_gone(usage); }
  void flush() final;
  void on_tick(int64_t now_us) final { exchange_->keep_alive(now_us); }

 protected:
  // `id_prefix` and `object` as make_envelope's.
  EventStreamSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
                  std::string_view id_prefix, std::string_view object, bool include_usage);

  // A chunk up to {"index":N, of its only choice.
  void begin_chunk(int32_t choice);
  // Closes the choice; further members of the chunk may follow, then end_chunk.
  void end_choice() { buffer_ += "}]"; }
  void end_chunk() { buffer_ += tail_; }

  std::string buffer_;  // chunks not yet written

 private:
  std::unique_ptr<HttpExchange> exchange_;
  const bool include_usage_;
  std::string envelope_;    // data: {... up to the choices
  std::string chunk_head_;  // the same with ,"choices":[{"index":
  std::string tail_;
};

}  // namespace fathom::api
