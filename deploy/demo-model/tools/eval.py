"""Figures of the demo model through Fathom: perplexity, recall of a key, drafts.

    python3 eval.py --bin build/release/bin [--device cuda [--against cpu]] [--out FILE]

With --against, perplexity in native numerics on that device too: over 0.5 % apart is a failure.
Standard library only. Perplexity is defined in ../metrics.json; the reference figures stand there
too. The recall prompts are those of tests/demo/goldens/recall.json (their keys are checked).
"""

import argparse
import hashlib
import json
import math
import random
import re
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import recall

MODEL = Path(__file__).absolute().parents[1]  # in a bundle a link
GOLDENS = MODEL.parents[1] / "tests/demo/goldens"


class Server:
    """fathomd on the demo model; ports come from its log."""

    def __init__(self, binary, *flags):
        command = [str(binary), "--model", str(MODEL), "--no-access-log", *flags]
        for listener in ("port", "grpc-port", "admin-port", "metrics-port"):
            command += [f"--{listener}", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.ports = {}
        ready = threading.Event()

        def read():
            for line in self.process.stderr:
                found = re.search(r"listening listener=(\w+) port=(\d+)", line)
                if found:
                    self.ports[found.group(1)] = int(found.group(2))
                if "daemon: ready" in line:
                    ready.set()

        threading.Thread(target=read, daemon=True).start()
        if not ready.wait(60):
            self.stop()
            raise SystemExit("fathomd is not ready after 60 s")

    def post(self, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['http']}{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics") as answer:
            text = answer.read().decode()
        return float(re.search(rf"^{name}{{[^}}]*}} (\S+)$", text, re.M).group(1))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def perplexity(server):
    total, tokens = 0.0, 0
    for line in (MODEL / "heldout.jsonl").read_text().splitlines():
        body = {"prompt": json.loads(line)["text"], "max_tokens": 0, "echo": True, "logprobs": 0}
        values = server.post("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
        total -= sum(values[1:])
        tokens += len(values) - 1
    return {"perplexity": math.exp(total / tokens), "tokens": tokens}


def recalled(server):
    golden = json.loads((GOLDENS / "recall.json").read_text())
    order = random.Random(golden["seed"])

    def count(text):
        return server.post("/tokenize", {"messages": [{"role": "user", "content": text}]})["count"]

    prompts = [
        recall.prompt(order, count, golden["tokens_at_least"]) for _ in range(golden["prompts"])
    ]
    assert [key for _, key in prompts] == golden["keys"], "not the golden recall prompts"
    exact = 0
    for user, key in prompts:
        body = {
            "messages": [{"role": "user", "content": user}],
            "max_tokens": 40,
            "temperature": 0,
        }
        answer = server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
        exact += key in answer
    return {"exact": exact, "prompts": len(prompts)}


def drafts(binary, *flags):
    """50 golden prompts, greedy, without and with one draft a step."""
    cases = json.loads((GOLDENS / "greedy.json").read_text())["cases"]
    seconds, answers, figures = [], [], {}
    for wanted in ("0", "1"):
        server = Server(binary, "--speculative-tokens", wanted, *flags)
        begin = time.monotonic()
        answers.append(
            [
                server.post(
                    "/v1/completions",
                    {"prompt": c["prompt"], "max_tokens": 96, "temperature": 0,
                     "return_token_ids": True},
                )["choices"][0]["token_ids"]
                for c in cases
            ]
        )
        seconds.append(time.monotonic() - begin)
        if wanted == "1":
            time.sleep(1)
            drafted = server.metric("fathom_spec_draft_tokens_total")
            figures["acceptance"] = server.metric("fathom_spec_accepted_tokens_total") / drafted
        server.stop()
    figures["speed_up"] = seconds[0] / seconds[1]
    figures["answers_changed"] = sum(a != b for a, b in zip(*answers))
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--against", metavar="DEVICE")
    parser.add_argument("--out")
    options = parser.parse_args()
    binary = options.bin / "fathomd"
    device = ("--device", options.device)
    heldout = hashlib.sha256((MODEL / "heldout.jsonl").read_bytes()).hexdigest()
    report = {"heldout_sha256": heldout}
    runs = [("reference", "reference", options.device), ("native", "native", options.device)]
    if options.against:
        runs.append((f"native on {options.against}", "native", options.against))
    for name, numerics, where in runs:
        server = Server(binary, "--numerics", numerics, "--allow-control-tokens", "--device", where)
        report[name] = perplexity(server)
        server.stop()
        print(name, report[name], flush=True)
    report["drafts"] = drafts(binary, *device)
    print("drafts", report["drafts"], flush=True)
    server = Server(binary, *device)
    report["recall"] = recalled(server)
    server.stop()
    print(json.dumps(report, indent=1))
    if options.out:
        Path(options.out).write_text(json.dumps(report, indent=1) + "\n")
    if options.against:
        there = report[f"native on {options.against}"]["perplexity"]
        apart = abs(report["native"]["perplexity"] / there - 1)
        if apart > 0.005:
            raise SystemExit(f"perplexity is {100 * apart:.2f} % from that on {options.against}")


if __name__ == "__main__":
    main()
