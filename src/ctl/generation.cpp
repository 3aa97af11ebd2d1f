// Request bodies, and the events of a streamed answer.
#include "ctl/generation.h"

#include "base/json.h"
#include "ctl/sse_parser.h"

namespace fathom::ctl {
namespace {

constexpr size_t kErrorBytesMax = size_t{1} << 20;

Json common_body(const std::string& model, const SamplingFlags& sampling) {
  Json body = Json::object();
  body["model"] = model;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (sampling.temperature) body["temperature"] = *sampling.temperature;
  if (sampling.top_p) body["top_p"] = *sampling.top_p;
  if (sampling.top_k) body["top_k"] = *sampling.top_k;
  if (sampling.max_tokens) body["max_tokens"] = *sampling.max_tokens;
  if (sampling.seed) body["seed"] = *sampling.seed;
  if (!sampling.stop.empty()) body["stop"] = sampling.stop;
  if (sampling.ignore_eos) body["ignore_eos"] = true;
  return body;
}

// Text of users may hold bytes that are no UTF-8; they become U+FFFD.
std::string dump(const Json& body) {
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string_view text_of(const Json* value) {
  return value != nullptr && value->is_string()
             ? std::string_view(value->get_ref<const std::string&>())
             : std::string_view();
}

int64_t integer_of(const Json* value) {
  return value != nullptr && value->is_number_integer() ? value->get<int64_t>() : 0;
}

// Reads the events of one stream.
class EventReader {
 public:
  explicit EventReader(const std::function<bool(const Delta&)>& on_delta) : on_delta_(on_delta) {}

  // False: nothing more is wanted.
  bool take(std::string_view data) {
    if (data == "[DONE]") {
      done_ = true;
      return true;
    }
    const Result<Json> event = parse_json(data);
    if (!event.is_ok()) return fail(data_loss("an event is not JSON: " + event.status().message()));
    if (const Json* error = member(*event, "error")) {
      return fail(Status(Code::kInternal, std::string(text_of(member(*error, "message"))))
                      .because(std::string(text_of(member(*error, "code")))));
    }
    read_usage(member(*event, "usage"));
    const Json* choices = member(*event, "choices");
    if (choices == nullptr || !choices->is_array() || choices->empty()) return true;
    return read_choice(choices->front());
  }

  bool done() const { return done_; }
  bool stopped() const { return stopped_; }
  const Status& status() const { return status_; }
  Generated result() { return std::move(result_); }

 private:
  bool fail(Status status) {
    status_ = std::move(status);
    return false;
  }
  void read_usage(const Json* usage) {
    if (usage == nullptr) return;
    result_.prompt_tokens = integer_of(member(*usage, "prompt_tokens"));
    result_.completion_tokens = integer_of(member(*usage, "completion_tokens"));
    if (const Json* details = member(*usage, "prompt_tokens_details")) {
      result_.cached_tokens = integer_of(member(*details, "cached_tokens"));
    }
  }
  bool read_choice(const Json& choice) {
    if (const Json* reason = member(choice, "finish_reason"))
      result_.finish_reason = text_of(reason);
    const Json* chat = member(choice, "delta");
    Delta delta;
    if (chat != nullptr) delta.reasoning = text_of(member(*chat, "reasoning_content"));
    delta.content =
        chat != nullptr ? text_of(member(*chat, "content")) : text_of(member(choice, "text"));
    if (delta.reasoning.empty() && delta.content.empty()) return true;
    ++result_.events;
    result_.reasoning.append(delta.reasoning);
    result_.content.append(delta.content);
    if (on_delta_(delta)) return true;
    stopped_ = true;
    return false;
  }

  const std::function<bool(const Delta&)>& on_delta_;
  Generated result_;
  Status status_;
  bool done_ = false;
  bool stopped_ = false;
};

}  // namespace

std::string chat_body(const std::string& model, const std::vector<ChatTurn>& turns,
                      const SamplingFlags& sampling, std::optional<bool> thinking) {
  Json body = common_body(model, sampling);
  body["messages"] = Json::array();
  for (const ChatTurn& turn : turns) {
    body["messages"].push_back({{"role", turn.role}, {"content", turn.content}});
  }
  if (thinking) body["thinking"] = {{"type", *thinking ? "enabled" : "disabled"}};
  return dump(body);
}

std::string completion_body(const std::string& model, const std::string& prompt,
                            const SamplingFlags& sampling) {
  Json body = common_body(model, sampling);
  body["prompt"] = prompt;
  return dump(body);
}

std::string completion_body(const std::string& model, const std::vector<int32_t>& prompt,
                            const SamplingFlags& sampling) {
  Json body = common_body(model, sampling);
  body["prompt"] = prompt;
  return dump(body);
}

Result<Generated> generate(HttpClient& client, const std::string& path, const std::string& body,
                           const std::function<bool(const Delta&)>& on_delta) {
  EventReader events(on_delta);
  SseParser sse([&](std::string_view data) { return events.take(data); });
  std::string refused;
  const Result<HttpHead> head =
      client.stream({"POST", path, body}, [&](const HttpHead& h, std::string_view piece) {
        if (h.status == 200) return sse.push(piece);
        refused.append(piece);
        return refused.size() <= kErrorBytesMax;
      });
  if (!head.is_ok()) return head.status();
  FATHOM_RETURN_IF_ERROR(status_of(*head, refused));
  FATHOM_RETURN_IF_ERROR(events.status());
  if (!events.done() && !events.stopped()) {
    return data_loss("the stream ended without [DONE]");
  }
  return events.result();
}

Result<std::string> first_model(HttpClient& client) {
  FATHOM_ASSIGN(const HttpResponse response, client.fetch({"GET", "/v1/models", ""}));
  FATHOM_RETURN_IF_ERROR(status_of(response.head, response.body));
  const Result<Json> list = parse_json(response.body);
  if (list.is_ok()) {
    const Json* data = member(*list, "data");
    if (data != nullptr && data->is_array() && !data->empty()) {
      return std::string(text_of(member(data->front(), "id")));
    }
  }
  return data_loss("the server's list of models cannot be read");
}

}  // namespace fathom::ctl
