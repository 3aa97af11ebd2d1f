"""Times that one client feels: fathomd on a model of generated weights, and raw sockets.

    python3 benchmarks/latency_bench.py --bin FOLDER --preset llama-8b --dtype bf16 \
        --cases ttft:230,cached:50000,cached_text:50000,beside:32768

ttft:N         a prompt of N random tokens on an idle server, until the first token; 20 rounds
cached:N       the same for a prompt that the prefix cache holds wholly, sent as token ids
cached_text:N  and sent as text, which the front end tokenizes
beside:N       --streams answers, and a prompt of N tokens that comes between: the gaps of the
               streams from then to its first token, over their median before it
One JSON on standard output (and to --out).
"""
import argparse
import datetime
import gc
import json
import pathlib
import random
import selectors
import shutil
import socket
import tempfile
import threading
import time
import urllib.request

from serve_bench import Server, gpu_state, make_model

WORDS = ("the river runs past an old stone mill where four children count boats and the miller "
         "reads long letters about winter markets garden tools apples honey bread and small brass "
         "keys that open quiet doors while evening light falls over fields of barley").split()


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def completion(body):
    """The request for a streamed completion, as bytes; the server closes after it."""
    content = json.dumps({"stream": True, "temperature": 0, "ignore_eos": True, **body}).encode()
    head = ("POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n")
    return head.encode() + content


def events_in(data):
    return data.count(b'"choices":[{')


def require_ok(head):
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(head.decode(errors="replace"))


def ask(port, request, seconds):
    """Milliseconds from a request to its first event, by calls that block: a thread that reads
    streams meanwhile goes on."""
    first = None
    data = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        begun = time.perf_counter()
        connection.sendall(request)
        while got := connection.recv(1 << 16):
            data += got
            if first is None and events_in(data):
                first = 1e3 * (time.perf_counter() - begun)
    require_ok(data)
    if first is None or b"data: [DONE]" not in data:
        raise ValueError("an answer was cut, or had no token")
    return first


class Streams:
    """Streamed completions read by one thread that does nothing else, some microseconds an event:
    128 streams have 17,000 events a second, and a reader that is late makes gaps of its own."""

    def __init__(self, port, bodies):
        self.times = []  # of each stream's events
        self.poll = selectors.DefaultSelector()
        for body in bodies:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(completion(body))
            self.poll.register(connection, selectors.EVENT_READ, data=None)

    def read_until(self, done, seconds):
        end = time.perf_counter() + seconds
        while not done():
            if time.perf_counter() > end:
                raise ValueError(f"streams were read for {seconds} s in vain")
            for key, _ in self.poll.select(0.01):
                data = key.fileobj.recv(1 << 16)
                now = time.perf_counter()
                if not data:
                    raise ValueError("a stream ended, or was cut")
                if key.data is None:
                    require_ok(data)
                    self.times.append([])
                    key = self.poll.modify(key.fileobj, selectors.EVENT_READ, self.times[-1])
                key.data.extend([now] * events_in(data))

    def read_for(self, seconds):
        end = time.perf_counter() + seconds
        self.read_until(lambda: time.perf_counter() >= end, seconds + 1)

    def all_answer(self):
        return len(self.times) == len(self.poll.get_map()) and all(self.times)

    def gaps_ms(self, begin, end):
        """Of pairs of events of a stream, of which the second came within [begin, end]."""
        return [1e3 * (b - a) for times in self.times for a, b in zip(times, times[1:])
                if begin <= b <= end]

    def close(self):
        for key in list(self.poll.get_map().values()):
            key.fileobj.close()
        self.poll.close()


def ids(count, seed):
    order = random.Random(seed)
    return [order.randrange(10, 3600) for _ in range(count)]


