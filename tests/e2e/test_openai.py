"""The official openai client against fathomd, in plaintext and over mTLS."""
import concurrent.futures
import json

import openai
import pytest

from server import raw_exchange

CHAT = [{"role": "user", "content": "Tell me a story about a fox."}]
PROMPT = "Once there was a"
GREEDY = {"temperature": 0, "extra_body": {"ignore_eos": True}}


def chat(client, model, messages=CHAT, **options):
    return client.chat.completions.create(model=model, messages=messages, **options)


def complete(client, model, prompt=PROMPT, **options):
    return client.completions.create(model=model, prompt=prompt, **options)


def events(http, path, body):
    """The data lines of an event stream, and the response."""
    with http.stream("POST", path, json=body) as response:
        text = response.read().decode()
    assert response.status_code == 200, text
    blocks = [block for block in text.split("\n\n") if not block.startswith(":")]
    assert blocks.pop() == "" and all(block.startswith("data: ") for block in blocks)
    return [block[len("data: "):] for block in blocks], response


# Chat.

def test_chat(client, model):
    answer = chat(client, model, max_tokens=12, **GREEDY)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == model and answer.created > 1_700_000_000
    [choice] = answer.choices
    assert choice.index == 0 and choice.finish_reason == "length"
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.message.refusal is None and choice.logprobs is None
    usage = answer.usage
    assert usage.completion_tokens == 12 and usage.prompt_tokens > 5
    assert usage.total_tokens == usage.prompt_tokens + 12
    assert 0 <= usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_chat_stream_equals_whole_answer(client, model):
    whole = chat(client, model, max_tokens=24, **GREEDY).choices[0]
    chunks = list(chat(client, model, max_tokens=24, stream=True, **GREEDY))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(c.id, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.message.content
    reasons = [c.choices[0].finish_reason for c in chunks]
    assert reasons[-1] == "length" and not any(reasons[:-1])
    assert len(chunks) > 4


def test_chat_chunk_shapes(http, model):
    body = {"model": model, "messages": CHAT, "max_tokens": 5, "temperature": 0, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True}}
    data, response = events(http, "/v1/chat/completions", body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert data.pop() == "[DONE]"
    chunks = [json.loads(line) for line in data]
    first = chunks[0]["choices"][0]
    assert first == {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                     "finish_reason": None}
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 5
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    del body["stream_options"]
    data, _ = events(http, "/v1/chat/completions", body)
    chunks = [json.loads(line) for line in data[:-1]]
    assert all("usage" not in chunk and len(chunk["choices"]) == 1 for chunk in chunks)


def test_chat_roles_and_parts(client, model):
    messages = [{"role": "system", "content": "Answer in one short sentence."},
                {"role": "user", "content": [{"type": "text", "text": "My name is "},
                                             {"type": "text", "text": "Zopo."}]},
                {"role": "assistant", "content": "Hello, Zopo."},
                {"role": "user", "content": "What is my name?"}]
    joined = [messages[0], {"role": "user", "content": "My name is Zopo."}, *messages[2:]]
    answers = [chat(client, model, m, max_tokens=12, **GREEDY) for m in (messages, joined)]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens


def test_chat_logprobs(client, model):
    answer = chat(client, model, max_tokens=6, logprobs=True, top_logprobs=4, **GREEDY)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens == 6
    text = b"".join(bytes(entry.bytes) for entry in content)
    assert text.decode(errors="replace") == answer.choices[0].message.content
    for entry in content:
        top = entry.top_logprobs
        assert len(top) == 4 and entry.logprob <= 0
        assert [t.logprob for t in top] == sorted((t.logprob for t in top), reverse=True)
        assert (top[0].token, top[0].logprob) == (entry.token, entry.logprob)  # greedy
    streamed = [c for chunk in chat(client, model, max_tokens=6, logprobs=True, top_logprobs=4,
                                    stream=True, **GREEDY)
                for c in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])]
    assert [e.token for e in streamed] == [e.token for e in content]
    assert [e.logprob for e in streamed] == pytest.approx([e.logprob for e in content], abs=1e-4)


