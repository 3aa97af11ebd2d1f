// The constant bytes of a stream are made once; a chunk copies them.
#include "api/event_stream_sink.h"

#include <utility>

#include "api/json_writer.h"
#include "api/response_json.h"
#include "net/sse.h"

namespace fathom::api {

EventStreamSink::EventStreamSink(const ApiContext& context, std::unique_ptr<HttpExchange> exchange,
                                 std::string_view id_prefix, std::string_view object,
                                 bool include_usage)
    : exchange_(std::move(exchange)),
      include_usage_(include_usage),
      envelope_("data: "),
      tail_(include_usage ? ",\"usage\":null}\n\n" : "}\n\n") {
  append_envelope(envelope_, make_envelope(context, id_prefix, object));
  chunk_head_ = envelope_ + ",\"choices\":[{\"index\":";
}

void EventStreamSink::begin_chunk(int32_t choice) {
  buffer_ += chunk_head_;
  append_json_int(buffer_, choice);
  buffer_ += ',';
}

void EventStreamSink::on_finished(const Usage& usage) {
  exchange_->begin_events();
  if (include_usage_) {
    buffer_ += envelope_;
    buffer_ += ",\"choices\":[],";
    append_usage(buffer_, usage);
    buffer_ += "}\n\n";
  }
  buffer_ += net::kSseDone;
  exchange_->finish_events(buffer_);
  exchange_->log(200, &usage);
}

void EventStreamSink::on_failed(const Status& status) {
  if (!exchange_->events_begun()) return exchange_->send_error(status);
  flush();
  exchange_->fail_events(status);
}

void EventStreamSink::flush() {
  if (buffer_.empty()) return;
  exchange_->begin_events();
  exchange_->write(buffer_);
  buffer_.clear();
}

}  // namespace fathom::api
