"""From exec to the first token: fathomd on a checkpoint that lies in memory.

    python3 benchmarks/start_bench.py --bin FOLDER (--model DIR | --preset v2-lite --dtype bf16)
        [--folder /dev/shm] [--rounds 3] [--flags "..."]

--preset: a checkpoint of generated weights is written under --folder first, and removed at the end.
One JSON on standard output (and to --out): for each round the seconds until the server is ready and
until a client has its first token, and what the engine's log says of the parts.
"""
import argparse
import json
import pathlib
import re
import tempfile
import time
import urllib.request

from serve_bench import Server, gpu_state, make_model


def first_token(server):
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 1, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/completions",
                                     json.dumps(body).encode(),
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    return time.monotonic() - server.begin


def run_round(options, model):
    flags = [*model, "--device", options.device, *options.flags.split()]
    server = Server(options.bin / "fathomd", flags)
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


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the programs")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a checkpoint's folder")
    what.add_argument("--preset", help="of fathomctl synth, which writes one")
    parser.add_argument("--dtype", help="of fathomctl synth: bf16, fp8")
    parser.add_argument("--folder", default="/dev/shm", help="with room for what is written")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="until ready, at most")
    parser.add_argument("--flags", default="", help="more flags of fathomd, with spaces")
    parser.add_argument("--out", type=pathlib.Path)
    return parser.parse_args()


def main():
    options = parse()
    with tempfile.TemporaryDirectory(prefix="fathom-start-", dir=options.folder) as folder:
        model = make_model(options, pathlib.Path(folder), written=True)
        size = sum(file.stat().st_size for file in pathlib.Path(model[1]).glob("*.safetensors"))
        report = {"what": "start", "model": options.model or options.preset,
                  "dtype": options.dtype, "bytes": size, "gpu": gpu_state(),
                  "rounds": [run_round(options, model) for _ in range(options.rounds)]}
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
