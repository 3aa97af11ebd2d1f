"""Serving, as clients see it: fathomd on a model of generated weights, and `fathomctl bench serve`.

    python3 benchmarks/serve_bench.py --bin FOLDER --preset v2-lite --dtype fp8 --clients 256,1024

Prompts are random tokens, no two alike; every answer has --output tokens (no end of sequence). For
each number of clients: --waves requests a client, all clients beginning at once; --cut SECONDS ends
answers then, and counts what came. Short requests go before, for warming up. One JSON on standard
output (and to --out, after each number): output tokens/s, TTFT and ITL with p50 and p99, and what
the GPU's clocks and power were meanwhile. --model DIR takes a checkpoint instead of generated
weights; --tls serves over TLS, to clients with certificates.
"""
import argparse
import ctypes
import datetime
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def extend_tokenizer(folder):
    """Gives the demo tokenizer as many tokens as the model has: the sampler looks at all."""
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    ids = set(tokenizer["model"]["vocab"].values())
    ids |= {token["id"] for token in tokenizer["added_tokens"]}
    for token in range(vocab):
        if token not in ids:
            tokenizer["model"]["vocab"][f"unused{token}"] = token
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))


def make_pki(folder):
    """Certificates as the end-to-end tests make them, with the openssl program."""
    sys.path.insert(0, str(ROOT / "tests/e2e"))
    import pki
    return pki.make_pki(folder)


