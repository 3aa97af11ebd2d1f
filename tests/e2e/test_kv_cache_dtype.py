"""`--kv-cache-dtype fp8` through the real server: the demo model answers as with the plain cache
but for near ties, a cached prefix answers as a computed one, and bad combinations are refused."""
import json
import math
import os
import urllib.request

from server import Fathomd

DEMO = "E2E_MODEL" not in os.environ  # else random weights, which hold nothing for probable
PROMPT = "Once upon a time, there was a little girl"


def complete(daemon, prompt, **body):
    whole = {"prompt": prompt, "temperature": 0, **body}
    request = urllib.request.Request(daemon.url() + "/v1/completions", json.dumps(whole).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def prompt_logprobs(answer):
    found = answer["choices"][0]["logprobs"]["token_logprobs"]
    return [x for x in found if x is not None]


def test_answers_stay_near_and_prefixes_are_reused():
    scoring = {"max_tokens": 1, "echo": True, "logprobs": 1}
    with Fathomd("--device=cpu") as plain:
        told = complete(plain, PROMPT, max_tokens=150, ignore_eos=not DEMO)
        story = PROMPT + told["choices"][0]["text"]
        expected = prompt_logprobs(complete(plain, story, **scoring))
    with Fathomd("--device=cpu", "--kv-cache-dtype=fp8") as daemon:
        found = prompt_logprobs(complete(daemon, story, **scoring))
        first = complete(daemon, story, max_tokens=16)
        again = complete(daemon, story, max_tokens=16)
    assert len(found) == len(expected) > 64
    assert found != expected, "the cache is not quantized"
    moved = abs(sum(found) - sum(expected)) / len(found)
    assert math.isfinite(moved)
    if DEMO:
        assert moved < 0.01, "mean log probability of the model's own story (measured: 0.0015)"
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_reference_numerics_refuse_it():
    with Fathomd("--device=cpu", "--kv-cache-dtype=fp8", "--numerics=reference", wait=False,
                 expect_exit=78) as daemon:
        assert daemon.process.wait(timeout=30) == 78
        assert any("kv_cache_dtype" in line for line in daemon.lines)
