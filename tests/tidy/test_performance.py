#!/usr/bin/env python3
"""docs/performance.md's generator: what it makes of a result, and that it sees a stale page."""

import argparse
import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import figures  # noqa: E402
import performance  # noqa: E402
import run_all  # noqa: E402

SPREAD = {"mean": 1.0, "p50": 12.5, "p90": 2.0, "p99": 40.0, "max": 50.0}


def step(rows, step_us):
    return {"model": "v2-lite:fp8", "case": f"{rows}x1024", "step_us": step_us,
            "floor_us": step_us / 2, "times_floor": 2.0, "tokens_per_s": rows * 1e6 / step_us,
            "between_us": 3.0, "host_us": 40.0}


RESULT = {
    "date": "2026-01-02", "what": "all", "commit": "abc1234",
    "gpu": {"name": "NVIDIA H100 80GB HBM3", "driver_version": "580.1"},
    "parts": {
        "steps": {"result": {"steps": [step(1, 1250.0), step(32, 4000.0)]}},
        "packed steps": {"result": {"steps": [
            {**step(1, 987.0), "model": "llama-8b:bf16+packed", "case": "1x1024"}]}},
        "serve v2-lite fp8": {"result": {
            "model": "v2-lite", "dtype": "fp8", "input_tokens": 1000, "output_tokens": 1000,
            "runs": [{"clients": 256, "output_tokens_per_second": 12345.6, "ttft_ms": SPREAD,
                      "itl_ms": SPREAD,
                      "gpu_while_it_ran": {"clocks.sm": 1980.0, "power.draw": 512.0}},
                     {"clients": 512, "error": "not done"}]}},
        "gemm": {"error": "no such file", "seconds": 0.1},
    },
}


class Page(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        (self.root / "docs").mkdir()
        (self.root / "benchmarks/results").mkdir(parents=True)
        self.source = self.root / "benchmarks/results/2026-01-02-h100-abc1234.json"
        self.source.write_text(json.dumps(RESULT))
        for name, value in {"ROOT": self.root, "PAGE": self.root / "docs/performance.md",
                            "PLOT": self.root / "docs/performance.svg",
                            "RESULTS": self.root / "benchmarks/results"}.items():
            before = getattr(performance, name)
            self.addCleanup(setattr, performance, name, before)
            setattr(performance, name, value)

    def run_main(self, *arguments):
        before, sys.argv = sys.argv, ["performance.py", *arguments]
        try:
            performance.main()
        finally:
            sys.argv = before

    def test_figures_reach_page_and_plot(self):
        self.run_main()
        text = performance.PAGE.read_text()
        for figure in ("12,346", "12.5", "40.0", "1.25", "0.62", "512 W", "no such file", "0.99",
                       "`+packed`: with packed weights"):
            self.assertIn(figure, text)
        drawing = xml.etree.ElementTree.fromstring(performance.PLOT.read_text())
        lines = [e for e in drawing.iter() if e.tag.endswith("polyline")]
        self.assertEqual(len(lines), 4, "steps, packed ones, their floors, and serving")

    def test_every_figure_has_a_row_and_a_missed_one_its_reason(self):
        self.run_main()
        text = performance.PAGE.read_text()
        for figure in figures.FIGURES:
            self.assertEqual(text.count(f"\n| {figure.name} | "), 1, figure.name)
        self.assertIn("| 12,346 | 1.98 | must |", text)
        self.assertIn("| 3.20 | 3.20 | missed |", text)
        missed = "serve V2-Lite FP8, 256 clients: p99 of gaps between tokens over the median"
        before = figures.notes
        self.addCleanup(setattr, performance, "notes", before)
        performance.notes = lambda: {missed: {"reason": "prompts come between"}}
        self.run_main()
        self.assertIn(f"- **{missed}**: prompts come between", performance.PAGE.read_text())

    def test_notes_name_figures(self):
        names = {figure.name for figure in figures.FIGURES}
        self.assertEqual(set(figures.notes()) - names, set())

    def test_a_stale_page_is_found(self):
        self.run_main("--check")  # none yet
        self.run_main()
        self.run_main("--check")
        performance.PAGE.write_text(performance.PAGE.read_text().replace("12,346", "99,999"))
        with self.assertRaises(SystemExit) as stale:
            self.run_main("--check")
        self.assertIn("performance.md", str(stale.exception))


class RunAll(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.options = argparse.Namespace(bin=pathlib.Path(folder.name), quick=True)

    def run_script(self, text, seconds=20.0):
        program = self.options.bin / "a_bench"
        program.write_text("#!/bin/sh\n" + text)
        program.chmod(0o755)
        part = run_all.Part("a", "a_bench", ["JSON"], 60, ["--few"])
        return run_all.run_part(self.options, part, seconds)

    def test_lines_and_files_become_results(self):
        self.assertEqual(self.run_script('echo \'{"a": 1}\'; echo \'{"a": 2}\'')["result"],
                         [{"a": 1}, {"a": 2}])
        self.assertEqual(self.run_script('echo \'{"b": 3}\' > "$2"; echo talk')["result"], {"b": 3})
        self.assertNotIn("error", self.run_script('[ "$1" = --few ] && echo "{}"'))

    def test_what_was_measured_before_the_limit_is_kept(self):
        found = self.run_script('echo \'{"a": 1}\'; echo \'{"a": \'; sleep 60', 0.5)
        self.assertEqual(found["result"], [{"a": 1}])
        self.assertIn("not done within", found["error"])

    def test_a_failure_leaves_its_words(self):
        self.assertIn("no memory", self.run_script("echo no memory >&2; exit 3")["error"])
        missing = run_all.Part("b", "no_bench", [], 60)
        self.assertIn("no_bench", run_all.run_part(self.options, missing, 5)["error"])

    def test_quick_parts_fit(self):
        self.assertLessEqual(run_all.QUICK_SECONDS, 300)


if __name__ == "__main__":
    unittest.main()
