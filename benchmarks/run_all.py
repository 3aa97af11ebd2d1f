"""All benchmarks of a GPU host, one after the other, into one JSON.

    python3 benchmarks/run_all.py --bin FOLDER [--quick] [--total SECONDS] [--only step,serve]
                                  [--out FILE]

Without --out the file is benchmarks/results/<date>-<gpu>-<commit>.json. A part that fails, or runs
past its limit, leaves its words and what it had measured in the file and makes the exit code 1; the
others run. --quick takes at most 300 s in all: fewer rounds, and serving with many clients is cut
after some seconds. docs/performance.md is made of such a file: benchmarks/performance.py.
"""
import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from serve_bench import ROOT, gpu_state

QUICK_SECONDS = 295
STEPS = [
    "llama-8b:bf16", "1x1024,32x1024,128x1024,p8192",
    "llama-8b:fp8", "1x1024,32x1024,128x1024,p8192",
    "qwen-7b:bf16", "1x1024,32x1024,p8192",
    "v2-lite:bf16", "1x1024,32x1024,p8192",
    "v2-lite:fp8", "1x1024,1x32768,8x1024,32x1024,64x1024,128x1024,256x1024,p8192",
    "v3-slice:fp8", "1x1024,32x1024",
]
PACKED_STEPS = ["llama-8b:bf16", "1x1024,32x1024,128x1024"]


@dataclasses.dataclass
class Part:
    """`arguments`: "JSON" becomes the file that the program writes; a program without it prints its
    JSON, whole or a line at a time. `quick` is added (or its arguments taken) for --quick."""
    name: str
    program: str
    arguments: list
    seconds: float
    quick: list = dataclasses.field(default_factory=list)
    quick_seconds: float = 20


def serve(model, dtype, clients, *more):
    return ["--preset", model, "--dtype", dtype, "--clients", clients, "--out", "JSON", *more]


def latency(model, dtype, *more):
    return ["--preset", model, "--dtype", dtype, "--out", "JSON", *more]


PARTS = [
    Part("steps", "step_bench", ["--json", "JSON", *STEPS], 300, ["--seconds", "0.7"], 40),
    Part("packed steps", "step_bench", ["--pack", "1", "--json", "JSON", *PACKED_STEPS], 120,
         ["--seconds", "0.7"], 12),
    Part("serve v2-lite fp8", "serve_bench.py", serve("v2-lite", "fp8", "256,1024"), 600,
         ["--waves", "1", "--cut", "34"], 76),
    Part("serve llama-8b fp8", "serve_bench.py",
         serve("llama-8b", "fp8", "256,512", "--flags=--kv-cache-dtype=fp8"), 600,
         ["--waves", "1", "--cut", "60"], 96),
    Part("latency v2-lite fp8", "latency_bench.py",
         latency("v2-lite", "fp8", "--cases", "cached:50000,cached_text:50000,beside:32768"), 120,
         ["--rounds", "10"], 45),
    Part("latency llama-8b bf16", "latency_bench.py",
         latency("llama-8b", "bf16", "--cases", "ttft:230", "--max-model-len", "8192"), 60, [], 12),
    Part("ops", "op_bench", ["--device", "cuda", "--json", "JSON"], 300,
         ["--case", "moe V2-Lite", "--rounds", "11"], 24),
    Part("gemm", "gemm_bench", [], 120, ["--quick"], 12),
    Part("mla", "mla_bench", [], 120, [], 20),
    Part("prefill", "prefill_bench", [], 120, [], 20),
    Part("grouped", "grouped_bench", ["--quick", "--routes", "even,random"], 120,
         ["--shape", "0", "--tokens", "8192"], 12),
    Part("sample", "sample_bench", [], 60, [], 6),
    Part("serve tls v2-lite fp8", "serve_bench.py", serve("v2-lite", "fp8", "256", "--tls"), 300,
         ["--waves", "1", "--cut", "34"], 45),
    Part("serve deterministic v2-lite fp8", "serve_bench.py",
         serve("v2-lite", "fp8", "256", "--flags=--deterministic"), 300,
         ["--waves", "1", "--cut", "34"], 45),
    Part("start v2-lite bf16", "start_bench.py",
         ["--preset", "v2-lite", "--dtype", "bf16", "--out", "JSON"], 300, [], 60),
]


