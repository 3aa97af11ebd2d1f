"""All benchmarks of a GPU host, one after the other, into one JSON.

    python3 benchmarks/run_all.py --bin FOLDER [--only step,serve] [--out FILE]

Without --out the file is benchmarks/results/<date>-<gpu>-<commit>.json. A part that fails leaves
its words in the file and makes the exit code 1; the others run. docs/performance.md is made of such
a file: benchmarks/performance.py.
"""
import argparse
import datetime
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from serve_bench import ROOT, gpu_state

STEPS = [
    "llama-8b:bf16", "1x1024,32x1024,128x1024,p8192",
    "llama-8b:fp8", "1x1024,32x1024,128x1024,p8192",
    "v2-lite:bf16", "1x1024,32x1024,p8192",
    "v2-lite:fp8", "1x1024,1x32768,8x1024,32x1024,64x1024,128x1024,256x1024,p8192",
    "v3-slice:fp8", "1x1024,32x1024",
]
# Name, program, its arguments; "JSON" becomes the file that the program writes, and a program
# without it prints its JSON, whole or a line at a time.
PARTS = [
    ("ops", "op_bench", ["--device", "cuda", "--json", "JSON"]),
    ("steps", "step_bench", ["--json", "JSON", *STEPS]),
    ("gemm", "gemm_bench", []),
    ("mla", "mla_bench", []),
    ("sample", "sample_bench", []),
    ("serve v2-lite fp8", "serve_bench.py",
     ["--preset", "v2-lite", "--dtype", "fp8", "--clients", "256,1024", "--out", "JSON"]),
    ("serve llama-8b fp8", "serve_bench.py",
     ["--preset", "llama-8b", "--dtype", "fp8", "--clients", "256,512", "--out", "JSON"]),
]


def command_of(options, program, arguments, file):
    words = [str(file) if word == "JSON" else word for word in arguments]
    if program.endswith(".py"):
        script = str(ROOT / "benchmarks" / program)
        return [sys.executable, script, "--bin", str(options.bin), *words]
    return [str(options.bin / program), *words]


def read_json(text):
    """One value, or one a line."""
    try:
        return json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]


def run_part(options, program, arguments):
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "result.json"
        command = command_of(options, program, arguments, file)
        part = {"command": " ".join([program, *arguments])}
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds)
            part["exit"] = ran.returncode
            part["result"] = read_json(file.read_text() if file.exists() else ran.stdout)
            if ran.returncode != 0:
                part["error"] = ran.stderr[-2000:]
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            part["error"] = str(error)
    part["seconds"] = round(time.monotonic() - begin, 1)
    return part


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--only", default="", help="beginnings of parts' names, with commas")
    parser.add_argument("--seconds", type=float, default=1200, help="for each part")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    wanted = tuple(options.only.split(","))
    report = {"date": datetime.date.today().isoformat(), "what": "all",
              "commit": commit() or commit_of_build(options), "gpu": gpu_state(), "parts": {}}
    file = options.out or default_file(report)
    for name, program, arguments in PARTS:
        if not name.startswith(wanted):
            continue
        print(f"== {name}", file=sys.stderr, flush=True)
        report["parts"][name] = run_part(options, program, arguments)
        file.write_text(json.dumps(report, indent=1) + "\n")  # what there is, should a part hang
    failed = [name for name, part in report["parts"].items() if "error" in part]
    print(f"{file}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