def text(port, count, seed):
    """Words of about `count` tokens, as the server counts them."""
    order = random.Random(seed)
    words = [order.choice(WORDS) for _ in range(count)]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/tokenize",
                                     json.dumps({"prompt": " ".join(words)}).encode(),
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        tokens = len(json.load(answer)["tokens"])
    return " ".join(words[:count * count // tokens])


def times_to_first(port, prompts, seconds):
    requests = [completion({"prompt": prompt, "max_tokens": 1}) for prompt in prompts]
    return [ask(port, request, seconds) for request in requests]


def summary(name, found):
    return {"case": name, "rounds": len(found), "ms_p50": percentile(found, 0.5),
            "ms_p90": percentile(found, 0.9), "ms_min": min(found), "ms_max": max(found)}


def measure_first(port, name, count, options):
    prompts = [ids(count, seed) for seed in range(options.rounds + 3)]
    return summary(name, times_to_first(port, prompts, options.seconds)[3:])


def measure_cached(port, name, prompt, options):
    found = times_to_first(port, [prompt] * (options.rounds + 2), options.seconds)
    return {**summary(name, found[2:]), "first_ms": found[0]}


def beside(streams, port, request, seconds):
    """Reads the streams while the prompt is computed: the gaps meanwhile, and its time to a first
    token."""
    first = []
    failed = []

    def send():
        try:
            first.append(ask(port, request, seconds))
        except (OSError, ValueError) as error:
            failed.append(error)

    sender = threading.Thread(target=send, daemon=True)
    begin = time.perf_counter()
    sender.start()
    streams.read_until(lambda: not sender.is_alive(), seconds)
    if failed:
        raise failed[0]
    return streams.gaps_ms(begin, time.perf_counter()), first[0]


def measure_beside(port, name, count, options):
    answer = min(4096, options.max_model_len - 64)  # cut when all is measured
    # Made before anything is timed: that alone would hold up the streams' reader.
    requests = [completion({"prompt": ids(count, seed), "max_tokens": 1})
                for seed in range(options.beside_rounds)]
    streams = Streams(port, [{"prompt": ids(64, 1000 + i), "max_tokens": answer}
                             for i in range(options.streams)])
    gc.collect()
    gc.disable()  # a full collection holds up the reader for 10 ms and more
    rounds = []
    try:
        streams.read_until(streams.all_answer, 60)
        streams.read_for(0.5)
        for request in requests:  # each beside what comes before it: contexts grow
            calm = time.perf_counter()
            streams.read_for(options.calm_seconds)
            before = streams.gaps_ms(calm, time.perf_counter())
            streams.read_for(0.1)
            gaps, first_ms = beside(streams, port, request, options.seconds)
            rounds.append({"calm_ms_p50": percentile(before, 0.5),
                           "calm_ms_p99": percentile(before, 0.99),
                           "during_ms_p50": percentile(gaps, 0.5),
                           "during_ms_p99": percentile(gaps, 0.99),
                           "during_ms_max": max(gaps), "prompt_ttft_ms": first_ms})
            streams.read_for(0.2)
    finally:
        gc.enable()
        streams.close()
    ratios = [r["during_ms_p99"] / r["calm_ms_p50"] for r in rounds]
    return {"case": name, "streams": options.streams, "prompt_tokens": count,
            "rounds": len(ratios), "times_median": percentile(ratios, 0.5), "each": ratios,
            **{key: percentile([r[key] for r in rounds], 0.5) for key in rounds[0]}}


def measure(port, case, options):
    kind, _, number = case.partition(":")
    count = int(number)
    if kind == "beside":
        return measure_beside(port, case, count, options)

    if kind == "ttft":
        return measure_first(port, case, count, options)
    if kind == "cached":
        return measure_cached(port, case, ids(count, 7), options)
    if kind == "cached_text":
        return measure_cached(port, case, text(port, count, 7), options)
    raise SystemExit(f"unknown case {case}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--preset", default="v2-lite", help="of fathomctl synth")
    parser.add_argument("--dtype", help="of fathomctl synth: bf16, fp8")
    parser.add_argument("--model", help="a checkpoint's folder instead")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", default="ttft:230", help="with commas")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--beside-rounds", type=int, default=5)
    parser.add_argument("--calm-seconds", type=float, default=0.5)
    parser.add_argument("--max-model-len", type=int, default=65536)
    parser.add_argument("--seconds", type=float, default=120, help="until ready; for each case")
    parser.add_argument("--flags", default="", help="more flags of fathomd, with spaces")
    parser.add_argument("--out", type=pathlib.Path)
    return parser.parse_args()


def main():
    options = parse()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fathom-latency-"))
    flags = [*make_model(options, folder), "--device", options.device,
             "--max-model-len", str(options.max_model_len), *options.flags.split()]
    server = Server(options.bin / "fathomd", flags)
    report = {"date": datetime.date.today().isoformat(), "what": "latency",
              "model": options.model or options.preset, "dtype": options.dtype,
              "gpu": gpu_state(), "flags": flags[2:] if options.model is None else flags,
              "cases": []}
    try:
        server.wait_ready(options.seconds)
        report["seconds_to_ready"] = server.seconds_to_ready
        for case in options.cases.split(","):
            try:
                found = measure(server.port, case, options)
            except (OSError, ValueError, IndexError) as error:
                found = {"case": case, "error": repr(error)[:500]}
            report["cases"].append(found)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    output = json.dumps(report, indent=1)
    print(output)
    if options.out:
        options.out.write_text(output + "\n")
    raise SystemExit(1 if any("error" in case for case in report["cases"]) else 0)


if __name__ == "__main__":
    main()
