"""The benchmarks' scripts, on the CPU and a tiny model: what they write has the figures that
benchmarks/figures.py reads. Their times say nothing here."""
import json
import os
import pathlib
import subprocess
import sys

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


def report_of(script, tmp_path, *arguments):
    out = tmp_path / "out.json"
    folder = pathlib.Path(os.environ["E2E_FATHOMD"]).parent
    ran = subprocess.run([sys.executable, BENCHMARKS / script, "--bin", folder, "--device", "cpu",
                          "--preset", "v3-tiny", "--dtype", "bf16", "--out", out, *arguments],
                         capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return json.loads(out.read_text())


def test_latencies_of_one_client_and_of_streams_beside_a_prompt(tmp_path):
    report = report_of("latency_bench.py", tmp_path, "--cases", "ttft:20,cached:300,beside:200",
                       "--streams", "4", "--rounds", "2", "--beside-rounds", "1",
                       "--calm-seconds", "0.2", "--max-model-len", "4096")
    first, cached, beside = report["cases"]
    assert 0 < first["ms_min"] <= first["ms_p50"] <= first["ms_max"]
    assert cached["ms_p50"] > 0 and cached["first_ms"] > 0
    assert beside["streams"] == 4 and len(beside["each"]) == 1
    assert beside["times_median"] > 0 and beside["prompt_ttft_ms"] > 0
    assert beside["calm_ms_p50"] <= beside["calm_ms_p99"]


def test_a_start_is_timed_from_a_checkpoint_that_is_removed(tmp_path):
    report = report_of("start_bench.py", tmp_path, "--folder", str(tmp_path), "--rounds", "1")
    assert report["bytes"] > 1_000_000
    assert 0 < report["rounds"][0]["ready_s"] < report["rounds"][0]["first_token_s"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_clients_are_served_and_counted(tmp_path):
    report = report_of("serve_bench.py", tmp_path, "--clients", "2", "--waves", "2", "--input",
                       "16", "--output", "8")
    run, = report["runs"]
    assert (run["clients"], run["requests"], run["failed"]) == (2, 4, 0)
    assert run["output_tokens"] == 32 and run["itl_ms"]["p99"] >= run["itl_ms"]["p50"]
