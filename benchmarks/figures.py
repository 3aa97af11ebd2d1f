"""The figures that one H100 is judged by: what must be reached, what is aimed at, what the memory
or the tensor cores allow, and where a result of run_all.py holds the measured value.
"""
import dataclasses
import json
import pathlib
import typing

NOTES = pathlib.Path(__file__).with_name("figure_notes.json")


@dataclasses.dataclass
class Figure:
    name: str
    unit: str
    must: typing.Optional[float]
    goal: typing.Optional[float]
    floor: typing.Optional[float]
    less_is_better: bool
    measure: typing.Callable  # report -> value, or None where the report lacks it

    def meets(self, value, bar):
        if bar is None:
            return True
        return value <= bar if self.less_is_better else value >= bar

    def times_floor(self, value):
        if not self.floor or not value:
            return None
        return value / self.floor if self.less_is_better else self.floor / value


def result_of(report, part):
    return report["parts"].get(part, {}).get("result")


def lines_of(report, part):
    found = result_of(report, part)
    return [line for line in found if isinstance(line, dict)] if isinstance(found, list) else []


def first(values):
    return next((value for value in values if value is not None), None)


def bandwidth(key, short):
    def measure(report):
        ops = result_of(report, "ops")
        ops = ops if isinstance(ops, dict) else {}
        return first([line.get(short) for line in lines_of(report, "gemm")] + [ops.get(key)])
    return measure


def skinny(format, shapes, rows_max):
    """The least bandwidth over the rows that were measured."""
    def measure(report):
        found = [line["tb_s"] for line in lines_of(report, "gemm")
                 if line.get("format") == format and (line.get("n"), line.get("k")) in shapes
                 and line.get("m", rows_max + 1) <= rows_max and "tb_s" in line]
        return min(found) if found else None
    return measure


def op(case):
    def measure(report):
        ops = result_of(report, "ops")
        cases = ops.get("cases", []) if isinstance(ops, dict) else []
        return first([c.get("us") for c in cases if c.get("case", "").startswith(case)])
    return measure


def line(part, case, key):
    def measure(report):
        return first([found.get(key) for found in lines_of(report, part)
                      if found.get("case") == case])
    return measure


def grouped(routing):
    def measure(report):
        return first([found.get("both_tflops") for found in lines_of(report, "grouped")
                      if (found.get("shape"), found.get("format"), found.get("tokens"),
                          found.get("routing")) == ("v3", "fp8", 8192, routing)])
    return measure


def sampler(name):
    def measure(report):
        found = result_of(report, "sample")
        cases = found.get("cases", {}) if isinstance(found, dict) else {}
        return cases.get(name)
    return measure


def steps_of(report):
    found = [result_of(report, part) for part in ("steps", "packed steps")]
    return [line for steps in found if isinstance(steps, dict) for line in steps.get("steps", [])]


def step(model, case, key, scale=1.0):
    def measure(report):
        return first([found[key] * scale for found in steps_of(report)
                      if (found["model"], found["case"]) == (model, case) and key in found])
    return measure


# What a step of the V3 slice has once, whatever its layers.
ONCE = ("logits", "sample", "embed", "gather_rows", "gated_linear 7168 to 36864",
        "linear 18432 to 7168")
ATTENTION = ("mla_attention", "linear 16384 to 7168", "linear 1536 to 24576",
             "linear 7168 to 2112")


def slice_layer(case):
    """Microseconds of one MoE layer with its attention: the step without what is not of the four,
    the dense layer's attention among it."""
    def measure(report):
        for found in steps_of(report):
            if (found["model"], found["case"]) != ("v3-slice:fp8", case) or "ops" not in found:
                continue
            once = sum(o["us"] for o in found["ops"] if o["op"].startswith(ONCE))
            attention = sum(o["us_each"] for o in found["ops"] if o["op"] in ATTENTION)
            return (found["gpu_us"] - once - attention) / 4
        return None
    return measure


def served(part, clients, *keys):
    def measure(report):
        found = result_of(report, part)
        runs = found.get("runs", []) if isinstance(found, dict) else []
        for run in runs:
            if run.get("clients") != clients:
                continue
            for key in keys:
                run = run.get(key) if isinstance(run, dict) else None
            return run
        return None
    return measure


def gap_ratio(part, clients):
    def measure(report):
        p99 = served(part, clients, "itl_ms", "p99")(report)
        p50 = served(part, clients, "itl_ms", "p50")(report)
        return p99 / p50 if p99 and p50 else None
    return measure


