"""`--kv-cache-dtype fp8` through the real server: the demo model answers as with the plain cache
but for near ties, a cached prefix answers as a computed one, and bad combinations are refused."""
import json
import math
import urllib.request

from server import Fathomd

PROMPT = "The quick brown fox jumps over the lazy dog. " * 12


def complete(daemon, **body):
    whole = {"prompt": PROMPT, "temperature": 0, **body}
    request = urllib.request.Request(daemon.url() + "/v1/completions", json.dumps(whole).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def prompt_logprobs(answer):
    found = answer["choices"][0]["logprobs"]["token_logprobs"]
    return [x for x in found if x is not None]


def test_answers_stay_near_and_prefixes_are_reused():
    body = {"max_tokens": 1, "echo": True, "logprobs": 1}
    with Fathomd("--device=cpu") as plain:
        expected = prompt_logprobs(complete(plain, **body))
    with Fathomd("--device=cpu", "--kv-cache-dtype=fp8") as daemon:
        found = prompt_logprobs(complete(daemon, **body))
        first = complete(daemon, max_tokens=16)
        again = complete(daemon, max_tokens=16)
    assert len(found) == len(expected)
    moved = [abs(a - b) for a, b in zip(found, expected)]
    assert 0 < sum(moved) / len(moved) < 0.1, "mean change of a token's log probability"
    assert all(math.isfinite(x) for x in found)
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_reference_numerics_refuse_it():
    with Fathomd("--device=cpu", "--kv-cache-dtype=fp8", "--numerics=reference", wait=False,
                 expect_exit=78) as daemon:
        assert daemon.process.wait(timeout=30) == 78
        assert any("kv_cache_dtype" in line for line in daemon.lines)
