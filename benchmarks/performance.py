"""Makes docs/performance.md and docs/performance.svg of a result of run_all.py.

    python3 benchmarks/performance.py [RESULT] [--check]

RESULT defaults to the one that docs/performance.md names, or else the newest of run_all.py's under
benchmarks/results. --check changes nothing and fails when the two are not what RESULT gives.
"""
import argparse
import json
import pathlib
import re
import sys
from xml.sax.saxutils import escape

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
PLOT = ROOT / "docs/performance.svg"
RESULTS = ROOT / "benchmarks/results"
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def number(value, digits=None):
    if value is None:
        return ""
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def result_of(report, name):
    return report["parts"].get(name, {}).get("result")


def step_lines(report):
    steps = result_of(report, "steps") or {}
    return [line for line in steps.get("steps", []) if "step_us" in line]


def step_section(report):
    rows = [[s["model"], f"`{s['case']}`", number(s["step_us"] / 1e3), number(s["floor_us"] / 1e3),
             number(s["times_floor"], 2), number(s["tokens_per_s"], 0), number(s["between_us"], 1),
             number(s["host_us"], 0)] for s in step_lines(report)]
    if not rows:
        return ""
    head = ["model", "case", "ms a step", "floor, ms", "times floor", "tokens/s", "between, µs",
            "host, µs"]
    return ("## Steps\n\n`32x1024` decodes 32 sequences of 1,024 tokens, `p8192` computes a prompt "
            "of 8,192. The floor is the\nstep's least bytes at the bandwidth, or its operations at "
            "the tensor cores' rate, whichever is more.\n\n" + table(head, rows))


def serve_runs(report):
    for name in report["parts"]:
        result = result_of(report, name)
        if name.startswith("serve") and result:
            for run in result["runs"]:
                if "output_tokens_per_second" in run:
                    yield f"{result['model']} {result['dtype'] or ''}".strip(), result, run


def serve_section(report):
    rows = []
    for model, result, run in serve_runs(report):
        watched = run.get("gpu_while_it_ran", {})
        rows.append([model, f"{result['input_tokens']:,} / {result['output_tokens']:,}",
                     number(run["clients"], 0), number(run["output_tokens_per_second"], 0),
                     number(run["ttft_ms"]["p50"], 0), number(run["ttft_ms"]["p99"], 0),
                     number(run["itl_ms"]["p50"], 1), number(run["itl_ms"]["p99"], 1),
                     f"{number(watched.get('clocks.sm'), 0)} MHz, "
                     f"{number(watched.get('power.draw'), 0)} W"])
    if not rows:
        return ""
    head = ["model", "in / out", "clients", "output tokens/s", "TTFT p50, ms", "p99", "ITL p50, ms",
            "p99", "GPU meanwhile"]
    return ("## Serving\n\nThe daemon and its clients on one host, random prompts "
            "(`serve_bench.py`).\n\n" + table(head, rows))


def op_section(report):
    ops = result_of(report, "ops")
    if not ops:
        return ""
    rows = [[c["case"], number(c["us"]), number(c["floor_us"]), number(c["percent_of_floor"], 0),
             number(c["tb_per_s"], 2), number(c["tflops"], 1)]
            for c in ops["cases"] if "us" in c]
    head = ["op", "µs", "floor, µs", "% of floor", "TB/s", "TFLOPS"]
    return (f"## Ops\n\nBandwidth measured first: {ops['read_tb_per_s']:.2f} TB/s read, "
            f"{ops['copy_tb_per_s']:.2f} TB/s copied.\n\n" + table(head, rows))


def curves(report):
    """{name: [(tokens a second and user, tokens a second)]} of steps, their floors and serving."""
    found = {}
    for s in step_lines(report):
        shape = re.fullmatch(r"(\d+)x1024", s["case"])
        if not shape:
            continue
        rows = int(shape.group(1))
        for name, us in ((s["model"], s["step_us"]), (s["model"] + ", floor", s["floor_us"])):
            found.setdefault(name, []).append((1e6 / us, rows * 1e6 / us))
    for model, _, run in serve_runs(report):
        point = (1e3 / max(run["itl_ms"]["p50"], 1e-6), run["output_tokens_per_second"])
        found.setdefault(model + ", served", []).append(point)
    return {name: sorted(points) for name, points in sorted(found.items())}


