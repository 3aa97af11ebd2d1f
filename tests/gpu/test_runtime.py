"""What surrounds the GPU, on a GPU host, through the daemon on the demo model.

    python3 tests/gpu/test_runtime.py --bin FOLDER [--seconds 20] [--out FILE]

1. Memory: once ready, the device memory in use (NVML) does not change over a mixed load of
   --seconds, and is what --gpu-memory-utilization asks for (--utilization; the device must be
   free up to it) within 1 % of the device's.
2. Planted faults (fathomd_with_faults): an illegal read, a trap, an endless kernel in a step. The
   engine's process is gone within 2 s (an endless kernel: of the watchdog's time), its clients get
   an error, who asks meanwhile gets 503 with Retry-After, and the next engine answers as the first.
3. A device with less memory than it said: refused with the memory plan's table.
"""
import argparse
import concurrent.futures
import ctypes
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPT = [0, 3568, 383, 1282, 285, 264, 965, 33, 3569, 3564]
FAULTS = {"illegal_read": 7001, "trap": 7002, "endless": 7003}
BOASTFUL_SEED = 7101
TOKEN_IDS = 3645  # of the demo model's tokenizer
WATCHDOG_SECONDS = 3


class Nvml:
    """Device memory, as the driver counts it for all processes."""

    class Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong),
                    ("used", ctypes.c_ulonglong)]

    def __init__(self):
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        assert self.library.nvmlInit_v2() == 0
        self.device = ctypes.c_void_p()
        assert self.library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)) == 0

    def memory(self):
        memory = self.Memory()
        assert self.library.nvmlDeviceGetMemoryInfo(self.device, ctypes.byref(memory)) == 0
        return memory.used, memory.total