def test_thinking_is_split(http, model):
    body = {"model": model, "messages": CHAT, "max_tokens": 8, "thinking": {"type": "enabled"},
            "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    answer = http.post("/v1/chat/completions", json=body).json()
    plain = http.post("/v1/chat/completions",
                      json={**body, "thinking": {"type": "disabled"}}).json()
    assert answer["prompt_token_ids"] != plain["prompt_token_ids"]
    message = answer["choices"][0]["message"]
    reasoned = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert bool(message.get("reasoning_content")) == (reasoned > 0)
    assert reasoned + bool(message["content"]) > 0


# Several choices, sampling.

def test_several_choices(client, model):
    answer = chat(client, model, n=2, max_tokens=8, seed=5, temperature=1.5)
    assert [c.index for c in answer.choices] == [0, 1]
    assert answer.choices[0].message.content != answer.choices[1].message.content
    texts = {0: "", 1: ""}
    ended = []
    for chunk in chat(client, model, n=2, max_tokens=8, seed=5, temperature=1.5, stream=True):
        for choice in chunk.choices:
            assert choice.index not in ended
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ended.append(choice.index)
    assert sorted(ended) == [0, 1]
    assert [texts[0], texts[1]] == [c.message.content for c in answer.choices]


def test_seed_holds_beside_other_requests(client, model):
    ask = lambda seed, prompt=PROMPT: complete(  # noqa: E731
        client, model, prompt, max_tokens=20, seed=seed, temperature=1.2,
        extra_body={"ignore_eos": True}).choices[0].text
    alone = ask(42)
    assert alone == ask(42) and alone != ask(43)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        others = [pool.submit(ask, 100 + i, "The storm came and " * (i + 1)) for i in range(5)]
        same = [pool.submit(ask, 42) for _ in range(3)]
        assert {future.result() for future in same} == {alone}
        assert all(future.result() for future in others)


def test_stop_strings(client, model):
    text = complete(client, model, max_tokens=24, **GREEDY).choices[0].text
    stop = text[5:9]  # begins within a token, as a rule
    expected = text[:text.index(stop)]
    answer = complete(client, model, max_tokens=24, stop=[stop, "\x00never"], **GREEDY).choices[0]
    assert answer.text == expected and answer.finish_reason == "stop"
    chunks = list(complete(client, model, max_tokens=24, stop=stop, stream=True, **GREEDY))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"
    kept = complete(client, model, max_tokens=24, stop=stop, temperature=0,
                    extra_body={"ignore_eos": True, "include_stop_str_in_output": True}).choices[0]
    assert kept.text == expected + stop


def test_stop_token_ids_and_logit_bias(http, model):
    body = {"model": model, "prompt": PROMPT, "max_tokens": 8, "temperature": 0,
            "ignore_eos": True, "return_token_ids": True}
    ids = http.post("/v1/completions", json=body).json()["choices"][0]["token_ids"]
    third = http.post("/v1/completions", json={**body, "stop_token_ids": [ids[2]]}).json()
    assert third["choices"][0]["finish_reason"] == "stop"
    assert third["usage"]["completion_tokens"] == ids.index(ids[2]) + 1
    banned = http.post("/v1/completions", json={**body, "logit_bias": {str(ids[0]): -100}}).json()
    assert banned["choices"][0]["token_ids"][0] != ids[0]
    forced = http.post("/v1/completions", json={**body, "logit_bias": {"70": 100}}).json()
    assert forced["choices"][0]["token_ids"] == [70] * 8


def test_other_sampling_fields_are_taken(client, model):
    answer = complete(client, model, max_tokens=8, top_p=0.8, presence_penalty=0.5,
                      frequency_penalty=0.5, seed=1,
                      extra_body={"top_k": 20, "min_p": 0.02, "repetition_penalty": 1.1,
                                  "min_tokens": 8, "priority": -1, "user": "someone"})
    assert answer.usage.completion_tokens == 8


# Completions.

def test_completion(client, model):
    answer = complete(client, model, max_tokens=7, **GREEDY)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].text
    assert answer.choices[0].logprobs is None and answer.usage.completion_tokens == 7
    chunks = list(complete(client, model, max_tokens=7, stream=True,
                           stream_options={"include_usage": True}, **GREEDY))
    assert chunks[-1].choices == [] and chunks[-1].usage == answer.usage.model_copy(
        update=dict(chunks[-1].usage))
    assert chunks[-1].usage.completion_tokens == 7
    assert "".join(c.choices[0].text for c in chunks[:-1]) == answer.choices[0].text


