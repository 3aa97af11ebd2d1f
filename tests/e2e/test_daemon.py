"""The daemon's life: settings, drain, a killed engine, systemd's notifications, limits."""
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

from server import PROGRAM, Fathomd

PROMPT = "Once there was a"


def body(tokens, **more):
    return {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **more}


def tokens_lasting(daemon, seconds):
    """How many tokens take about so long, as fast as this model goes here."""
    begun = time.monotonic()
    httpx.post(daemon.url() + "/v1/completions", json=body(64), timeout=60).raise_for_status()
    return min(3500, max(64, int(64 * seconds / (time.monotonic() - begun))))


class Stream(threading.Thread):
    """Reads one completion stream in the background."""

    def __init__(self, daemon, tokens, **more):
        super().__init__(daemon=True)
        self.url = daemon.url() + "/v1/completions"
        self.body = body(tokens, stream=True, **more)
        self.text = ""
        self.status = None
        self.broken = None
        self.first = threading.Event()
        self.start()

    def run(self):
        try:
            with httpx.stream("POST", self.url, json=self.body, timeout=120) as answer:
                self.status = answer.status_code
                for piece in answer.iter_text():
                    self.text += piece
                    if "data: " in piece:
                        self.first.set()
        except httpx.HTTPError as error:
            self.broken = error
        self.first.set()

    def chunks(self):
        self.join(120)
        assert not self.is_alive() and self.broken is None, self.broken
        assert self.text.endswith("data: [DONE]\n\n") and self.text.count("[DONE]") == 1
        return [json.loads(block.removeprefix("data: ")) for block in self.text.split("\n\n")[:-2]
                if not block.startswith(":")]


# Settings.

