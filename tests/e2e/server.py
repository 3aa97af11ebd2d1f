"""Starts the real fathomd on ports that the kernel chooses, and reads what it logs.

E2E_FATHOMD names the program (CTest sets it); E2E_MODEL another checkpoint than the demo model,
for sanitized builds, and E2E_ARGS further flags.
"""
import json
import os
import pathlib
import queue
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("E2E_FATHOMD", str(ROOT / "build/release/bin/fathomd"))
START_SECONDS = 120
LISTENERS = ("http", "admin", "metrics", "grpc")


def model_args():
    """Flags that choose the checkpoint: none for the demo model."""
    model = os.environ.get("E2E_MODEL")
    return (["--model", model] if model else []) + shlex.split(os.environ.get("E2E_ARGS", ""))


class Fathomd:
    """One daemon; a context manager that ends it, and fails if it does not end well."""

    def __init__(self, *args, env=None, wait=True, expect_exit=0):
        command = [PROGRAM, *model_args(), "--port=0", "--grpc-port=0", "--admin-port=0",
                   "--metrics-port=0", "--log-format=json", *args]
        self.expect_exit = expect_exit
        self.tls = None
        self.lines = []
        self.ports = {}
        self._ready = threading.Event()
        self._events = queue.Queue()
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FATHOM_")}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                        env={**clean, **(env or {})})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            try:
                self.wait_ready()
            except AssertionError:
                self.process.kill()
                raise

    def _read(self):
        for raw in self.process.stderr:
            line = raw.decode(errors="replace").rstrip()
            self.lines.append(line)
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("msg") == "listening":
                self.ports[entry["listener"]] = entry["port"]
            if (entry.get("component"), entry.get("msg")) == ("daemon", "ready"):
                self._ready.set()
        self._ready.set()

    def wait_ready(self):
        assert self._ready.wait(START_SECONDS), self.log()
        assert self.process.poll() is None and len(self.ports) == len(LISTENERS), self.log()

    def log(self):
        return "\n".join(self.lines[-60:])

    def entries(self, message):
        """Log entries whose msg is `message`."""
        found = []
        for line in self.lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("msg") == message:
                found.append(entry)
        return found

    def entry_of(self, message, request_id, seconds=10):
        """The one log entry of a request; it may be written after the answer was read."""
        deadline = time.monotonic() + seconds
        while True:
            found = [e for e in self.entries(message) if e.get("request_id") == request_id]
            if found or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        [entry] = found
        return entry

    def url(self, listener="http"):
        scheme = "https" if self.tls and listener == "http" else "http"
        return f"{scheme}://localhost:{self.ports[listener]}"

    def metrics(self):
        """{'name{labels}': value}, as the metrics listener says."""
        with urllib.request.urlopen(self.url("metrics") + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    def metric(self, name, **labels):
        """The sum of the series of `name` that have these labels."""
        total = 0.0
        for series, value in self.metrics().items():
            if re.match(rf"{name}(\{{|$)", series) and all(
                    f'{key}="{text}"' in series for key, text in labels.items()):
                total += value
        return total

    def wait_metric(self, expected, name, seconds=10, **labels):
        """Waits until the metric is what is expected (a value, or a predicate)."""
        holds = expected if callable(expected) else lambda value: value == expected
        end = time.monotonic() + seconds
        while not holds(self.metric(name, **labels)):
            assert time.monotonic() < end, f"{name} {labels} is {self.metric(name, **labels)}"
            time.sleep(0.05)

    def status(self, path, listener="admin"):
        """HTTP status of a GET, errors included."""
        try:
            return urllib.request.urlopen(self.url(listener) + path, timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code

    def engine_pids(self):
        """Processes below the daemon that run as the engine."""
        return [pid for pid in descendants(self.process.pid) if b"--engine" in command_line(pid)]

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, seconds=60):
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.terminate()
        try:
            code = self.wait_exit()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        if kind is None:
            assert code == self.expect_exit, f"exit code {code}\n{self.log()}"


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid):
    """Process ids below `pid`, all generations."""
    found = []
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                found += [int(child), *descendants(int(child))]
        except OSError:
            continue
    return found


def raw_exchange(port, request, context=None, seconds=10):
    """Sends bytes to the HTTP listener and reads until it closes or an answer is whole."""
    with socket.create_connection(("localhost", port), timeout=seconds) as plain:
        stream = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        stream.sendall(request)
        answer = b""
        while True:
            piece = stream.recv(65536)
            if not piece:
                return answer
            answer += piece