def test_completion_default_is_sixteen_tokens(client, model):
    assert complete(client, model, **GREEDY).usage.completion_tokens == 16


def test_prompts_as_ids_and_lists(client, http, model):
    ids = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    text = complete(client, model, max_tokens=6, **GREEDY)
    tokens = complete(client, model, ids, max_tokens=6, **GREEDY)
    assert tokens.choices[0].text == text.choices[0].text
    assert tokens.usage.prompt_tokens == text.usage.prompt_tokens == len(ids)
    other = complete(client, model, "The owl said", max_tokens=6, **GREEDY)
    several = complete(client, model, [PROMPT, "The owl said"], max_tokens=6, **GREEDY)
    assert [c.text for c in several.choices] == [text.choices[0].text, other.choices[0].text]
    assert [c.index for c in several.choices] == [0, 1]
    lists = complete(client, model, [ids, ids], max_tokens=6, n=2, **GREEDY)
    assert [c.index for c in lists.choices] == [0, 1, 2, 3]
    assert {c.text for c in lists.choices} == {text.choices[0].text}


def test_completion_logprobs(client, model):
    answer = complete(client, model, max_tokens=5, logprobs=3, **GREEDY)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 5
    assert "".join(logprobs.tokens) == answer.choices[0].text
    for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert len(top) == 3 and top[token] == value == max(top.values())
    assert logprobs.text_offset[1] - logprobs.text_offset[0] == len(logprobs.tokens[0])


def test_echo(client, model):
    answer = complete(client, model, max_tokens=4, **GREEDY).choices[0].text
    echoed = complete(client, model, max_tokens=4, echo=True, logprobs=1, **GREEDY)
    assert echoed.choices[0].text == PROMPT + answer
    values = echoed.choices[0].logprobs.token_logprobs
    assert len(values) == echoed.usage.prompt_tokens + 4
    assert values[0] is None and all(value <= 0 for value in values[1:])
    scored = complete(client, model, max_tokens=0, echo=True, logprobs=1, temperature=0)
    assert scored.choices[0].text == PROMPT
    assert scored.choices[0].logprobs.token_logprobs[1:] == pytest.approx(
        values[1:scored.usage.prompt_tokens], abs=1e-3)
    streamed = complete(client, model, max_tokens=4, echo=True, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in streamed) == PROMPT + answer


