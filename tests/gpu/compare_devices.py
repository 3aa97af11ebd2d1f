"""Compares the CUDA backend with the CPU backend, its oracle, through the daemon on a GPU host.

    python3 tests/gpu/compare_devices.py --bin BIN [--seconds 60] [--out FILE]

1. The demo model's golden prompts, greedy, native numerics: tokens of both devices with the CPU's
   margin between its first and second choice. A position counts when that margin is over 4x the
   largest difference of log-probabilities seen; at least 60 % of positions must count, and all of
   those must be equal.
2. The same on the kernels that GPUs before Hopper have (fathomd_with_faults beside BIN).
3. The same on the GPU with one draft a step: the tokens must not change.
4. Load: streams that join, grow, reject drafts and leave at random for --seconds; each answer
   against the one that the same request got alone. At every position whose context is the same in
   both, the token that was likeliest alone must be as likely within 4x the largest difference of 1:
   what another request's numbers would break. Answers may part where rounding may have decided: a
   greedy choice whose margin was at most that, or a drawn token. What follows such a position is
   not compared; at least 60 % of positions must be.
The daemon's log says at powers of two how many steps were replays of a captured graph.
"""

import argparse
import concurrent.futures
import json
import math
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
NEUTRAL_SEED = 7102  # of a model, to fathomd_with_faults


class Server:
    """fathomd on the demo model and one device; its ports come from its log."""

    def __init__(self, binary, device, drafts=0, seed=0):
        command = [binary, "--model", str(ROOT / "deploy/demo-model"), "--device", device]
        command += ["--port", "0", "--grpc-port", "0", "--admin-port", "0", "--metrics-port", "0"]
        command += ["--speculative-tokens", str(drafts), "--no-access-log", "--seed", str(seed)]
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


def moved(alone, got, i):
    """How far the log-probability of the token that was likeliest alone lies from it under load."""
    token, value = max(alone["logprobs"]["top_logprobs"][i].items(), key=lambda x: x[1])
    return abs(value - got["logprobs"]["top_logprobs"][i].get(token, -math.inf))


class Judge:
    """What answers under load were against those got alone. Called by one client at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.equal = 0
        self.positions = 0
        self.compared = 0
        self.moves = []  # of every position with the same context
        self.parted = []

    def add(self, alone, got, drawn):
        i = parting(alone, got)
        end = len(alone["token_ids"])
        if i is not None and i < min(end, len(got["token_ids"])):
            same = i + 1
        else:
            same = min(end, len(got["token_ids"]))
        moves = [moved(alone, got, at) for at in range(same)]
        with self.lock:
            self.equal += i is None
            self.positions += end
            self.compared += end if i is None else i
            self.moves += moves
            if i is not None:
                self.parted.append(self.describe(alone, got, i, drawn, moves))

    @staticmethod
    def describe(alone, got, i, drawn, moves):
        told = {"drawn": drawn, "position": i, "of": len(alone["token_ids"])}
        if i >= min(len(alone["token_ids"]), len(got["token_ids"])):
            return told | {"ends": True}
        top = sorted(alone["logprobs"]["top_logprobs"][i].items(), key=lambda x: -x[1])
        return told | {
            "alone": [alone["token_ids"][i], alone["logprobs"]["token_logprobs"][i]],
            "loaded": [got["token_ids"][i], got["logprobs"]["token_logprobs"][i]],
            "margin": top_margin(alone, i),
            "moved_here": moves[i],
            "moved_before": max(moves[:i], default=0.0),
            "top": top[:3],
        }


def load(server, cases, seconds, error):
    """Random requests from 64 clients; each answer against the one that was got alone."""
    requests = []
    for i, case in enumerate(cases[:40]):
        requests.append((case["prompt"], 4 + i * 37 % 120, i if i % 3 == 0 else None))
    alone = [server.complete(p, n, logprobs=20, seed=s) for p, n, s in requests]
    deadline = time.monotonic() + seconds
    judge = Judge()

    def client(number):
        order = random.Random(number)
        while time.monotonic() < deadline:
            at = order.randrange(len(requests))
            prompt, tokens, seed = requests[at]
            got = server.complete(prompt, tokens, logprobs=5, seed=seed)
            judge.add(alone[at], got, seed is not None)

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        list(pool.map(client, range(64)))
    return judge


def quantiles(values):
    values = sorted(values)
    at = {"half": 0.5, "90 %": 0.9, "99 %": 0.99, "99.9 %": 0.999, "all": 1.0}
    return {k: values[min(len(values) - 1, int(q * len(values)))] for k, q in at.items()}


def report_of(judge, error, seconds):
    bound = 4 * error
    mixed = [p for p in judge.parted if is_mixed(p, bound)]
    margins = [p["margin"] for p in judge.parted if not p["drawn"] and "margin" in p]
    return {
        "requests": judge.equal + len(judge.parted),
        "equal": judge.equal,
        "mixed": len(mixed),
        "mixed_are": mixed[:10],
        "parted_drawn": sum(p["drawn"] for p in judge.parted),
        "parted_greedy": len(margins),
        "widest_margin_of_those": max(margins, default=0.0),
        "positions": judge.positions,
        "compared_share": judge.compared / max(1, judge.positions),
        "moved": quantiles(judge.moves),
        "bound": bound,
        "strayed": sum(m > bound for m in judge.moves),
        "seconds": seconds,
    }


def is_mixed(parted, bound):
    """Whether two answers part where rounding cannot have decided."""
    if "ends" in parted or parted["moved_here"] > bound:
        return True
    return not parted["drawn"] and parted["margin"] > bound


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
    neutral_server = Server(options.bin + "_with_faults", "cuda", seed=NEUTRAL_SEED)
    report["compare_neutral"] = compare(cases, cpu, answers(neutral_server))
    neutral_server.stop()
    draft_server = Server(options.bin, "cuda", drafts=1)
    drafted = answers(draft_server)
    report["drafts_change"] = sum(a["token_ids"] != b["token_ids"] for a, b in zip(gpu, drafted))
    error = report["compare"]["largest_logprob_error"]
    judge = load(draft_server, cases, options.seconds, error)
    report["load"] = report_of(judge, error, options.seconds)
    log = draft_server.stop()
    report["draft_log"] = [line.strip() for line in log.splitlines() if "steps replayed" in line]
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")
    compared = [report["compare"], report["compare_neutral"]]
    good = all(c["counted_share"] >= 0.6 for c in compared)
    good = good and all(c["counted_equal"] == c["positions_counted"] for c in compared)
    good = good and report["drafts_change"] == 0 and report["load"]["mixed"] == 0
    good = good and report["load"]["strayed"] == 0 and report["load"]["compared_share"] >= 0.6
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    os.environ = {k: v for k, v in os.environ.items() if not k.startswith("FATHOM_")}
    main()
