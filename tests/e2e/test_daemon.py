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
    (["--data-parallel-size=2"], {}, ["data_parallel_size", "2", "1 replica"]),
    (["--enable-expert-parallel=false", "--tensor-parallel-size=2"], {},
     ["enable_expert_parallel", "false", "tensor_parallel_size", "true"]),
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


def test_drain_delay_serves_while_not_ready():
    with Fathomd("--drain-delay-seconds=2", "--drain-seconds=120") as daemon:
        url = daemon.url()
        assert daemon.status("/health/ready") == 200
        lasting = tokens_lasting(daemon, 8)
        daemon.terminate()
        end = time.monotonic() + 2
        while daemon.status("/health/ready") != 503:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert daemon.status("/health/live") == 200
        assert httpx.post(url + "/v1/completions", json=body(2)).status_code == 200, "still serves"
        streams = [Stream(daemon, lasting) for _ in range(3)]  # outlive the delay
        assert streams[0].first.wait(2)
        end = time.monotonic() + 10
        while (answer := httpx.post(url + "/v1/completions", json=body(1))).status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "draining"
        assert int(answer.headers["retry-after"]) > 0
        assert streams[-1].is_alive(), "the streams ended too early to show anything"
        assert daemon.metric("fathom_requests_running") >= 1, "metrics are there while it drains"
        for stream in streams:
            assert stream.chunks()[-1]["choices"][0]["finish_reason"] == "length"
        assert daemon.wait_exit() == 0


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
        assert '"code":"draining"' in stream.text.split('"error"')[1]


# The engine.

def test_a_silent_engine_is_started_again():
    with Fathomd("--watchdog-seconds=2") as daemon:
        [engine] = daemon.engine_pids()
        os.kill(engine, signal.SIGSTOP)
        begun = time.monotonic()
        daemon.wait_metric(1, "fathom_engine_restarts_total", seconds=20)
        assert time.monotonic() - begun > 1
        daemon.wait_metric(1, "fathom_engine_ready", seconds=30)
        assert daemon.engine_pids() != [engine]
        assert httpx.post(daemon.url() + "/v1/completions", json=body(2)).status_code == 200


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
        end = time.monotonic() + 10
        while not all(": keep-alive\n\n" in stream.text for stream in queued):
            assert time.monotonic() < end and running.is_alive()
            time.sleep(0.05)
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


def test_metrics_say_what_happened():
    with Fathomd("--metrics-compat=vllm", "--speculative-tokens=1") as daemon:
        url = daemon.url()
        prompt = PROMPT + " story about a fox and a hen" * 20  # over one block
        for _ in range(2):
            assert httpx.post(url + "/v1/completions", json=body(12, prompt=prompt)).is_success
        assert httpx.get(url + "/v1/models/nothing").status_code == 404
        assert httpx.get(url + "/no/such/route").status_code == 404
        assert httpx.get(url + "/v1/completions").status_code == 405
        daemon.wait_metric(2, "fathom_requests_total", outcome="length")
        for route, code, count in [("/v1/completions", 200, 2), ("/v1/completions", 405, 1),
                                   ("/v1/models/*", 404, 1), ("other", 404, 1)]:
            daemon.wait_metric(count, "fathom_http_requests_total", route=route, code=code)
        for name in ["queue_time_seconds", "prefill_time_seconds", "decode_time_seconds",
                     "inference_time_seconds", "time_per_output_token_seconds", "prompt_tokens",
                     "generation_tokens"]:
            daemon.wait_metric(2, f"fathom_request_{name}_count")
            assert daemon.metric(f"vllm:request_{name}_count") == 2
        parts = [daemon.metric(f"fathom_request_{part}_time_seconds_sum")
                 for part in ("prefill", "decode", "inference")]
        assert abs(parts[0] + parts[1] - parts[2]) < 1e-3 and min(parts) > 0
        assert daemon.metric("fathom_prompt_tokens_cached_total") >= 64
        assert daemon.metric("vllm:prompt_tokens_cached_total") >= 64
        daemon.wait_metric(lambda tokens: tokens >= 24, "fathom_generation_tokens_total")
        daemon.wait_metric(lambda steps: steps > 10, "fathom_step_seconds_count")
        steps = daemon.metric("fathom_step_seconds_count")
        assert daemon.metric("fathom_step_tokens_count") >= steps
        assert daemon.metric("fathom_step_seconds_sum") > 0
        assert daemon.metric("vllm:iteration_tokens_total_count") > 10
        drafts = daemon.metric("fathom_spec_drafts_total")
        assert 0 < drafts <= daemon.metric("vllm:spec_decode_num_draft_tokens_total")
        assert daemon.metric("vllm:spec_decode_num_drafts_total") == drafts


def test_a_client_that_leaves_is_logged():
    with Fathomd() as daemon:
        with httpx.stream("POST", daemon.url() + "/v1/completions", timeout=30,
                          headers={"x-request-id": "left-early"},
                          json=body(3000, stream=True)) as answer:
            next(answer.iter_text())
        daemon.wait_metric(1, "fathom_requests_total", outcome="cancelled")
        daemon.wait_metric(1, "fathom_http_requests_total", route="/v1/completions", code="499")
        entry = daemon.entry_of("request", "left-early")
        assert entry["status"] == 499
        assert entry["prompt_tokens"] > 0 and 0 < entry["completion_tokens"] < 3000


def test_timeout_is_bounded_by_the_request_deadline():
    with Fathomd("--request-deadline-seconds=2") as daemon:
        url = daemon.url() + "/v1/completions"
        past = httpx.post(url, json=body(1, timeout_ms=2001))
        assert past.status_code == 400 and past.json()["error"]["param"] == "timeout_ms", past.text
        assert "2000" in past.json()["error"]["message"]
        assert httpx.post(url, json=body(1, timeout_ms=2000)).status_code == 200
        begun = time.monotonic()
        late = httpx.post(url, json=body(3900), timeout=30)
        if late.status_code != 200:  # a machine this fast would answer in time
            assert late.status_code == 504, late.text
            assert late.json()["error"]["code"] == "deadline_exceeded"
            assert 1.5 < time.monotonic() - begun < 10


def test_a_request_waits_no_longer_than_queue_seconds():
    with Fathomd("--max-num-seqs=1", "--queue-seconds=1") as daemon:
        running = Stream(daemon, 3900)
        assert running.first.wait(30)
        answer = httpx.post(daemon.url() + "/v1/completions", json=body(1), timeout=30)
        assert running.is_alive(), "the running request ended too early to show anything"
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "queue_timeout"
        assert int(answer.headers["retry-after"]) > 0
        daemon.wait_metric(1, "fathom_requests_total", outcome="rejected")


def test_choices_of_one_prompt_compute_it_once():
    with Fathomd() as daemon:
        prompt = PROMPT + " story about a fox and a hen" * 40
        answer = httpx.post(daemon.url() + "/v1/completions",
                            json=body(4, prompt=prompt, n=4)).json()
        assert len({choice["text"] for choice in answer["choices"]}) == 1, "greedy: all equal"
        tokens = answer["usage"]["prompt_tokens"]
        assert tokens > 128 and answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        hits = 3 * ((tokens - 1) // 64 * 64)
        daemon.wait_metric(hits, "fathom_prefix_cache_hits_total")
        daemon.wait_metric(hits, "fathom_prompt_tokens_cached_total")