def make_model(options, folder, written=False):
    """A folder with config.json and a tokenizer, and the flags that make fathomd take it; where
    `written`, weights too, which fathomd otherwise makes as it loads."""
    if options.model:
        return ["--model", options.model]
    command = [str(options.bin / "fathomctl"), "synth", str(folder),
               "--preset", options.preset, "--tokenizer", str(ROOT / "deploy/demo-model")]
    if options.dtype:
        command += ["--dtype", options.dtype]
    if not written:
        command += ["--config-only"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    extend_tokenizer(folder)
    return ["--model", str(folder), *([] if written else ["--load-format", "synthetic"])]


def die_with_parent():
    """In the child: a benchmark that is killed leaves no server behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Server:
    """fathomd; its ports come from its log."""

    def __init__(self, program, flags):
        command = [str(program), "--port=0", "--grpc-port=0", "--admin-port=0", "--metrics-port=0",
                   "--no-access-log", "--request-deadline-seconds=3600", *flags]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FATHOM_")}
        self.begin = time.monotonic()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=clean,
                                        preexec_fn=die_with_parent)
        self.lines = []
        self.port = None
        self.ready = threading.Event()
        self.seconds_to_ready = None
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening listener=http port=(\d+)", line):
                self.port = int(found.group(1))
            if "daemon: ready" in line:
                self.seconds_to_ready = time.monotonic() - self.begin
                self.ready.set()
        self.ready.set()

    def wait_ready(self, seconds):
        if not self.ready.wait(seconds) or self.process.poll() is not None:
            raise SystemExit("fathomd is not ready\n" + "".join(self.lines[-30:]))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def gpu_state():
    """Name, driver, clocks in MHz and power in W of the first GPU; empty without one."""
    keys = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"
    try:
        ran = subprocess.run(["nvidia-smi", "-i", "0", f"--query-gpu={keys}",
                              "--format=csv,noheader,nounits"], capture_output=True, text=True)
    except OSError:
        return {}
    values = ran.stdout.strip().split(", ")
    return dict(zip(keys.split(","), values)) if ran.returncode == 0 else {}


def watch_gpu(stop, seen):
    while not stop.wait(2):
        if state := gpu_state():
            seen.append(state)


def middle(values):
    return sorted(values)[len(values) // 2] if values else None


def url_flags(options, server):
    if options.pki is None:
        return ["--url", f"http://127.0.0.1:{server.port}"]
    return ["--url", f"https://localhost:{server.port}", "--tls-ca", str(options.pki.ca.cert),
            "--tls-cert", str(options.pki.client.cert), "--tls-key", str(options.pki.client.key)]


def bench_command(options, server, clients, requests, output, seed):
    return [str(options.bin / "fathomctl"), "bench", "serve", "--json",
            *url_flags(options, server), "--clients", str(clients),
            "--requests", str(requests), "--seed", str(seed),
            "--input-tokens", str(options.input), "--output-tokens", str(output)]


def warm_up(options, server):
    if options.warmup > 0:
        command = bench_command(options, server, min(16, options.warmup), options.warmup, 16, 1)
        subprocess.run(command, capture_output=True, timeout=options.seconds)


def run_clients(options, server, clients):
    command = bench_command(options, server, clients, int(clients * options.waves),
                            options.output, clients)
    if options.cut:
        command += ["--stop-after", str(options.cut)]
    stop, seen = threading.Event(), []
    watcher = threading.Thread(target=watch_gpu, args=(stop, seen))
    watcher.start()
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds)
    except subprocess.TimeoutExpired:
        return {"clients": clients, "error": f"not done within {options.seconds} s"}
    finally:
        stop.set()
        watcher.join()
    try:
        result = json.loads(ran.stdout)
    except ValueError:
        return {"clients": clients, "error": (ran.stdout + ran.stderr)[-500:]}
    result.pop("parameters", None)
    result["clients"] = clients
    result["cut_after_seconds"] = options.cut
    result["gpu_while_it_ran"] = {key: middle([float(s[key]) for s in seen])
                                  for key in ("clocks.sm", "clocks.mem", "power.draw")}
    return result


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--preset", default="v2-lite", help="of fathomctl synth")
    parser.add_argument("--dtype", help="of fathomctl synth: bf16, fp8")
    parser.add_argument("--model", help="a checkpoint's folder instead")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--clients", default="256", help="numbers, with commas")
    parser.add_argument("--input", type=int, default=1000)
    parser.add_argument("--output", type=int, default=1000)
    parser.add_argument("--waves", type=float, default=2, help="measured requests a client")
    parser.add_argument("--cut", type=float, help="seconds after which answers are cut")
    parser.add_argument("--warmup", type=int, default=16, help="short requests before")
    parser.add_argument("--seconds", type=float, default=600, help="for each number of clients")
    parser.add_argument("--flags", default="", help="more flags of fathomd, with spaces")
    parser.add_argument("--tls", action="store_true", help="TLS, with certificates of clients")
    parser.add_argument("--out", type=pathlib.Path)
    return parser.parse_args()


def allow_connections():
    """As many files as the host lets a process have, for programs that are started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main():
    options = parse()
    allow_connections()
    numbers = [int(word) for word in options.clients.split(",")]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fathom-serve-"))
    flags = [*make_model(options, folder), "--device", options.device,
             "--max-num-seqs", str(max(numbers)), "--max-queued-requests", str(2 * max(numbers)),
             "--max-queued-tokens", str(4 * max(numbers) * options.input),
             "--max-model-len", str(options.input + options.output + 64),
             "--no-enable-prefix-caching", *options.flags.split()]
    options.pki = make_pki(folder) if options.tls else None
    if options.pki:
        flags += options.pki.flags()
    server = Server(options.bin / "fathomd", flags)
    report = {"date": datetime.date.today().isoformat(), "what": "serve",
              "model": options.model or options.preset, "dtype": options.dtype,
              "input_tokens": options.input, "output_tokens": options.output,
              "gpu": gpu_state(), "flags": flags, "runs": []}
    try:
        server.wait_ready(options.seconds)
        report["seconds_to_ready"] = server.seconds_to_ready
        report["log"] = [line.strip() for line in server.lines
                         if "rank loaded" in line or "engine: ready" in line]
        warm_up(options, server)
        for clients in numbers:
            run = run_clients(options, server, clients)
            report["runs"].append(run)
            print(f"{clients} clients: {run.get('output_tokens_per_second', run.get('error'))} "
                  "output tokens/s", file=sys.stderr)
            if options.out:
                options.out.write_text(json.dumps(report, indent=1) + "\n")
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    raise SystemExit(0 if all("error" not in run and run.get("failed") == 0
                              for run in report["runs"]) else 1)


if __name__ == "__main__":
    main()
