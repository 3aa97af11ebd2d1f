"""grpcio against fathomd. The client knows no .proto file: it asks the server by reflection."""
import threading
import time

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)

PROMPT = "Once there was a"
SERVICE = "fathom.v1.Inference"


class Stub:
    """Methods of the services that reflection finds: stub.call("Chat", {...})."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def message(self, name, fields=None):
        kind = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
        return kind(**(fields or {}))

    def call(self, method, fields=None, service=SERVICE, timeout=60, **options):
        found = self.pool.FindServiceByName(service).FindMethodByName(method)
        answer = message_factory.GetMessageClass(found.output_type)
        make = (self.channel.unary_stream if found.server_streaming else self.channel.unary_unary)
        invoke = make(f"/{service}/{method}", request_serializer=type(
            self.message(found.input_type.full_name)).SerializeToString,
            response_deserializer=answer.FromString)
        return invoke(self.message(found.input_type.full_name, fields), timeout=timeout, **options)

    def details(self, error):
        """{type name: message} of grpc-status-details-bin."""
        [raw] = [value for key, value in error.trailing_metadata()
                 if key == "grpc-status-details-bin"]
        status = self.message("google.rpc.Status")
        status.ParseFromString(raw)
        assert status.code == error.code().value[0] and status.message == error.details()
        found = {}
        for item in status.details:
            name = item.type_url.rsplit("/", 1)[1]
            found[name] = self.message(name)
            found[name].ParseFromString(item.value)
        return found


@pytest.fixture(scope="module")
def stub(daemon):
    target = f"localhost:{daemon.ports['grpc']}"
    if daemon.tls:
        pair = daemon.tls.client
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(
            daemon.tls.ca.cert.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()))
    else:
        channel = grpc.insecure_channel(target)
    with channel:
        yield Stub(channel)


def greedy(tokens=12, **more):
    return {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, **more}


def chat_request(**more):
    return {"messages": [{"role": "ROLE_USER", "content": "Tell me a story about a fox."}],
            "sampling": greedy(), **more}


def complete_request(prompts=({"text": PROMPT},), **more):
    return {"prompts": list(prompts), "sampling": greedy(), **more}


def collect(events):
    """Reads a stream, checks its order, and returns (started, choices, finished)."""
    events = list(events)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started" and kinds[-1] == "finished"
    assert kinds.count("started") == kinds.count("finished") == 1
    choices = {}
    for event in events[1:-1]:
        part = getattr(event, event.WhichOneof("event"))
        choice = choices.setdefault(part.choice, {"text": "", "ids": [], "logprobs": [],
                                                  "prompt_logprobs": [], "reason": None})
        assert choice["reason"] is None, "an event after the end of its choice"
        kind = event.WhichOneof("event")
        if kind == "delta":
            choice["text"] += part.text
            choice["ids"] += part.token_ids
            choice["logprobs"] += part.logprobs
        elif kind == "prompt_logprobs":
            choice["prompt_logprobs"] += part.logprobs
        else:
            choice["reason"] = part.reason
            choice["matched_stop"] = part.matched_stop
    assert all(choice["reason"] is not None for choice in choices.values())
    return events[0].started, choices, events[-1].finished


def failure(call):
    with pytest.raises(grpc.RpcError) as caught:
        if hasattr(call, "__next__"):
            list(call)
        else:
            call()
    return caught.value


def test_reflection_lists_the_services(stub):
    assert {SERVICE, "grpc.health.v1.Health"} <= set(stub.database.get_services())


def test_chat(stub):
    once = stub.call("ChatOnce", chat_request())
    started, choices, finished = collect(stub.call("Chat", chat_request()))
    assert choices[0]["text"] == once.choices[0].text != ""
    assert choices[0]["reason"] == once.choices[0].reason == 2  # FINISH_REASON_LENGTH
    assert finished.usage.completion_tokens == once.usage.completion_tokens == 12
    assert finished.usage.prompt_tokens == once.usage.prompt_tokens > 5
    assert started.request_id and started.model == once.model


def test_complete(stub):
    fields = complete_request(output={"return_token_ids": True, "logprobs": 2}, echo=True)
    once = stub.call("CompleteOnce", fields)
    started, choices, _ = collect(stub.call("Complete", fields))
    prompt = stub.call("Tokenize", {"text": PROMPT}).ids
    assert started.prompt_token_ids[0].ids == once.prompt_token_ids[0].ids == prompt
    choice = once.choices[0]
    assert choices[0]["ids"] == choice.token_ids and len(choice.token_ids) == 12
    assert choices[0]["text"] == choice.text and choice.text.startswith(PROMPT)
    assert [entry.token_id for entry in choice.logprobs] == choice.token_ids
    assert len(choices[0]["logprobs"]) == 12
    assert all(len(entry.top) == 2 for entry in choice.logprobs)
    assert len(choice.prompt_logprobs) == len(prompt) == len(choices[0]["prompt_logprobs"])
    assert not choice.prompt_logprobs[0].HasField("logprob")
    text = b"".join(entry.token for entry in choice.logprobs).decode(errors="replace")
    assert text == choice.text[len(PROMPT):]


def test_several_prompts_and_choices(stub):
    ids = list(stub.call("Tokenize", {"text": PROMPT}).ids)
    fields = complete_request([{"text": PROMPT}, {"tokens": {"ids": ids}}], sampling={
        "n": 2, "seed": 9, "max_tokens": 6, "temperature": 1.2})
    once = stub.call("CompleteOnce", fields)
    assert [choice.index for choice in once.choices] == [0, 1, 2, 3]
    _, choices, _ = collect(stub.call("Complete", fields))
    assert [choices[i]["text"] for i in range(4)] == [c.text for c in once.choices]
    assert once.choices[0].text == once.choices[2].text != once.choices[1].text


def test_stop(stub):
    text = stub.call("CompleteOnce", complete_request(sampling=greedy(24))).choices[0].text
    stop = text[5:9]
    fields = complete_request(sampling=greedy(24, stop=["\x01", stop]))
    _, choices, _ = collect(stub.call("Complete", fields))
    assert choices[0]["text"] == text[:text.index(stop)]
    assert choices[0]["reason"] == 1 and choices[0]["matched_stop"] == stop


def test_tokenize_round_trip(stub):
    text = "naïve café — 北京 🦊 12345"
    tokens = stub.call("Tokenize", {"text": text, "add_special_tokens": False})
    assert stub.call("Detokenize", {"ids": list(tokens.ids)}).text == text
    assert tokens.max_model_len >= 256
    rendered = stub.call("Tokenize", {"chat": {"messages": chat_request()["messages"]}}).ids
    assert "<｜User｜>" in stub.call("Detokenize", {"ids": list(rendered)}).text


def test_list_models(stub):
    [model] = stub.call("ListModels").models
    assert model.id and model.max_model_len >= 256 and model.created_unix_s > 0
    assert stub.call("ChatOnce", chat_request(model=model.id)).model == model.id


def test_health(stub):
    # gRPC's own health service has no descriptor to reflect: one string in, one enum out.
    check = stub.channel.unary_unary("/grpc.health.v1.Health/Check")
    for service in ("", SERVICE):
        request = bytes([0x0A, len(service)]) + service.encode() if service else b""
        assert check(request, timeout=5) == b"\x08\x01"  # status: SERVING
    error = failure(lambda: check(b"\x0a\x01x", timeout=5))
    assert error.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method, fields, field", [
    ("ChatOnce", chat_request(sampling={"temperature": 3}), "sampling.temperature"),
    ("Chat", chat_request(messages=[]), "messages"),
    ("CompleteOnce", complete_request([{}]), "prompts[0]"),
    ("Complete", complete_request([{"tokens": {"ids": [10**8]}}]), "prompt"),
    ("CompleteOnce", complete_request(sampling={"n": 99}), "sampling.n"),
    ("CompleteOnce", complete_request(output={"logprobs": 21}), "output.logprobs"),
])
def test_bad_fields(stub, method, fields, field):
    error = failure(lambda: [*answer] if hasattr(
        answer := stub.call(method, fields), "__next__") else answer)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = stub.details(error)
    assert details["google.rpc.ErrorInfo"].domain == "fathom"
    assert details["google.rpc.ErrorInfo"].reason
    [violation] = details["google.rpc.BadRequest"].field_violations
    assert violation.field == field and violation.description == error.details()


def test_unknown_model(stub):
    error = failure(stub.call("Chat", chat_request(model="gpt-nothing")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert stub.details(error)["google.rpc.ErrorInfo"].reason == "model_not_found"
    assert "google.rpc.ResourceInfo" in stub.details(error)


def test_context_too_long(stub):
    limit = stub.call("ListModels").models[0].max_model_len
    error = failure(lambda: stub.call("CompleteOnce", complete_request(
        [{"tokens": {"ids": [5] * limit}}])))
    assert stub.details(error)["google.rpc.ErrorInfo"].reason == "context_length_exceeded"
    assert f"maximum context length is {limit} tokens" in error.details()


def test_deadline(daemon, stub):
    begun = time.monotonic()
    error = failure(stub.call("Complete", complete_request(sampling=greedy(3000)), timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 5
    error = failure(lambda: stub.call("CompleteOnce", complete_request(sampling=greedy(3000)),
                                      timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    daemon.wait_metric(0, "fathom_requests_running")


def test_cancellation(daemon, stub):
    before = daemon.metric("fathom_requests_total", outcome="cancelled")
    call = stub.call("Complete", complete_request(sampling=greedy(3000)))
    next(call)
    daemon.wait_metric(lambda running: running >= 1, "fathom_requests_running")
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED
    daemon.wait_metric(0, "fathom_requests_running")
    daemon.wait_metric(before + 1, "fathom_requests_total", outcome="cancelled")
    daemon.wait_metric(lambda calls: calls >= 1, "fathom_grpc_requests_total", method="Complete",
                       code="CANCELLED")


def test_calls_are_counted_and_logged(daemon, stub):
    def count(method, code):
        return daemon.metric("fathom_grpc_requests_total", method=method, code=code)
    before = count("ListModels", "OK"), count("ChatOnce", "NOT_FOUND")
    stub.call("ListModels", {}, metadata=(("x-request-id", "counted"),))
    failure(lambda: stub.call("ChatOnce", chat_request(model="nothing")))
    daemon.wait_metric(before[0] + 1, "fathom_grpc_requests_total", method="ListModels", code="OK")
    daemon.wait_metric(before[1] + 1, "fathom_grpc_requests_total", method="ChatOnce",
                       code="NOT_FOUND")
    entry = daemon.entry_of("call", "counted")
    assert (entry["method"], entry["status"]) == ("ListModels", "OK")
    assert (entry["identity"] == "-") == (daemon.tls is None)


def test_log_lines_say_how_many_tokens(daemon, stub):
    once = stub.call("CompleteOnce", complete_request(), metadata=(("x-request-id", "once"),))
    _, _, finished = collect(stub.call("Complete", complete_request(),
                                       metadata=(("x-request-id", "streamed"),)))
    for name, usage in ("once", once.usage), ("streamed", finished.usage):
        assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
        entry = daemon.entry_of("call", name)
        assert entry["prompt_tokens"] == usage.prompt_tokens
        assert entry["completion_tokens"] == usage.completion_tokens
    # What was made for a client that left.
    call = stub.call("Complete", complete_request(sampling=greedy(3000)),
                     metadata=(("x-request-id", "left"),))
    next(call), next(call)
    call.cancel()
    entry = daemon.entry_of("call", "left")
    assert entry["status"] == "CANCELLED"
    assert entry["prompt_tokens"] == once.usage.prompt_tokens
    assert 0 < entry["completion_tokens"] < 3000


def test_many_calls_on_one_channel(stub):
    expected = stub.call("CompleteOnce", complete_request()).choices[0].text
    texts = []

    def ask():
        _, choices, _ = collect(stub.call("Complete", complete_request()))
        texts.append(choices[0]["text"])

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [expected] * 16


def test_unknown_method(stub):
    call = stub.channel.unary_unary(f"/{SERVICE}/Nothing")
    assert failure(lambda: call(b"", timeout=5)).code() == grpc.StatusCode.UNIMPLEMENTED


def test_garbage_is_refused(stub):
    call = stub.channel.unary_unary(f"/{SERVICE}/CompleteOnce")
    # gRPC 1.51's callback server says UNIMPLEMENTED of a message that it cannot parse.
    assert failure(lambda: call(b"\xff" * 64, timeout=5)).code() in (
        grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
    assert stub.call("ListModels").models
