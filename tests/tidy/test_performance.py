#!/usr/bin/env python3
"""docs/performance.md's generator: what it makes of a result, and that it sees a stale page."""

import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import performance  # noqa: E402

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
        for figure in ("12,346", "12.5", "40.0", "1.25", "0.62", "512 W", "no such file"):
            self.assertIn(figure, text)
        drawing = xml.etree.ElementTree.fromstring(performance.PLOT.read_text())
        lines = [e for e in drawing.iter() if e.tag.endswith("polyline")]
        self.assertEqual(len(lines), 3, "steps, their floors, and serving")

    def test_a_stale_page_is_found(self):
        self.run_main("--check")  # none yet
        self.run_main()
        self.run_main("--check")
        performance.PAGE.write_text(performance.PAGE.read_text().replace("12,346", "99,999"))
        with self.assertRaises(SystemExit) as stale:
            self.run_main("--check")
        self.assertIn("performance.md", str(stale.exception))


if __name__ == "__main__":
    unittest.main()