def plot(lines):
    """Throughput over interactivity, both logarithmic."""
    import math
    left, top, wide, high = 70, 20, 620, 380
    points = [p for line in lines.values() for p in line]
    if not points:
        return None
    bounds = []
    for axis in (0, 1):
        logs = [math.log10(p[axis]) for p in points]
        bounds.append((math.floor(min(logs) * 2) / 2, math.ceil(max(logs) * 2) / 2 + 1e-9))

    def place(point):
        x, y = ((math.log10(v) - b[0]) / (b[1] - b[0]) for v, b in zip(point, bounds))
        return f"{left + x * wide:.1f},{top + (1 - y) * high:.1f}"

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="940" height="{top + high + 50}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#888"/>']
    for axis, (low, up) in enumerate(bounds):
        for decade in range(math.ceil(low), math.floor(up) + 1):
            part = (decade - low) / (up - low)
            text = f"{10 ** decade:,}" if decade >= 0 else f"{10 ** decade}"
            x, y = left + part * wide, top + (1 - part) * high
            where = (f'x="{x:.1f}" y="{top + high + 16}" text-anchor="middle"' if axis == 0
                     else f'x="{left - 6}" y="{y + 4:.1f}" text-anchor="end"')
            out.append(f"<text {where}>{text}</text>")
    out.append(f'<text x="{left + wide / 2}" y="{top + high + 38}" text-anchor="middle">tokens a '
               "second for each user</text>")
    out.append(f'<text transform="translate(16,{top + high / 2}) rotate(-90)" '
               'text-anchor="middle">tokens a second, all users</text>')
    bases = sorted({name.split(",")[0] for name in lines})
    for row, (name, line) in enumerate(lines.items()):
        colour = COLOURS[bases.index(name.split(",")[0]) % len(COLOURS)]
        dash = ' stroke-dasharray="5 4"' if name.endswith("floor") else ""
        path = " ".join(place(p) for p in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{dash}/>')
        size = 4 if name.endswith("served") else 2.5
        for p in line:
            x, y = place(p).split(",")
            out.append(f'<circle cx="{x}" cy="{y}" r="{size}" fill="{colour}"/>')
        y = top + 14 + row * 18
        out.append(f'<line x1="{left + wide + 15}" x2="{left + wide + 40}" y1="{y - 4}" '
                   f'y2="{y - 4}" stroke="{colour}"{dash}/>')
        out.append(f'<text x="{left + wide + 46}" y="{y}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def page(report, source, has_plot):
    gpu = report.get("gpu", {})
    parts = [f"# Performance\n\nMade by `benchmarks/performance.py` of `{source}`; do not edit. "
             f"Measured on {report['date']} at commit\n`{report['commit']}` by "
             f"`benchmarks/run_all.py` on {gpu.get('name', 'a machine without a GPU')}, driver "
             f"{gpu.get('driver_version', 'none')}. What is measured, and how, is in\n"
             "[testing.md](testing.md#benchmarks); the kernels are in [kernels/](kernels).\n"]
    if has_plot:
        parts.append("![Throughput against interactivity](performance.svg)\n")
    parts += [section for section in (serve_section(report), step_section(report),
                                      op_section(report)) if section]
    failed = [f"- {name}: {part['error'].strip().splitlines()[-1][:200]}"
              for name, part in report["parts"].items() if part.get("error", "").strip()]
    if failed:
        parts.append("## What failed\n\n" + "\n".join(failed) + "\n")
    return "\n".join(parts)


def is_of_run_all(path):
    try:
        return json.loads(path.read_text()).get("what") == "all"
    except (ValueError, AttributeError):
        return False


def choose(given):
    if given:
        return given.resolve()
    if PAGE.exists():
        named = re.search(r"of `(benchmarks/results/[^`]+)`", PAGE.read_text())
        if named:
            return ROOT / named.group(1)
    found = sorted(path for path in RESULTS.glob("*.json") if is_of_run_all(path))
    return found[-1] if found else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("result", nargs="?", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check and not PAGE.exists():
        print("no docs/performance.md yet")
        return
    source = choose(options.result)
    if source is None:
        sys.exit("no result of run_all.py under benchmarks/results")
    report = json.loads(source.read_text())
    drawing = plot(curves(report))
    name = source.relative_to(ROOT) if source.is_relative_to(ROOT) else source.name
    wanted = {PAGE: page(report, name, drawing is not None)}
    if drawing is not None:
        wanted[PLOT] = drawing
    for path, text in wanted.items():
        if options.check and (not path.exists() or path.read_text() != text):
            sys.exit(f"{path.relative_to(ROOT)} is not what {name} gives: "
                     "run benchmarks/performance.py")
        if not options.check:
            path.write_text(text)


if __name__ == "__main__":
    main()