@pytest.mark.parametrize("flags, env, named", [
    (["--port=70000"], {}, ["port", "70000", "65535"]),
    (["--no-such-flag=1"], {}, ["no-such-flag"]),
    ([], {"FATHOM_NO_SUCH": "1"}, ["FATHOM_NO_SUCH"]),
    ([], {"FATHOM_MAX_NUM_SEQS": "many"}, ["max_num_seqs", "many"]),
    (["--drain-seconds=-1"], {}, ["drain", "-1", "3600"]),
    (["--tls-cert=/nonexistent.pem"], {}, ["tls"]),
    (["--model=/nonexistent"], {}, ["/nonexistent"]),
    (["--chat-format=nonsense"], {}, ["chat", "nonsense", "deepseek-v3.1"]),
    (["--numerics=exact"], {}, ["numerics", "exact", "reference"]),
    (["--host=0.0.0.0", "--port=0"], {}, ["allow"]),
    (["--config=/nonexistent.yaml"], {}, ["/nonexistent.yaml"]),
    (["--api-key-file=/nonexistent"], {}, ["/nonexistent"]),
])
def test_bad_settings(flags, env, named):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FATHOM_")}
    done = subprocess.run([PROGRAM, *flags], env={**clean, **env}, capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 78, done.stderr
    said = done.stderr.lower().replace("-", "_")
    for word in named:
        assert word.lower().replace("-", "_") in said, done.stderr


@pytest.mark.parametrize("text, named", [
    ("server:\n  prot: 8000\n", ["prot"]),
    ("server:\n  port: high\n", ["port", "high"]),
    ("limits:\n  max_stop: 65\n", ["max_stop", "65", "64"]),
    ("server: [1\n", ["line"]),
])
def test_bad_config_file(tmp_path, text, named):
    file = tmp_path / "fathom.yaml"
    file.write_text(text)
    done = subprocess.run([PROGRAM, f"--config={file}"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 78, done.stderr
    assert all(word in done.stderr for word in named), done.stderr


def test_help_and_version():
    for flag, word in (("--help", "--max-num-seqs"), ("--version", "fathom")):
        done = subprocess.run([PROGRAM, flag], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 and word in done.stdout


# The end.

def test_sigterm_drains():
    with Fathomd("--drain-seconds=60") as daemon, httpx.Client(base_url=daemon.url()) as early:
        assert early.get("/health/ready").status_code == 200  # a connection from before
        stream = Stream(daemon, tokens_lasting(daemon, 4))
        assert stream.first.wait(30)
        daemon.terminate()
        time.sleep(0.5)
        refused = 0
        for client in (early, httpx):
            url = "/v1/completions" if client is early else daemon.url() + "/v1/completions"
            try:
                answer = client.post(url, json=body(1))
                assert answer.status_code == 503, answer.text
                assert answer.json()["error"]["code"] == "draining"
                assert int(answer.headers["retry-after"]) > 0
            except httpx.TransportError:
                refused += 1
        assert daemon.process.poll() is None, "the stream ended too early to show anything"
        chunks = stream.chunks()
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert daemon.wait_exit() == 0
        assert not daemon.engine_pids()


def test_drain_is_bounded():
    with Fathomd("--drain-seconds=1") as daemon:
        stream = Stream(daemon, 3500)
        assert stream.first.wait(30)
        begun = time.monotonic()
        daemon.terminate()
        assert daemon.wait_exit(20) == 0
        assert time.monotonic() - begun < 10
        stream.join(10)
        assert not stream.is_alive() and "[DONE]" not in stream.text.split('"error"')[0]


# The engine.

def test_killed_engine_is_started_again():
    with Fathomd() as daemon:
        expected = httpx.post(daemon.url() + "/v1/completions", json=body(8)).json()
        stream = Stream(daemon, 3000)
        assert stream.first.wait(30)
        [engine] = daemon.engine_pids()
        os.kill(engine, signal.SIGKILL)
        chunks = stream.chunks()
        error = chunks[-1]["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "server_error"
        assert sum("error" in chunk for chunk in chunks) == 1
        seen = set()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status = daemon.status("/health/ready")
            seen.add(status)
            assert daemon.status("/health/live") == 200
            if status == 200 and (503 in seen or daemon.engine_pids() not in ([engine], [])):
                break
            time.sleep(0.01)
        assert daemon.status("/health/ready") == 200 and 503 in seen
        again = httpx.post(daemon.url() + "/v1/completions", json=body(8), timeout=30).json()
        assert again["choices"] == expected["choices"]
        assert daemon.engine_pids() != [engine]


def test_prefix_cache():
    with Fathomd() as daemon:
        def ask(prompt, **more):
            answer = httpx.post(daemon.url() + "/v1/completions", timeout=60,
                                json=body(8, prompt=prompt, **more)).json()
            usage = answer["usage"]
            assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == \
                usage["prompt_tokens"]
            return usage["prompt_tokens_details"]["cached_tokens"], answer["choices"][0]["text"]
        ids = [100 + (i * 37) % 800 for i in range(220)]
        cold, text = ask(ids)
        warm, same = ask(ids)
        assert (cold, warm >= 128, same) == (0, True, text)
        branch, _ = ask(ids[:130] + [77] * 90)
        assert branch == 128
        assert ask(ids, cache_salt="mine")[0] == 0  # another identity shares nothing
        assert daemon.metric("fathom_prefix_cache_hits_total") >= warm


def test_speculation_changes_no_greedy_answer():
    texts = []
    for flags in ([], ["--speculative-tokens=1"]):
        with Fathomd(*flags) as daemon:
            answer = httpx.post(daemon.url() + "/v1/completions", json=body(48), timeout=60).json()
            assert answer["usage"]["completion_tokens"] == 48
            texts.append(answer["choices"][0]["text"])
    assert texts[0] == texts[1]


# systemd.

def test_notifications(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(path))
        inbox.settimeout(30)
        env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "2000000"}
        with Fathomd(env=env) as daemon:
            early = read_until(inbox, "READY=1")
            assert read_until(inbox, "WATCHDOG=1")
            daemon.terminate()
            late = read_until(inbox, "STOPPING=1")
            assert daemon.wait_exit() == 0
    assert any(line.startswith("STATUS=") for line in early + late)
    assert "STOPPING=1" not in early


def read_until(inbox, wanted):
    lines = []
    while wanted not in lines:
        lines += inbox.recv(4096).decode().splitlines()
    return lines


# Limits and metrics.

def test_full_queue_and_keep_alive():
    with Fathomd("--max-num-seqs=1", "--max-queued-requests=2",
                 "--keep-alive-comment-seconds=0.2", "--metrics-compat=vllm") as daemon:
        running = Stream(daemon, 3000)
        assert running.first.wait(30)
        queued = [Stream(daemon, 1), Stream(daemon, 1)]
        daemon.wait_metric(2, "fathom_requests_waiting")
        assert daemon.metric("vllm:num_requests_waiting") == 2
        answer = httpx.post(daemon.url() + "/v1/completions", json=body(1))
        assert answer.status_code == 429, answer.text
        assert answer.json()["error"]["code"] == "queue_full"
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) > 0
        time.sleep(0.8)
        assert all(": keep-alive\n\n" in stream.text for stream in queued)
        daemon.process.send_signal(signal.SIGHUP)  # no reason to end
        assert running.is_alive()
        [engine] = daemon.engine_pids()
        os.kill(engine, signal.SIGKILL)
        assert "error" in running.chunks()[-1]
        for stream in queued:  # had not begun, so that the next engine takes them
            assert stream.chunks()[-1]["choices"][0]["finish_reason"] == "length"


def test_clients_that_leave_at_once_leave_nothing():
    with Fathomd() as daemon:
        def leave(number):
            with socket.create_connection(("localhost", daemon.ports["http"]), 10) as stream:
                payload = json.dumps(body(500, stream=True)).encode()
                stream.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n"
                               b"\r\n%s" % (len(payload), payload))
                time.sleep(0.01 * (number % 10))
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(leave, range(64)))
        daemon.wait_metric(0, "fathom_requests_running")
        daemon.wait_metric(0, "fathom_requests_waiting")
        daemon.wait_metric(0, "fathom_kv_usage_ratio")
        assert httpx.post(daemon.url() + "/v1/completions", json=body(2)).status_code == 200