def price(part, clients):
    """Per cent of the throughput of the same load without what the part adds."""
    def measure(report):
        rate = served(part, clients, "output_tokens_per_second")(report)
        plain = served("serve v2-lite fp8", clients, "output_tokens_per_second")(report)
        return 100 * (1 - rate / plain) if rate and plain else None
    return measure


def latency(part, case, key):
    def measure(report):
        found = result_of(report, part)
        cases = found.get("cases", []) if isinstance(found, dict) else []
        return first([c.get(key) for c in cases if c.get("case") == case])
    return measure


def start(part):
    """Seconds from exec to the first token, the middle round's."""
    def measure(report):
        rounds = sorted(found["first_token_s"] for found in result_of(report, part)["rounds"])
        return rounds[len(rounds) // 2]
    return measure


V2, LLAMA = "serve v2-lite fp8", "serve llama-8b fp8"
SMALL = {(2112, 7168), (4096, 4096)}


def less(name, unit, must, goal, floor, measure):
    return Figure(name, unit, must, goal, floor, True, measure)


def more(name, unit, must, goal, floor, measure):
    return Figure(name, unit, must, goal, floor, False, measure)


def bf16_rows(batch, must, goal, floor):
    """As a server has it by default, and with the plain weights alone."""
    case = f"{batch}x1024"
    name = f"Llama-8B BF16, batch {batch}"
    return [less(f"{name}, 1k", "ms", must, goal, floor,
                 step("llama-8b:bf16+packed", case, "step_us", 1e-3)),
            less(f"{name}, 1k, --pack-weights off", "ms", None, None, floor,
                 step("llama-8b:bf16", case, "step_us", 1e-3))]


def serve_rows(part, name, clients, must, goal, floor):
    rate = more(f"serve {name}, 1000 in / 1000 out, {clients:,} clients", "tokens/s", must, goal,
                floor, served(part, clients, "output_tokens_per_second"))
    gaps = less(f"serve {name}, {clients:,} clients: p99 of gaps between tokens over the median",
                "x", 3, 1.5, 1, gap_ratio(part, clients))
    return [rate, gaps]


FIGURES = [
    more("read-only bandwidth", "TB/s", None, None, 3.35, bandwidth("read_tb_per_s", "read_tb_s")),
    more("copy bandwidth", "TB/s", None, None, 3.35, bandwidth("copy_tb_per_s", "copy_tb_s")),
    more("skinny FP8 GEMM, M 1 to 64, N 7168 K 16384 (least)", "TB/s", 2.65, 2.85, 3.0,
         skinny("fp8", {(7168, 16384)}, 64)),
    more("skinny FP8 GEMM, M 1 to 64, N 2112 K 7168 and N 4096 K 4096 (least)", "TB/s", 1.7, 2.4,
         3.0, skinny("fp8", SMALL, 64)),
    more("skinny BF16 GEMM, M 1 to 16, N 4096 K 4096 (least)", "TB/s", 2.3, 2.7, 3.0,
         skinny("bf16", {(4096, 4096)}, 16)),
    more("skinny BF16 GEMM, M 1 to 16, N 28672 K 4096 (least)", "TB/s", 2.85, 2.95, 3.0,
         skinny("bf16", {(28672, 4096)}, 16)),
    less("MoE layer V2-Lite FP8, 1 token", "µs", 45, 32, 23, op("moe V2-Lite fp8, 1 tokens")),
    less("MoE layer V2-Lite FP8, 8 tokens", "µs", 140, 119, 106, op("moe V2-Lite fp8, 8 tokens")),
    less("MoE layer V2-Lite FP8, 32 tokens", "µs", 235, 204, 182,
         op("moe V2-Lite fp8, 32 tokens")),
    more("grouped FP8 GEMM, V3's 256 experts, 8192 tokens", "TFLOPS", 900, 1150, 1380,
         grouped("even")),
    more("the same, random routes", "TFLOPS", None, None, 1380, grouped("random")),
    less("MLA decode, 16 heads, 128 x 1k, BF16 cache", "µs", 66, 57, 50,
         line("mla", "16 heads, 128 x 1k", "us")),
    less("MLA decode, 16 heads, 128 x 4k, FP8 cache", "µs", 150, 125, 115,
         line("mla", "16 heads, FP8, 128 x 4k", "us")),
    less("MLA decode, 16 heads, 128 ragged 0.1k to 8k, over bytes at 3.0 TB/s", "x", 1.5, 1.25, 1,
         line("mla", "16 heads, 128 ragged 0.1k..8k", "times_floor")),
    less("MLA decode, 128 heads, 64 x 4k, BF16 cache", "µs", 125, 110, 100,
         line("mla", "128 heads, 64 x 4k", "us")),
    more("prefill attention, GQA 32/8 of 128, 8k causal", "TFLOPS", 520, 640, 989,
         lambda report: prefill_attention(report, "gqa", 0)),
    more("prefill attention, MLA 16 heads 192/128, 8k causal", "TFLOPS", 480, 620, 989,
         lambda report: prefill_attention(report, "mla", 0)),
    more("prefill attention, MLA 16 heads, 2k on 64k cached", "TFLOPS", 450, 600, 989,
         lambda report: prefill_attention(report, "mla", 1)),
    less("sampler, top-k, top-p, temperature, 128 x 129,280", "µs", 150, 50, 23,
         sampler("top_k 50, top_p 0.9")),
    less("sampler, with penalties and 20 logprobs", "µs", 250, 80, 23,
         sampler("top_k 50, top_p 0.9, penalties, 20 logprobs")),
    *bf16_rows(1, 5.5, 5.2, 5.05),
    *bf16_rows(32, 7.0, 6.5, 6.4),
    *bf16_rows(128, 11.5, 10.8, 10.7),
    less("Llama-8B FP8, batch 1", "ms", 3.2, 2.9, 2.72,
         step("llama-8b:fp8", "1x1024", "step_us", 1e-3)),
    less("V2-Lite BF16, batch 1", "ms", 2.8, 2.0, 1.64,
         step("v2-lite:bf16", "1x1024", "step_us", 1e-3)),
    less("V2-Lite FP8, batch 1", "ms", 1.9, 1.25, 0.9,
         step("v2-lite:fp8", "1x1024", "step_us", 1e-3)),
    less("V2-Lite FP8, batch 1, 32k", "ms", 2.6, 1.7, 1.2,
         step("v2-lite:fp8", "1x32768", "step_us", 1e-3)),
    more("V2-Lite FP8, batch 128, 1k", "tokens/s", 11000, 16000, 19400,
         step("v2-lite:fp8", "128x1024", "tokens_per_s")),
    less("V3 slice FP8, one MoE layer with attention, batch 1", "µs", 300, 225, 200,
         slice_layer("1x1024")),
    less("V3 slice FP8, one MoE layer with attention, batch 32", "µs", 3200, 2750, 2480,
         slice_layer("32x1024")),
    *serve_rows(V2, "V2-Lite FP8", 256, 12000, 18000, 24400),
    *serve_rows(V2, "V2-Lite FP8", 1024, 16000, 28000, 41000),
    *serve_rows(LLAMA, "Llama-8B FP8, FP8 cache", 256, 12500, 16000, 18800),
    *serve_rows(LLAMA, "Llama-8B FP8, FP8 cache", 512, 15300, 18500, 20800),
    less("128 streams while a prompt of 32k comes: p99 of gaps over their median before", "x", 3,
         1.5, 1, latency("latency v2-lite fp8", "beside:32768", "times_median")),
    more("prefill Llama-8B FP8, 8k", "tokens/s", 42000, 58000, 84000,
         step("llama-8b:fp8", "p8192", "tokens_per_s")),
    more("prefill V2-Lite BF16, 8k", "tokens/s", 60000, 110000, 170000,
         step("v2-lite:bf16", "p8192", "tokens_per_s")),
    less("GPU idle between decode steps, batch 256", "µs", 12, 5, 0,
         step("v2-lite:fp8", "256x1024", "between_us")),
    less("host time a decode step, batch 256", "µs", 150, 50, 0,
         step("v2-lite:fp8", "256x1024", "host_us")),
    less("first token of a 230-token prompt, Llama-8B BF16, idle server", "ms", 12, 8, 5,
         latency("latency llama-8b bf16", "ttft:230", "ms_p50")),
    less("first token of a cached 50k-token prompt, V2-Lite, sent as ids", "ms", 60, 25, 8,
         latency("latency v2-lite fp8", "cached:50000", "ms_p50")),
    less("the same, sent as text", "ms", 60, 25, 8,
         latency("latency v2-lite fp8", "cached_text:50000", "ms_p50")),
    less("V2-Lite BF16 from memory, exec to first token", "s", 8, 3, 1.5,
         start("start v2-lite bf16")),
    less("price of deterministic mode in serving", "%", None, 10, 0,
         price("serve deterministic v2-lite fp8", 256)),
    less("price of TLS in serving", "%", None, 1, 0, price("serve tls v2-lite fp8", 256)),
]


def prefill_attention(report, kind, which):
    """Cases of prefill_bench that state a must, in their order; of one kind."""
    found = [case for case in lines_of(report, "prefill")
             if case.get("must") and case.get("case", "").startswith(kind)]
    return found[which].get("tflops") if which < len(found) else None


def notes():
    return json.loads(NOTES.read_text()) if NOTES.exists() else {}
