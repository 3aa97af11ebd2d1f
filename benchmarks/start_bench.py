"""From exec to the first token: fathomd on a checkpoint that lies in memory.

    python3 benchmarks/start_bench.py --bin FOLDER --model DIR [--rounds 3] [--flags "..."]

One JSON on standard output (and to --out): for each round the seconds until the server is ready and
until a client has its first token, and what the engine's log says of the parts.
"""
import argparse
import json
import pathlib
import re
import time
import urllib.request

from serve_bench import Server, gpu_state


def first_token(server):
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/completions",
                                     json.dumps(body).encode(),
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    return time.monotonic() - server.begin


def run_round(options):
    server = Server(options.bin / "fathomd", ["--model", options.model, "--device", "cuda",
                                              *options.flags.split()])
    try:
        server.wait_ready(options.seconds)
        result = {"ready_s": server.seconds_to_ready, "first_token_s": first_token(server)}
    finally:
        server.stop()
    for line in server.lines:
        if "rank loaded" in line or "steps captured" in line:
            result.update({key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)})
    result["log"] = [line.strip() for line in server.lines
                     if re.search("starting|loading|started|rank loaded|captured|ready", line)]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="until ready, at most")
    parser.add_argument("--flags", default="", help="more flags of fathomd, with spaces")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    size = sum(file.stat().st_size for file in pathlib.Path(options.model).glob("*.safetensors"))
    report = {"what": "start", "model": options.model, "bytes": size, "gpu": gpu_state(),
              "rounds": [run_round(options) for _ in range(options.rounds)]}
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