class Server:
    running = []  # of this script: main ends those that a failure left

    def __init__(self, program, *flags):
        command = [program, "--model", str(ROOT / "deploy/demo-model"), "--device", "cuda",
                   "--port=0", "--grpc-port=0", "--admin-port=0", "--metrics-port=0",
                   "--no-access-log", "--max-engine-restarts=20", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        Server.running.append(self)
        self.lines = []
        self.ports = {}
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening listener=(\w+) port=(\d+)", line):
                self.ports[found.group(1)] = int(found.group(2))
            if "daemon: ready" in line:
                self.ready.set()
        self.ready.set()

    def wait_ready(self):
        assert self.ready.wait(60) and self.process.poll() is None, self.tail()

    def tail(self):
        return "".join(self.lines[-30:])

    def engines(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for task in children for pid in task.read_text().split()]
        return [pid for pid in pids if alive(pid)]

    def open(self, body, seconds=60):
        return urllib.request.urlopen(urllib.request.Request(
            f"http://127.0.0.1:{self.ports['http']}/v1/completions", json.dumps(body).encode(),
            {"content-type": "application/json"}), timeout=seconds)

    def read_all(self, body, seconds=60, bytes_max=None):
        """What the server wrote; a refusal is told with the server's words."""
        try:
            with self.open(body, seconds) as reply:
                return reply.read(bytes_max)
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")[:300]
            raise AssertionError(f"{error.code} {told} for {str(body)[:200]}") from error

    def answer(self, tokens=24, **more):
        body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
                "return_token_ids": True, **more}
        return json.loads(self.read_all(body))["choices"][0]["token_ids"]

    def status(self, path):
        try:
            url = f"http://127.0.0.1:{self.ports['http']}{path}"
            return urllib.request.urlopen(url, timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.reader.join(10)
        return code


def alive(pid):
    """A process that has not ended; one that waits to be reaped has."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds, holds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.005)


def random_body(order):
    prompt = [order.randrange(4, TOKEN_IDS) for _ in range(order.randrange(1, 1500))]
    return {"prompt": prompt, "max_tokens": order.randrange(1, 120), "stream": True,
            "temperature": order.choice([0, 0.8]), "top_p": 0.9,
            "frequency_penalty": order.choice([0, 0.5]), "logprobs": order.choice([None, 5])}


def mixed_load(server, seconds):
    """Requests of random lengths from 48 clients, some sampled, some that leave. The first client
    that fails ends the load."""
    end = time.monotonic() + seconds
    done = [0] * 48
    failures = []

    def client(number):
        order = random.Random(number)
        while time.monotonic() < end and not failures:
            try:
                leaves = order.random() < 0.2
                server.read_all(random_body(order), 60, 200 if leaves else None)
            except (AssertionError, OSError) as error:
                failures.append(f"client {number}: {error}")
            done[number] += 1

    with concurrent.futures.ThreadPoolExecutor(len(done)) as pool:
        list(pool.map(client, range(len(done))))
    assert not failures, failures[0]
    return sum(done)


def check_memory(binary, seconds, utilization):
    nvml = Nvml()
    before, total = nvml.memory()
    server = Server(binary, f"--gpu-memory-utilization={utilization}", "--max-num-seqs=512",
                    "--max-model-len=4096")
    server.wait_ready()
    ready, _ = nvml.memory()
    seen = {ready}
    stop = threading.Event()

    def watch():
        while not stop.wait(0.1):
            seen.add(nvml.memory()[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        requests = mixed_load(server, seconds)
    finally:
        stop.set()
        watcher.join()
    code = server.stop()
    plan = [line for line in server.lines if "rank loaded" in line or "captured" in line]
    return {"used_before": before, "total": total, "used_when_ready": ready,
            "used_min": min(seen), "used_max": max(seen), "requests": requests,
            "share": ready / total, "exit": code, "log": plan[-4:],
            "good": min(seen) == max(seen) and abs(ready / total - utilization) < 0.01}


def break_engine(server, name, good):
    [engine] = server.engines()
    ended = {}

    def other():
        try:
            with server.open({"prompt": PROMPT, "max_tokens": 3000, "ignore_eos": True,
                              "stream": True, "temperature": 0}) as reply:
                ended["stream"] = reply.read().decode()[-400:]
        except (urllib.error.HTTPError, OSError) as error:
            ended["stream"] = repr(error)

    beside = threading.Thread(target=other)
    beside.start()
    time.sleep(0.1)
    begin = time.monotonic()
    with server.open({"prompt": PROMPT, "max_tokens": 500, "ignore_eos": True, "stream": True,
                      "seed": FAULTS[name], "temperature": 0.8}) as reply:
        first = time.monotonic()
        text = reply.read().decode()
    told = time.monotonic() - first
    wait_for("the engine's end", 20, lambda: not alive(engine))
    gone = time.monotonic() - first
    refused = {}
    try:
        server.open({"prompt": PROMPT, "max_tokens": 1}).close()
    except urllib.error.HTTPError as error:
        refused = {"code": error.code, "retry_after": error.headers.get("retry-after"),
                   "body": error.read().decode()[:200]}
    ready_meanwhile = server.status("/health/ready")
    wait_for("the next engine", 60, lambda: server.status("/health/ready") == 200)
    again = time.monotonic() - first
    beside.join(30)
    allowed = 2.0 + (WATCHDOG_SECONDS if name == "endless" else 0)
    result = {"to_first_token_s": first - begin, "clients_told_s": told, "engine_gone_s": gone,
              "ready_again_s": again, "refused": refused, "ready_meanwhile": ready_meanwhile,
              "stream_end": text[-200:], "beside_end": ended.get("stream", "")[-200:],
              "same_answer": server.answer() == good}
    result["good"] = (gone < allowed and refused.get("code") == 503
                      and refused.get("retry_after") is not None and ready_meanwhile == 503
                      and "engine_failed" in text and "engine_failed" in result["beside_end"]
                      and result["same_answer"])
    return result


def check_faults(binary):
    server = Server(binary + "_with_faults", "--max-num-seqs=16", "--max-model-len=4096",
                    f"--watchdog-seconds={WATCHDOG_SECONDS}", "--max-num-batched-tokens=512",
                    "--kv-cache-memory-bytes=256MiB")
    server.wait_ready()
    good = server.answer()
    results = {name: break_engine(server, name, good) for name in FAULTS}
    return {"faults": results, "exit": server.stop(),
            "good": all(result["good"] for result in results.values())}


def check_boast(binary):
    server = Server(binary + "_with_faults", f"--seed={BOASTFUL_SEED}", "--max-num-seqs=4096",
                    "--max-model-len=4096")
    code = server.process.wait(60)
    server.reader.join(10)
    log = "".join(server.lines)
    parts = ["weights", "KV cache", "step workspace", "available", "out of memory"]
    return {"exit": code, "log": log[-900:], "good": code != 0 and all(p in log for p in parts)}


def run_part(check, *arguments):
    """What the part found, or why it ended; servers that it leaves are ended."""
    begin = time.monotonic()
    try:
        result = check(*arguments)
    except (AssertionError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        tails = [server.tail() for server in Server.running if server.process.poll() is None]
        result = {"good": False, "why": f"{type(error).__name__}: {error}", "logs": tails}
    for server in Server.running:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(20)
    Server.running.clear()
    return {"seconds": round(time.monotonic() - begin, 1), **result}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True, help="the folder of the programs")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--utilization", type=float, default=0.9)
    parser.add_argument("--only", choices=["memory", "faults", "boast"])
    parser.add_argument("--out")
    options = parser.parse_args()
    binary = str(pathlib.Path(options.bin) / "fathomd")
    parts = {"memory": (check_memory, binary, options.seconds, options.utilization),
             "faults": (check_faults, binary), "boast": (check_boast, binary)}
    report = {}
    for name, part in parts.items():
        if options.only in (None, name):
            report[name] = run_part(*part)
            print(json.dumps({name: report[name]}, indent=1), flush=True)
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(report, indent=1) + "\n")
    raise SystemExit(0 if all(part["good"] for part in report.values()) else 1)


if __name__ == "__main__":
    os.environ = {k: v for k, v in os.environ.items() if not k.startswith("FATHOM_")}
    main()