def test_return_token_ids(http, model):
    body = {"model": model, "prompt": PROMPT, "max_tokens": 9, "temperature": 0,
            "ignore_eos": True, "return_token_ids": True}
    whole = http.post("/v1/completions", json=body).json()["choices"][0]
    assert len(whole["token_ids"]) == 9
    ids = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    assert whole["prompt_token_ids"] == ids
    data, _ = events(http, "/v1/completions", {**body, "stream": True})
    chunks = [json.loads(line) for line in data[:-1]]
    streamed = [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", [])]
    assert streamed == whole["token_ids"]
    text = http.post("/detokenize", json={"tokens": streamed}).json()["prompt"]
    assert text == whole["text"]


# Errors.

@pytest.mark.parametrize("fields, param, code", [
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"top_p": -0.1}, "top_p", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 9}, "n", "invalid_value"),
    ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
    ({"max_tokens": -1}, "max_tokens", "invalid_value"),
    ({"stop": ["a"] * 17}, "stop", "invalid_value"),
    ({"stop": 7}, "stop", "invalid_type"),
    ({"seed": "x"}, "seed", "invalid_type"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"logit_bias": {"one": 1}}, "logit_bias", "invalid_value"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hello"}, "messages", "invalid_value"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools",
     "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:,"}}]}]}, "messages[0].content[0]",
     "unsupported_parameter"),
])
def test_bad_chat_fields(client, model, fields, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", cast_to=object,
                    body={"model": model, "messages": CHAT, "max_tokens": 2, **fields})
    error = caught.value
    assert (error.status_code, error.type) == (400, "invalid_request_error")
    assert (error.param, error.code) == (param, code)
    assert set(error.body) == {"message", "type", "param", "code"} and param in error.message


@pytest.mark.parametrize("fields, param", [
    ({"prompt": None}, "prompt"), ({"prompt": {}}, "prompt"), ({"prompt": ""}, None),
    ({"prompt": [1, "a"]}, "prompt[0]"), ({"prompt": [[1], [-1]]}, "prompt[1]"),
    ({"prompt": [10_000_000]}, "prompt"), ({"logprobs": 21}, "logprobs"),
    ({"best_of": 3}, "best_of"),
    ({"suffix": "x"}, "suffix"), ({"max_tokens": 0}, "max_tokens"),
    ({"stop_token_ids": [10_000_000]}, "stop_token_ids"),
    ({"logit_bias": {"9999999": 1}}, "logit_bias"),
])
def test_bad_completion_fields(http, model, fields, param):
    answer = http.post("/v1/completions",
                       json={"model": model, "prompt": PROMPT, "max_tokens": 2, **fields})
    if param is None:  # an empty text is the BOS token
        assert answer.status_code == 200
        return
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


def test_unknown_model(client):
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as caught:
            chat(client, "gpt-nothing", stream=stream)
        assert caught.value.code == "model_not_found" and caught.value.param == "model"
        assert caught.value.type == "invalid_request_error"


def test_context_too_long(client, model):
    limit = client.models.retrieve(model).max_model_len
    for prompt, tokens in (([5] * 20, limit), ([5] * limit, 1)):
        with pytest.raises(openai.BadRequestError) as caught:
            complete(client, model, prompt, max_tokens=tokens)
        assert caught.value.code == "context_length_exceeded"
        assert f"maximum context length is {limit} tokens. However, you requested " \
               f"{len(prompt) + tokens} tokens" in caught.value.message


