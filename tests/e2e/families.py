"""Every tiny checkpoint of tests/model/goldens/families through the real server, with weights from
its seed, against what transformers computed: the tokens of the greedy answer, and the largest
logits at every position (as differences of log probabilities, which are differences of logits).

    families.py [--device cuda]     all of them; test_families.py has them in pytest
    families.py --device cuda --packed
        dense ones of bfloat16 with packed weights, in native numerics
"""
import argparse
import json
import pathlib
import shutil
import struct
import tempfile
import urllib.request

from server import Fathomd, ROOT

FAMILIES = ROOT / "tests/model/goldens/families"
TOKENIZER = ROOT / "deploy/demo-model"
TOLERANCE = 2e-3  # of the logits' root mean square
NATIVE_TOLERANCE = 0.06  # likewise, where activations are bfloat16 (the CPU's: within 0.02)
MARGIN = 1e-3     # below it the two may rightly choose otherwise
PACKED = ["--numerics=native", "--pack-weights=on", "--max-num-seqs=8",
          "--max-num-batched-tokens=64"]  # of more tokens small matrices are read plain


class Golden:
    def __init__(self, path):
        data = path.read_bytes()
        _, self.seed, prompt, greedy, _, top, projections = struct.unpack_from("<7i", data)
        tokens = struct.unpack_from(f"<{prompt + greedy}i", data, 28)
        self.prompt, self.greedy = list(tokens[:prompt]), list(tokens[prompt:])
        self.positions = []
        at = 28 + 4 * len(tokens)
        for _ in range(prompt + greedy - 1):
            rms = struct.unpack_from("<2f", data, at)[1]
            values = struct.unpack_from(f"<{top}f", data, at + 8 + 4 * top)
            self.positions.append((rms, values))
            at += 8 + 8 * top + 4 * projections


def complete(daemon, **body):
    request = urllib.request.Request(daemon.url() + "/v1/completions",
                                     json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"][0]


def matches(found, expected, offset, tolerance):
    return sum(any(abs(a - b - offset) < tolerance for b in expected) for a in found)


def check_logits(entries, positions, tolerance):
    """The answer names tokens by their text, which bytes of characters share: entries may be
    missing, and the token that follows may be one more. What is left must lie at the golden's
    distances."""
    compared = 0
    for entry, (rms, values) in zip(entries, positions, strict=True):
        found = list(entry.values())
        offsets = [a - b for a in found for b in values]
        best = max(matches(found, values, offset, tolerance * rms) for offset in offsets)
        assert best >= len(found) - 1, (found, values)
        compared += best
    assert compared > 4 * len(positions)


def names():
    return sorted(path.name for path in FAMILIES.iterdir())


def packed_names():
    """Those whose every matrix can be packed, and whose tokens choose no experts."""
    return [name for name in names() if not name.startswith("v2") and not name.endswith("_fp8")]


def check_family(name, folder, device, packed=False):
    """Serves checkpoint `name` from `folder`, which is empty; raises AssertionError."""
    flags = PACKED if packed else ["--numerics=reference"]
    tolerance = NATIVE_TOLERANCE if packed else TOLERANCE
    golden = Golden(FAMILIES / name / "golden.bin")
    shutil.copy(FAMILIES / name / "config.json", folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder)
    with Fathomd("--model", str(folder), "--load-format=synthetic", f"--seed={golden.seed}",
                 *flags, f"--device={device}") as daemon:
        choice = complete(daemon, model=folder.name, prompt=golden.prompt, temperature=0,
                          max_tokens=len(golden.greedy), ignore_eos=True, return_token_ids=True)
        for i, (made, expected) in enumerate(zip(choice["token_ids"], golden.greedy, strict=True)):
            if made == expected:
                continue
            rms, values = golden.positions[len(golden.prompt) - 1 + i]
            margin = 2 * tolerance * rms if packed else MARGIN
            assert values[0] - values[1] < margin, f"token {i}"
            break
        # All tokens are forced, so that one chosen otherwise hides no other.
        tokens = golden.prompt + golden.greedy
        choice = complete(daemon, model=folder.name, prompt=tokens, max_tokens=0, echo=True,
                          logprobs=8)
        check_logits(choice["logprobs"]["top_logprobs"][1:], golden.positions, tolerance)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--packed", action="store_true")
    options = parser.parse_args()
    failed = []
    wanted = packed_names() if options.packed else names()
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            try:
                check_family(name, pathlib.Path(folder), options.device, options.packed)
            except AssertionError as error:
                failed.append(name)
                print(f"{name}: {str(error)[:500]}")
    print(f"{len(wanted) - len(failed)} of {len(wanted)} checkpoints equal transformers")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
