"""Many streaming clients at once: every stream ends exactly once, with the tokens of its reference.

    load_test.py [--seconds S] [--clients N] [--distinct N] [--least REQUESTS] [--mtls]
                 [--any-tokens]

References (greedy and seeded sampling, chats and completions, of at most 32 tokens) are computed
one by one while the server is idle. Then the clients ask at random for S seconds; streams that run
at the end are read to their end. A request is lost when it does not end with one finish reason and
one [DONE], mixed when its tokens are not the reference's. Exit code 1 on any of either.

With --mtls over TLS, each client with a certificate. On a GPU (E2E_ARGS="--device cuda") tokens may
change with the batch: --any-tokens compares their number alone.
"""
import argparse
import asyncio
import collections
import json
import random
import sys
import tempfile
import time

from pki import make_pki
from server import Fathomd

SUBJECTS = ("a fox", "an owl", "the sea", "a baker", "two brothers", "a storm", "a bicycle",
            "the moon")
STREAM_SECONDS_MAX = 240


def make_request(number):
    """(path, body) of distinct request `number`: always the same for the same number."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    body = {"stream": True, "return_token_ids": True, "max_tokens": 8 + (number * 7) % 25,
            "ignore_eos": number % 3 > 0}
    if number % 2 == 0:
        body["temperature"] = 0
    else:
        body |= {"temperature": 0.7 + 0.1 * (number % 7), "seed": 1000 + number,
                 "top_p": 1 - 0.05 * (number % 3)}
    if number % 4 < 2:
        body["messages"] = [{"role": "user", "content": f"Story {number}: tell me of {subject}."}]
        return "/v1/chat/completions", body
    body["prompt"] = f"Tale {number}. " + "It was a long day. " * (number % 5) + f"Then {subject}"
    return "/v1/completions", body


async def exchange(port, path, body, tls=None):
    """Sends one request on a connection of its own; returns all bytes of the answer."""
    reader, writer = await asyncio.open_connection("localhost", port, ssl=tls)
    try:
        payload = json.dumps(body).encode()
        writer.write(f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
                     f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
                     .encode() + payload)
        return await reader.read(-1)
    finally:
        writer.close()


def body_of(answer):
    """The body of a chunked answer that is whole; raises ValueError for any other."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        status = head.split(b"\r\n")[0]
        raise ValueError((status + b" " + rest[:300]).decode(errors="replace"))
    body = b""
    while True:
        size_text, found, rest = rest.partition(b"\r\n")
        if not found:
            raise ValueError("the connection closed within the body")
        size = int(size_text, 16)
        if rest[size:size + 2] != b"\r\n":
            raise ValueError("a chunk is cut")
        if size == 0:
            if rest != b"\r\n":
                raise ValueError("bytes after the last chunk")
            return body
        body += rest[:size]
        rest = rest[size + 2:]


def tokens_of(answer):
    """Token ids of a stream; ValueError unless it ended exactly once."""
    events = [block for block in body_of(answer).decode().split("\n\n")
              if block and not block.startswith(":")]
    if events[-1:] != ["data: [DONE]"] or events.count("data: [DONE]") != 1:
        raise ValueError("the stream does not end with one [DONE]")
    tokens, reasons = [], []
    for event in events[:-1]:
        chunk = json.loads(event.removeprefix("data: "))
        if "error" in chunk:
            raise ValueError(json.dumps(chunk["error"]))
        for choice in chunk["choices"]:
            if reasons:
                raise ValueError("a chunk after the finish reason")
            tokens += choice.get("token_ids") or []
            if choice["finish_reason"]:
                reasons.append(choice["finish_reason"])
    if len(reasons) != 1:
        raise ValueError(f"{len(reasons)} finish reasons")
    return tokens


class Load:
    def __init__(self, port, distinct, tls=None, any_tokens=False):
        self.port = port
        self.any_tokens = any_tokens
        self.tls = tls
        self.requests = [make_request(number) for number in range(distinct)]
        self.references = []
        self.counts = collections.Counter()
        self.tokens = 0
        self.seconds = []
        self.complaints = []

    async def compute_references(self):
        for path, body in self.requests:
            self.references.append(tokens_of(await exchange(self.port, path, body, self.tls)))

    async def client(self, seed, end):
        chooser = random.Random(seed)
        while time.monotonic() < end:
            number = chooser.randrange(len(self.requests))
            begun = time.monotonic()
            self.counts["begun"] += 1
            try:
                answer = await asyncio.wait_for(
                    exchange(self.port, *self.requests[number], self.tls), STREAM_SECONDS_MAX)
                tokens = tokens_of(answer)
            except (OSError, ValueError, asyncio.TimeoutError) as error:
                self.counts["lost"] += 1
                self.complaints.append(f"request {number}: {error!r}")
                await asyncio.sleep(0.2)
                continue
            self.counts["done"] += 1
            self.tokens += len(tokens)
            self.seconds.append(time.monotonic() - begun)
            if not self.is_as(tokens, number):
                self.counts["mixed"] += 1
                self.complaints.append(
                    f"request {number}: {tokens} is not {self.references[number]}")

    def is_as(self, tokens, number):
        if not self.any_tokens:
            return tokens == self.references[number]
        body = self.requests[number][1]
        return len(tokens) == body["max_tokens"] if body["ignore_eos"] else 0 < len(tokens)

    async def run(self, clients, seconds):
        end = time.monotonic() + seconds
        await asyncio.gather(*(self.client(seed, end) for seed in range(clients)))


def check_counters(daemon, load):
    """The server's own count of ended requests is that of the clients, and nothing runs."""
    ended = daemon.metric("fathom_requests_total")
    expected = load.counts["done"] + len(load.references)
    problems = []
    if load.counts["lost"] == 0 and ended != expected:
        problems.append(f"the server counts {ended:g} requests, the clients {expected}")
    for gauge in ("fathom_requests_running", "fathom_requests_waiting"):
        try:
            daemon.wait_metric(0, gauge, seconds=5)
        except AssertionError as error:
            problems.append(str(error))
    return problems


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--distinct", type=int, default=40)
    parser.add_argument("--least", type=int, default=1, help="fewest requests that must end")
    parser.add_argument("--any-tokens", action="store_true", help="compare their number alone")
    parser.add_argument("--mtls", action="store_true", help="TLS, with certificates of clients")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pki = make_pki(folder) if options.mtls else None
        return run(options, pki)


def run(options, pki):
    flags = pki.flags() if pki else []
    with Fathomd("--access-log=false", *flags) as daemon:
        tls = pki.context(pki.client) if pki else None
        load = Load(daemon.ports["http"], options.distinct, tls, options.any_tokens)
        asyncio.run(load.compute_references())
        begun = time.monotonic()
        asyncio.run(load.run(options.clients, options.seconds))
        spent = time.monotonic() - begun
        problems = check_counters(daemon, load)
    counts = load.counts
    load.seconds.sort()
    print(f"{options.clients} clients, {spent:.1f} s: {counts['begun']} requests, "
          f"{counts['done']} done, {counts['lost']} lost, {counts['mixed']} mixed; "
          f"{load.tokens / spent:.0f} tokens/s, median {load.seconds[len(load.seconds) // 2]:.1f} s"
          if load.seconds else f"no request of {counts['begun']} was done")
    for complaint in load.complaints[:10] + problems:
        print("  " + complaint)
    good = not load.complaints and not problems and counts["done"] >= options.least
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