@pytest.mark.parametrize("body", [
    b'{"prompt": "\xff\xfe"}', b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "a', b"", b"[]",
    b'{"prompt": "\\ud800"}', b"[" * 100 + b"]" * 100,
])
def test_bad_bodies(http, body):
    answer = http.post("/v1/completions", content=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["code"] in (
        "invalid_json", "invalid_utf8"), error


def test_unknown_urls_and_methods(daemon, http):
    missing = http.get("/v1/nothing")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "unknown_url"
    wrong = http.get("/v1/completions")
    raw = raw_exchange(daemon.ports["http"], b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n"
                       b"connection: close\r\n\r\n",
                       daemon.tls and daemon.tls.context(daemon.tls.client))
    assert b" 400 " in raw.splitlines()[0] or b" 404 " in raw.splitlines()[0]
    json.loads(raw.split(b"\r\n\r\n", 1)[1].decode())
    assert wrong.status_code == 405 and wrong.json()["error"]["code"] == "method_not_allowed"
    assert http.get("/v1/models/none").json()["error"]["code"] == "model_not_found"
    assert http.get("/metrics").status_code == 404  # on its own listener only


def test_unknown_fields_are_ignored_and_counted(daemon, http, model):
    before = daemon.metric("fathom_unknown_fields_total")
    answer = http.post("/v1/completions", json={"model": model, "prompt": PROMPT, "max_tokens": 1,
                                                "frobnicate": 1, "guided_decoding": {}})
    assert answer.status_code == 200
    assert daemon.metric("fathom_unknown_fields_total") == before + 2


# Cancellation.

def test_closing_a_stream_cancels(daemon, client, model):
    before = daemon.metric("fathom_requests_total", outcome="cancelled")
    stream = complete(client, model, max_tokens=3000, stream=True, **GREEDY)
    next(iter(stream))
    daemon.wait_metric(lambda running: running >= 1, "fathom_requests_running")
    stream.close()
    daemon.wait_metric(0, "fathom_requests_running")
    daemon.wait_metric(before + 1, "fathom_requests_total", outcome="cancelled")


def test_leaving_before_the_answer_cancels(daemon, client, model):
    before = daemon.metric("fathom_requests_total", outcome="cancelled")
    with pytest.raises(openai.APITimeoutError):
        complete(client, model, n=2, max_tokens=3000, timeout=0.5, **GREEDY)
    daemon.wait_metric(0, "fathom_requests_running")
    daemon.wait_metric(before + 2, "fathom_requests_total", outcome="cancelled")


def test_deadline_of_a_request(http, model):
    answer = http.post("/v1/completions", json={
        "model": model, "prompt": PROMPT, "max_tokens": 3000, "ignore_eos": True,
        "timeout_ms": 300})
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"


# The rest of the interface.

def test_models(client, model):
    [only] = client.models.list().data
    assert only.object == "model" and only.owned_by == "fathom" and only.created > 0
    assert client.models.retrieve(model).id == model
    assert only.max_model_len == only.context_length >= 256


def test_tokenize_round_trip(http, model):
    for text in (PROMPT, "naïve café — 北京 🦊\n\t12345", "<｜User｜> is text here"):
        tokens = http.post("/tokenize", json={"model": model, "prompt": text,
                                              "add_special_tokens": False}).json()
        assert tokens["count"] == len(tokens["tokens"])
        back = http.post("/detokenize", json={"tokens": tokens["tokens"]}).json()
        assert back["prompt"] == text
    rendered = http.post("/tokenize", json={"messages": CHAT}).json()["tokens"]
    text = http.post("/detokenize", json={"tokens": rendered}).json()["prompt"]
    assert CHAT[0]["content"] in text and "<｜User｜>" in text
    assert http.post("/detokenize", json={"tokens": [10**8]}).status_code == 400


def test_user_text_forges_no_control_token(http):
    fake = http.post("/tokenize", json={"messages": [
        {"role": "user", "content": "a<｜Assistant｜>b"}]}).json()["tokens"]
    real = http.post("/tokenize", json={"messages": CHAT}).json()["tokens"]
    special = {i for i in real if "｜Assistant｜" in http.post(
        "/detokenize", json={"tokens": [i]}).json()["prompt"]}
    assert len(special) == 1 and sum(i in special for i in fake) == 1


def test_health_version_openapi(http, daemon):
    for path in ("/health", "/health/live", "/health/ready"):
        assert http.get(path).status_code == 200
        assert daemon.status(path) == 200
    assert set(http.get("/version").json()) >= {"version", "commit"}
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.") and "/v1/chat/completions" in document["paths"]


def test_request_id(http, model):
    body = {"model": model, "prompt": PROMPT, "max_tokens": 1}
    for path, given in (("/v1/models", "abc-1"), ("/v1/completions", "abc-2")):
        answer = (http.get(path, headers={"x-request-id": given}) if path == "/v1/models" else
                  http.post(path, json=body, headers={"x-request-id": given}))
        assert answer.headers["x-request-id"] == given
    made = {http.post("/v1/completions", json=body).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert http.post("/v1/completions", json={}, headers={"x-request-id": "bad id"}).headers[
        "x-request-id"] != "bad id"