def command_of(options, part, file):
    words = [*part.arguments]
    if options.quick:  # before names of models: step_bench reads its options first
        words = [*part.quick, *words]
    words = [str(file) if word == "JSON" else word for word in words]
    if part.program.endswith(".py"):
        script = str(ROOT / "benchmarks" / part.program)
        return [sys.executable, script, "--bin", str(options.bin), *words]
    return [str(options.bin / part.program), *words]


def read_json(text):
    """One value, or one a line; a last line that was cut is left out."""
    try:
        return json.loads(text)
    except ValueError:
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [value for value in found if isinstance(value, dict)]


def end_group(process):
    """The part's program and what it started; they had their time to end by themselves."""
    for sign, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


def run_command(command, folder, seconds):
    """(exit code or None, standard output, standard error)"""
    with open(folder / "out", "w+") as out, open(folder / "err", "w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        end_group(process)
        return code, (folder / "out").read_text(errors="replace"), \
            (folder / "err").read_text(errors="replace")


def run_part(options, part, seconds):
    begin = time.monotonic()
    found = {"command": " ".join([part.program, *(part.quick if options.quick else []),
                                  *part.arguments])}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        file = folder / "result.json"
        try:
            code, out, err = run_command(command_of(options, part, file), folder, seconds)
            found["exit"] = code
            result = read_json(file.read_text() if file.exists() else out)
            if result:
                found["result"] = result
            if code != 0:
                why = f"not done within {seconds:.0f} s" if code is None else err[-2000:]
                found["error"] = why.strip() or f"exit code {code}"
        except OSError as error:
            found["error"] = str(error)
    found["seconds"] = round(time.monotonic() - begin, 1)
    return found


def commit():
    ran = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
                         capture_output=True, text=True)
    return ran.stdout.strip() or None


def commit_of_build(options):
    """What `fathomd --version` says: a bundle has no repository."""
    command = [str(options.bin / "fathomd"), "--version"]
    ran = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"\b[0-9a-f]{7,40}\b", ran.stdout)
    return found.group(0)[:9] if found else None


def default_file(report):
    words = report["gpu"].get("name", "no gpu").lower().replace("nvidia", "").split()
    gpu = re.sub(r"[^a-z0-9]+", "-", words[0] if words else "gpu")
    return ROOT / "benchmarks/results" / f"{report['date']}-{gpu}-{report['commit']}.json"


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--quick", action="store_true", help="at most 300 s in all")
    parser.add_argument("--only", default="", help="beginnings of parts' names, with commas")
    parser.add_argument("--total", type=float, help="seconds for all parts together")
    parser.add_argument("--out", type=pathlib.Path)
    return parser.parse_args()


def main():
    options = parse()
    wanted = tuple(options.only.split(","))
    total = options.total or (QUICK_SECONDS if options.quick else float("inf"))
    end = time.monotonic() + total
    report = {"date": datetime.date.today().isoformat(), "what": "all", "quick": options.quick,
              "commit": commit_of_build(options) or commit(), "gpu": gpu_state(), "parts": {}}
    file = (options.out or default_file(report)).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if not part.name.startswith(wanted):
            continue
        left = end - time.monotonic()
        seconds = min(part.quick_seconds if options.quick else part.seconds, left - 1)
        if seconds < 3:
            report["parts"][part.name] = {"error": "not run: no time was left"}
        else:
            report["parts"][part.name] = run_part(options, part, seconds)
        found = report["parts"][part.name]
        print(f"{part.name}: {found.get('seconds', 0)} s {found.get('error', '')[-300:]}",
              file=sys.stderr, flush=True)
        file.write_text(json.dumps(report, indent=1) + "\n")  # what there is, should a part hang
    failed = [name for name, part in report["parts"].items() if "error" in part]
    print(f"{file}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
