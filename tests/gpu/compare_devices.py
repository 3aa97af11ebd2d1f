"""Compares the CUDA backend with the CPU backend, its oracle, through the daemon on a GPU host.

    python3 tests/gpu/compare_devices.py --bin BIN [--seconds 60] [--out FILE]

1. The demo model's golden prompts, greedy, native numerics: tokens of both devices with the CPU's
   margin between its first and second choice. A position counts when that margin is over 4x the
   largest difference of log-probabilities seen; at least 60 % of positions must count, and all of
   those must be equal.
2. The same on the GPU with one draft a step: the tokens must not change.
3. Load: streams that join, grow, reject drafts and leave at random for --seconds; each answer must
   equal the one that the same request got alone, up to the first position where rounding may have
   decided: a greedy choice whose margin was at most 4x that largest difference, or a drawn token
   that was among the 20 likeliest alone. What follows such a position is not compared; at least
   60 % of positions must be.
The daemon's log says at powers of two how many steps were replays of a captured graph.
"""

import argparse
import concurrent.futures
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Server:
    """fathomd on the demo model and one device; its ports come from its log."""

    def __init__(self, binary, device, drafts=0):
        command = [binary, "--model", str(ROOT / "deploy/demo-model"), "--device", device]
        command += ["--port", "0", "--grpc-port", "0", "--admin-port", "0", "--metrics-port", "0"]
        command += ["--speculative-tokens", str(drafts), "--no-access-log"]
        command += ["--max-num-seqs", "64", "--max-queued-requests", "512"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.port = None
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        if not self.ready.wait(120):
            raise SystemExit(f"{device}: not ready\n" + "".join(self.lines[-20:]))

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"listening listener=http port=(\d+)", line)
            if found:
                self.port = int(found.group(1))
            if "daemon: ready" in line:
                self.ready.set()

    def complete(self, prompt, tokens, logprobs=None, seed=None):
        body = {"prompt": prompt, "max_tokens": tokens, "return_token_ids": True, "temperature": 0}
        if logprobs is not None:
            body["logprobs"] = logprobs
        if seed is not None:
            body.update(temperature=0.8, top_p=0.9, seed=seed)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["choices"][0]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.reader.join(10)
        return "".join(self.lines)


def top_margin(choice, i):
    best = sorted(choice["logprobs"]["top_logprobs"][i].values(), reverse=True)
    return best[0] - best[1] if len(best) > 1 else 0.0


def compare(cases, cpu, gpu):
    """Positions up to each prompt's first difference, the largest error, and those that count."""
    pairs = []
    error = 0.0
    for a, b in zip(cpu, gpu):
        for i, (x, y) in enumerate(zip(a["token_ids"], b["token_ids"])):
            pairs.append((top_margin(a, i), x == y))
            if x != y:
                break
            error = max(
                error,
                abs(a["logprobs"]["token_logprobs"][i] - b["logprobs"]["token_logprobs"][i]),
            )
    counted = [equal for margin, equal in pairs if margin > 4 * error]
    return {
        "prompts": len(cases),
        "positions": len(pairs),
        "largest_logprob_error": error,
        "positions_counted": len(counted),
        "counted_share": len(counted) / max(1, len(pairs)),
        "counted_equal": sum(counted),
        "all_equal": sum(equal for _, equal in pairs),
    }


def parting(alone, got):
    """The first position where two answers differ, or None."""
    pairs = zip(alone["token_ids"], got["token_ids"])
    for i, (x, y) in enumerate(pairs):
        if x != y:
            return i
    short = min(len(alone["token_ids"]), len(got["token_ids"]))
    return None if len(alone["token_ids"]) == len(got["token_ids"]) else short


def excused(alone, got, i, drawn, error):
    """Whether rounding may have decided position i."""
    if i >= len(alone["token_ids"]) or i >= len(got["token_ids"]):
        return False
    if drawn:
        return got["logprobs"]["tokens"][i] in alone["logprobs"]["top_logprobs"][i]
    return top_margin(alone, i) <= 4 * error


def load(server, cases, seconds, error):
    """Random requests from 64 clients; each answer against the one that was got alone."""
    requests = []
    for i, case in enumerate(cases[:40]):
        requests.append((case["prompt"], 4 + i * 37 % 120, i if i % 3 == 0 else None))
    alone = [server.complete(p, n, logprobs=20, seed=s) for p, n, s in requests]
    deadline = time.monotonic() + seconds
    seen = []  # of each answer: equal, mixed, positions compared, positions

    def client(number):
        order = random.Random(number)
        while time.monotonic() < deadline:
            at = order.randrange(len(requests))
            prompt, tokens, seed = requests[at]
            got = server.complete(prompt, tokens, logprobs=1, seed=seed)
            i = parting(alone[at], got)
            all_of = len(alone[at]["token_ids"])
            if i is None:
                seen.append((1, 0, all_of, all_of))
            else:
                wrong = not excused(alone[at], got, i, seed is not None, error)
                seen.append((0, int(wrong), i, all_of))

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        list(pool.map(client, range(64)))
    equal, mixed, compared, positions = map(sum, zip(*seen))
    return {
        "requests": len(seen),
        "equal": equal,
        "mixed": mixed,
        "positions": positions,
        "compared_share": compared / max(1, positions),
        "seconds": seconds,
    }


def speed(server, cases):
    prompt = cases[0]["prompt"]
    begin = time.monotonic()
    made = len(server.complete(prompt, 256, seed=1)["token_ids"])
    return made / (time.monotonic() - begin)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out")
    options = parser.parse_args()
    cases = json.loads((ROOT / "tests/demo/goldens/greedy.json").read_text())["cases"]

    def answers(server):
        return [server.complete(c["prompt"], 48, logprobs=2) for c in cases]

    cpu_server = Server(options.bin, "cpu")
    cpu = answers(cpu_server)
    cpu_server.stop()
    gpu_server = Server(options.bin, "cuda")
    gpu = answers(gpu_server)
    report = {"compare": compare(cases, cpu, gpu), "tokens_per_s": speed(gpu_server, cases)}
    log = gpu_server.stop()
    report["plain_log"] = [line.strip() for line in log.splitlines() if "steps replayed" in line]
    draft_server = Server(options.bin, "cuda", drafts=1)
    drafted = answers(draft_server)
    report["drafts_change"] = sum(a["token_ids"] != b["token_ids"] for a, b in zip(gpu, drafted))
    error = report["compare"]["largest_logprob_error"]
    report["load"] = load(draft_server, cases, options.seconds, error)
    log = draft_server.stop()
    report["draft_log"] = [line.strip() for line in log.splitlines() if "steps replayed" in line]
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")
    c = report["compare"]
    good = c["counted_share"] >= 0.6 and c["counted_equal"] == c["positions_counted"]
    good = good and report["drafts_change"] == 0 and report["load"]["mixed"] == 0
    good = good and report["load"]["compared_share"] >= 0.6
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    os.environ = {k: v for k, v in os.environ.items() if not k.startswith("FATHOM_")}
    main()
