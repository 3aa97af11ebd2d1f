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

from figures import FIGURES, notes, result_of

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


def verdict(figure, value):
    if figure.must is None and figure.goal is None:
        return ""
    if figure.goal is not None and figure.meets(value, figure.goal):
        return "goal"
    return "must" if figure.meets(value, figure.must) and figure.must is not None else "missed"


def value_of(figure, report, note):
    """(value, from another run); a figure that this run lacks may be kept from one of its own."""
    try:
        value = figure.measure(report)
    except (KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError):
        value = None
    if value is not None:
        return value, False
    return note.get("measured"), note.get("measured") is not None


def figure_section(report):
    rows, reasons, kept = [], [], set()
    said = notes()
    for figure in FIGURES:
        note = said.get(figure.name, {})
        value, other = value_of(figure, report, note)
        if other:
            kept.add(note["source"])
        times = figure.times_floor(value) if value is not None else None
        judged = "not measured" if value is None else verdict(figure, value)
        shown = "" if value is None else number(value) + (" *" if other else "")
        rows.append([figure.name, figure.unit, number(figure.must), number(figure.goal),
                     number(figure.floor), shown, number(times, 2), judged])
        wanting = value is None or judged == "missed" or (times or 0) > 1.3
        if wanting and note.get("reason"):
            reasons.append(f"- **{figure.name}**: {note['reason']}")
    head = ["figure", "unit", "must", "goal", "floor", "measured", "times floor", "reached"]
    text = ("## Figures\n\nWhat one H100 must reach, what is aimed at, and the floor: bytes at "
            "3.0 TB/s, or operations at the\ntensor cores' rate." + cuts_of(report) + "\n\n"
            + table(head, rows))
    if kept:
        text += "\n\\* measured by a run of its own: " + ", ".join(
            f"`{source}`" for source in sorted(kept)) + "\n"
    if reasons:
        text += "\n### Why figures are short of their bar, or over 1.3 times their floor\n\n"
        text += "\n".join(reasons) + "\n"
    return text


def cuts_of(report):
    """Which serving runs were cut after some seconds, in words."""
    found = [f"{model} with {run['clients']:,} clients after {run['cut_after_seconds']:g} s"
             for model, _, run in serve_runs(report)
             if run.get("cut_after_seconds") and run["seconds"] >= run["cut_after_seconds"] - 0.5]
    if not found:
        return ""
    return ("\n\nServing was cut where it took longer, and what had come by then counts: "
            + "; ".join(found) + ".")


def step_lines(report):
    found = [result_of(report, part) for part in ("steps", "packed steps")]
    return [line for steps in found if isinstance(steps, dict)
            for line in steps.get("steps", []) if "step_us" in line]


def step_section(report):
    rows = [[s["model"], f"`{s['case']}`", number(s["step_us"] / 1e3), number(s["floor_us"] / 1e3),
             number(s["times_floor"], 2), number(s["tokens_per_s"], 0), number(s["between_us"], 1),
             number(s["host_us"], 0)] for s in step_lines(report)]
    if not rows:
        return ""
    packed = ""
    if any(s["model"].endswith("+packed") for s in step_lines(report)):
        packed = ("\n`+packed`: with packed weights, as a server has them by default; the floor is "
                  "that of the plain weights,\nof which such a step may read three quarters.")
    head = ["model", "case", "ms a step", "floor, ms", "times floor", "tokens/s", "between, µs",
            "host, µs"]
    return ("## Steps\n\n`32x1024` decodes 32 sequences of 1,024 tokens, `p8192` computes a prompt "
            "of 8,192. The floor is the\nstep's least bytes at the bandwidth, or its operations at "
            "the tensor cores' rate, whichever is more." + packed + "\n\n" + table(head, rows))


def serve_runs(report):
    for name in report["parts"]:
        result = result_of(report, name)
        if name.startswith("serve") and isinstance(result, dict):
            for run in result.get("runs", []):
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
    if not isinstance(ops, dict):
        return ""
    rows = [[c["case"], number(c["us"]), number(c["floor_us"]), number(c["percent_of_floor"], 0),
             number(c["tb_per_s"], 2), number(c["tflops"], 1)]
            for c in ops["cases"] if "us" in c]
    head = ["op", "µs", "floor, µs", "% of floor", "TB/s", "TFLOPS"]
    return (f"## Ops\n\nBandwidth measured first: {ops['read_tb_per_s']:.2f} TB/s read, "
            f"{ops['copy_tb_per_s']:.2f} TB/s copied.\n\n" + table(head, rows))


BREAKDOWN_OPS = 8


def breakdown_section(report):
    parts = []
    for found in step_lines(report):
        rows = [[op["op"], number(op["calls"], 0), number(op["us"]), number(op["us_each"]),
                 number(op["floor_us"]), number(op["percent_of_floor"], 0)]
                for op in found.get("ops", [])[:BREAKDOWN_OPS]]
        if rows:
            head = ["op", "calls", "µs", "µs each", "floor, µs", "% of floor"]
            parts.append(f"### {found['model']} `{found['case']}`\n\n" + table(head, rows))
    if not parts:
        return ""
    return ("## Steps, op by op\n\nThe costliest ops of each step, launched one by one with an "
            "event between two, which adds about 2 µs\nto each.\n\n" + "\n".join(parts))


def latency_section(report):
    rows = []
    for name in report["parts"]:
        result = result_of(report, name)
        if not name.startswith("latency") or not isinstance(result, dict):
            continue
        model = f"{result['model']} {result['dtype'] or ''}".strip()
        for case in result.get("cases", []):
            if "ms_p50" in case:
                rows.append([model, f"`{case['case']}`", number(case["ms_p50"]),
                             number(case["ms_p90"]), ""])
            elif "times_median" in case:
                rows.append([model, f"`{case['case']}`", number(case["prompt_ttft_ms"]), "",
                             f"{number(case['during_ms_p99'])} ms, median before "
                             f"{number(case['calm_ms_p50'])} ms"])
    if not rows:
        return ""
    head = ["model", "case", "first token, ms", "p90", "p99 of other streams' gaps"]
    return "## Latency\n\n`latency_bench.py` says what the cases are.\n\n" + table(head, rows)


def curves(report):
    """{name: [(tokens a second and user, tokens a second)]} of steps, their floors and serving."""
    found = {}
    for s in step_lines(report):
        shape = re.fullmatch(r"(\d+)x1024", s["case"])
        if not shape:
            continue
        rows = int(shape.group(1))
        lines = [(s["model"], s["step_us"]), (s["model"] + ", floor", s["floor_us"])]
        for name, us in lines[:1] if s["model"].endswith("+packed") else lines:
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
    if report.get("quick"):
        parts.append("A quick run: fewer rounds, and serving of one request a client.\n")
    if has_plot:
        parts.append("![Throughput against interactivity](performance.svg)\n")
    parts += [section for section in (
        figure_section(report), serve_section(report), latency_section(report),
        step_section(report), breakdown_section(report), op_section(report)) if section]
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
